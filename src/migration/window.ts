import { GodwitError } from "../errors.ts";
import { MAX_HELD_BYTES } from "../stream/parser.ts";
import type { Kernels } from "./kernels.ts";

/** The raw bytes the source keeps: what the destination has not acknowledged, and what is being read. */
export const WINDOW_BYTES = 64 * 1024 * 1024;
/** Read at most so much at once; a unix socket holds about 200 KiB. */
export const READ_BYTES = 512 * 1024;
/** Twice what one batch may regenerate (BATCH_RAW_BYTES): an open batch and one in flight always fit. */
const MIN_WINDOW_BYTES = 8 * 1024 * 1024;
/** Memory that a window of WINDOW_BYTES takes: the ring, and room in front of it (see RawWindow). */
export const WINDOW_MEMORY_BYTES = MAX_HELD_BYTES + WINDOW_BYTES;

/**
 * The raw window [floor, read) of the stream, in a ring of the kernels' memory.
 *
 * The stream is read straight into it, parsed there, and sent from there; nothing is moved. Only where the ring ends, the
 * few bytes that the parser holds back are copied in front of its start, so that what it sees is always in one piece.
 */
export class RawWindow {
  readonly bytes: Uint8Array;
  readonly #ring: number;
  readonly #capacity: number;
  /** Raw offset up to which the stream was read. */
  #read = 0;
  /** Raw offset below which bytes may be overwritten. */
  #floor = 0;
  /** Address at which the next byte of the stream is put; the ring's end counts as such until `wrap`. */
  #writeAt: number;
  /** Address of the first byte that the parser has not taken. */
  #parseAt: number;

  /**
   * @param capacity its size, WINDOW_BYTES at most
   * @throws GodwitError PEER_WINDOW when it is too small to work in
   */
  constructor(kernels: Kernels, capacity = WINDOW_BYTES) {
    if (capacity < MIN_WINDOW_BYTES) {
      throw new GodwitError("PEER_WINDOW", `the peer takes ${capacity} bytes at a time, which is too little`, {
        capacity,
      });
    }
    this.bytes = kernels.bytes;
    this.#ring = kernels.base + MAX_HELD_BYTES;
    this.#capacity = Math.min(capacity, WINDOW_BYTES);
    this.#writeAt = this.#ring;
    this.#parseAt = this.#ring;
  }

  get readOffset(): number {
    return this.#read;
  }

  /** What the parser is to see: addresses [parseAt, writeAt). */
  get parseAt(): number {
    return this.#parseAt;
  }
  get writeAt(): number {
    return this.#writeAt;
  }

  /** Where the next bytes of the stream are to be put; at most READ_BYTES, in one piece. */
  nextRegion(): Uint8Array {
    if (this.#writeAt === this.#ring + this.#capacity) this.#wrap();
    const end = Math.min(this.#writeAt + READ_BYTES, this.#ring + this.#capacity);
    return this.bytes.subarray(this.#writeAt, end);
  }

  #wrap(): void {
    const heldBytes = this.#writeAt - this.#parseAt;
    this.bytes.copyWithin(this.#ring - heldBytes, this.#parseAt, this.#writeAt);
    this.#parseAt = this.#ring - heldBytes;
    this.#writeAt = this.#ring;
  }

  /** Whether any region that nextRegion may return can be written without losing what is still needed. */
  get hasRoom(): boolean {
    return this.#capacity - (this.#read - this.#floor) >= READ_BYTES;
  }

  /** `bytes` were put into the last region. */
  commit(bytes: number): void {
    this.#read += bytes;
    this.#writeAt += bytes;
  }

  /** The parser has taken all up to address `at`. */
  parsed(at: number): void {
    this.#parseAt = at;
  }

  /** `bytes` bytes of the stream from `rawOffset` on, which must be read and not released yet: one piece, or two around the ring's end. */
  slices(rawOffset: number, bytes: number): Uint8Array[] {
    const at = rawOffset % this.#capacity;
    const first = Math.min(bytes, this.#capacity - at);
    const pieces = [this.bytes.subarray(this.#ring + at, this.#ring + at + first)];
    if (first < bytes) pieces.push(this.bytes.subarray(this.#ring, this.#ring + bytes - first));
    return pieces;
  }

  /** The same as addresses: pairs of from, to. */
  pieces(rawOffset: number, bytes: number): Uint32Array {
    const slices = this.slices(rawOffset, bytes);
    return Uint32Array.from(
      slices.flatMap(({ byteOffset, length }) => [
        byteOffset - this.bytes.byteOffset,
        byteOffset - this.bytes.byteOffset + length,
      ]),
    );
  }

  /** The destination has all up to raw offset `acked`. What the parser still holds is kept all the same. */
  release(acked: number): void {
    const heldFrom = this.#read - (this.#writeAt - this.#parseAt);
    this.#floor = Math.max(this.#floor, Math.min(acked, heldFrom));
  }
}
