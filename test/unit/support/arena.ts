import { randomBytes } from "node:crypto";

/** Bytes around everything that is placed; what stands there must not change. */
const GUARD_BYTES = 61;

/**
 * Places what a kernel works on in its memory, from the end down, so that the first placed ends where the memory does:
 * a byte read or written after it traps. Between the places stand guard bytes, drawn afresh.
 */
export class Arena {
  readonly #bytes: Uint8Array;
  readonly #guards: { at: number; bytes: Buffer }[] = [];
  #at: number;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#at = bytes.length;
  }

  /** The address of a copy of `content`. */
  place(content: Uint8Array): number {
    const at = this.room(content.length);
    this.#bytes.set(content, at);
    return at;
  }

  /** The address of `size` bytes of no particular content. */
  room(size: number): number {
    this.#at -= size;
    const at = this.#at;
    this.#at -= GUARD_BYTES;
    if (this.#at < 0) throw new RangeError("the arena is full");
    const bytes = randomBytes(GUARD_BYTES);
    this.#bytes.set(bytes, this.#at);
    this.#guards.push({ at: this.#at, bytes });
    return at;
  }

  /** Places numbers as u32. */
  placeWords(words: readonly number[]): number {
    return this.place(new Uint8Array(Uint32Array.from(words).buffer));
  }

  /** A copy of `size` bytes at `at`. */
  take(at: number, size: number): Uint8Array {
    return this.#bytes.slice(at, at + size);
  }

  takeWords(at: number, count: number): number[] {
    const view = new DataView(this.#bytes.buffer);
    return Array.from({ length: count }, (_, index) => view.getUint32(at + index * 4, true));
  }

  takeHashes(at: number, count: number): bigint[] {
    const view = new DataView(this.#bytes.buffer);
    return Array.from({ length: count }, (_, index) => view.getBigUint64(at + index * 8, true));
  }

  /** @throws if a guard byte was written. */
  check(): void {
    for (const { at, bytes } of this.#guards) {
      if (!bytes.equals(this.#bytes.subarray(at, at + GUARD_BYTES))) throw new Error(`a kernel wrote near ${at}`);
    }
  }
}
