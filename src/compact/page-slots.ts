import { HEADER_BYTES, PAGE_BYTES, PAGE_RECORD_BYTES } from "../stream/format.ts";
import { BATCH_RAW_BYTES, DELTA, KEPT, MAX_BODY_BYTES, SAME } from "./limits.ts";
import type { PageKernels } from "./page-kernels.ts";
import { refuseBody, type Token } from "./tokens.ts";

const WORD_BYTES = 4;
/** Deltas that a body can hold. */
const MAX_DELTAS = Math.floor(BATCH_RAW_BYTES / PAGE_RECORD_BYTES);
const SCRATCH_BYTES = MAX_BODY_BYTES + 2 * MAX_DELTAS * WORD_BYTES;

/** The receiver's page cache: what stands in which slot is as the tokens of the bodies so far say (docs/page-format.md). */
export class PageSlots {
  readonly slots: number;
  readonly #kernels: PageKernels;
  readonly #bytes: Uint8Array;
  readonly #words: DataView;
  readonly #base: number;
  readonly #isFilled: Uint8Array;
  /** The differences of the body at hand, one after the other, and their lengths. */
  readonly #differences: number;
  readonly #lengths: number;
  readonly #addresses: number;
  /** Those that were not applied yet. */
  #nextDifference = 0;
  #nextLength = 0;

  /** The memory that a cache of so many slots takes. */
  static memoryBytes(slots: number): number {
    return slots > 0 ? slots * PAGE_BYTES + SCRATCH_BYTES : 0;
  }

  /** @param base where in `bytes`, the kernels' memory, `memoryBytes(slots)` are to be used; 8-byte aligned */
  constructor(kernels: PageKernels, bytes: Uint8Array, base: number, slots: number) {
    this.#kernels = kernels;
    this.#bytes = bytes;
    this.#words = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.slots = slots;
    this.#base = base;
    this.#isFilled = new Uint8Array(slots);
    this.#lengths = base + slots * PAGE_BYTES;
    this.#addresses = this.#lengths + MAX_DELTAS * WORD_BYTES;
    this.#differences = this.#addresses + MAX_DELTAS * WORD_BYTES;
  }

  /**
   * Checks what `tokens`, which were read from `body`, would do, and takes the differences over; no slot is changed.
   *
   * @throws GodwitError FORM_TOKENS for a page from an empty slot, or a malformed difference
   */
  prepare(tokens: readonly Token[], body: Uint8Array, tokenBytes: number): void {
    let from = tokenBytes;
    let deltas = 0;
    let end = this.#differences;
    for (const { kind, slot, count, lengths, payloadBytes } of tokens) {
      if (kind === KEPT) this.#isFilled.fill(1, slot, slot + count);
      if ((kind === SAME || kind === DELTA) && this.#isFilled.subarray(slot, slot + count).includes(0))
        refuseBody("a page is said to be like one that was not kept");
      if (kind === DELTA) {
        if (end + payloadBytes > this.#differences + MAX_BODY_BYTES || deltas + count > MAX_DELTAS)
          refuseBody("it has more differences than a body can have");
        this.#bytes.set(body.subarray(from, from + payloadBytes), end);
        for (const length of lengths) this.#setWord(this.#lengths + deltas++ * WORD_BYTES, length);
        end += payloadBytes;
      }
      from += payloadBytes;
    }
    if (this.#kernels.checkDeltas(deltas, this.#differences, end, this.#lengths) !== deltas)
      refuseBody("a difference is malformed");
    this.#nextDifference = this.#differences;
    this.#nextLength = this.#lengths;
  }

  /** Puts the pages of `count` records from address `from` on into slots. */
  keep(slot: number, from: number, count: number): void {
    this.#kernels.copyPages(from + HEADER_BYTES, PAGE_RECORD_BYTES, this.#addressOf(slot), PAGE_BYTES, count);
  }

  /** Makes what slots hold newer by the next differences of the body that was prepared last. */
  update(slot: number, { lengths, payloadBytes }: Token): void {
    const count = lengths.length;
    for (let i = 0; i < count; i++) this.#setWord(this.#addresses + i * WORD_BYTES, this.#addressOf(slot + i));
    const end = this.#nextDifference + payloadBytes;
    this.#kernels.applyDeltas(this.#addresses, this.#addresses, count, this.#nextDifference, end, this.#nextLength);
    this.#nextDifference = end;
    this.#nextLength += count * WORD_BYTES;
  }

  /** Copies what slots hold into the pages of `count` records from address `to` on. */
  copyTo(slot: number, to: number, count: number): void {
    this.#kernels.copyPages(this.#addressOf(slot), PAGE_BYTES, to + HEADER_BYTES, PAGE_RECORD_BYTES, count);
  }

  #addressOf(slot: number): number {
    return this.#base + slot * PAGE_BYTES;
  }

  #setWord(at: number, value: number): void {
    this.#words.setUint32(at, value, true);
  }
}
