import type { Need, Steps } from "./nbd-steps.ts";

/** Room for many small replies at once; larger needs are read straight into their place. */
const SCRATCH_BYTES = 64 * 1024;

/** Brings what a socket reads to the steps that need it: see the `onread` option of Node's sockets. */
export class StepFeeder {
  readonly #steps: Steps<never>;
  readonly #scratch = Buffer.allocUnsafe(SCRATCH_BYTES);
  #need: Need;
  #filledBytes = 0;
  /** Where a needed number of bytes is put together when it comes in pieces. */
  #pieces = Buffer.alloc(0);
  /** Whether the socket reads straight into the place to be filled. */
  #isDirect = false;

  constructor(steps: Steps<never>) {
    this.#steps = steps;
    this.#need = steps.next().value;
  }

  /** Where the socket's next bytes go: many small replies together, or right to where a large one belongs. */
  nextBuffer(): Uint8Array {
    const need = this.#need;
    this.#isDirect = typeof need !== "number" && need.length - this.#filledBytes >= SCRATCH_BYTES;
    return this.#isDirect ? (need as Uint8Array).subarray(this.#filledBytes) : this.#scratch;
  }

  /** The socket has put `count` bytes there. @throws what the steps throw */
  onRead(count: number): void {
    if (this.#isDirect) this.#filled(count);
    else this.#feed(this.#scratch.subarray(0, count));
  }

  #feed(bytes: Buffer): void {
    for (let at = 0; at < bytes.length; ) {
      const need = this.#need;
      const isCount = typeof need === "number";
      const neededBytes = isCount ? need : need.length;
      const count = Math.min(neededBytes - this.#filledBytes, bytes.length - at);
      const piece = bytes.subarray(at, at + count);
      at += count;
      if (isCount && count === need) {
        this.#step(piece);
        continue;
      }
      if (isCount && this.#filledBytes === 0) this.#pieces = Buffer.alloc(need);
      (isCount ? this.#pieces : need).set(piece, this.#filledBytes);
      this.#filled(count);
    }
  }

  #filled(count: number): void {
    this.#filledBytes += count;
    const need = this.#need;
    if (this.#filledBytes === (typeof need === "number" ? need : need.length)) this.#step(this.#pieces);
  }

  #step(bytes: Buffer): void {
    this.#filledBytes = 0;
    this.#need = this.#steps.next(bytes).value;
  }
}
