import type { Kind } from "../stream/format.ts";
import { BATCH_TOKEN_BYTES, DELTA, KEPT, MAX_DELTA_PAGES, RAW, SAME } from "./limits.ts";
import { TAG_BYTES } from "./page-kernels.ts";
import type { PlaceKind } from "./tokens.ts";
import { MAX_VARINT_BYTES, writeVarint, zigzag } from "./varint.ts";

/** The longest token is that of deltas: a length has two bytes at most. */
const MAX_TOKEN_BYTES = 3 * MAX_VARINT_BYTES + Math.max(MAX_VARINT_BYTES + TAG_BYTES, 2 * MAX_DELTA_PAGES);

/** Writes the tokens of one body after another into a buffer of its own (docs/page-format.md). */
export class TokenWriter {
  /** More tokens than this are never written: a token is one byte at least. */
  static readonly maxTokens = BATCH_TOKEN_BYTES + MAX_TOKEN_BYTES;
  readonly #bytes = new Uint8Array(TokenWriter.maxTokens);
  #at = 0;
  #expectedPage = 0;
  #expectedSlot = 0;
  /** Of the last place in the body. */
  #kind: PlaceKind | undefined;
  #source = 0;
  #expectedBlock = 0;

  /** Whether two more tokens fit. */
  get hasRoom(): boolean {
    return this.#at < BATCH_TOKEN_BYTES - MAX_TOKEN_BYTES;
  }

  /** The tokens of this body so far: a view, valid until the next body. */
  get bytes(): Uint8Array {
    return this.#bytes.subarray(0, this.#at);
  }

  /** Begins the next body. */
  reset(): void {
    this.#at = 0;
    this.#expectedPage = 0;
    this.#expectedSlot = 0;
    this.#kind = undefined;
  }

  raw(bytes: number): void {
    this.#varint(bytes * 16 + RAW);
  }

  pages(kind: Kind, firstPage: number, count: number): void {
    this.#head(kind, firstPage, count);
  }

  place(kind: PlaceKind, firstPage: number, count: number, source: number, block: number, tag: Uint8Array): void {
    this.#head(kind, firstPage, count);
    this.#varint(source);
    const expected = kind === this.#kind && source === this.#source ? this.#expectedBlock : 0;
    this.#varint(zigzag(block - expected));
    this.#kind = kind;
    this.#source = source;
    this.#expectedBlock = block + count;
    this.#tag(tag);
  }

  kept(firstPage: number, count: number, slot: number): void {
    this.#head(KEPT, firstPage, count);
    this.#slot(slot, count);
  }

  same(firstPage: number, count: number, slot: number, tag: Uint8Array): void {
    this.#head(SAME, firstPage, count);
    this.#slot(slot, count);
    this.#tag(tag);
  }

  deltas(firstPage: number, slot: number, lengths: readonly number[]): void {
    this.#head(DELTA, firstPage, lengths.length);
    this.#slot(slot, lengths.length);
    for (const length of lengths) this.#varint(length);
  }

  #head(kind: number, firstPage: number, count: number): void {
    this.#varint(count * 16 + kind);
    this.#varint(zigzag(firstPage - this.#expectedPage));
    this.#expectedPage = firstPage + count;
  }

  #slot(slot: number, count: number): void {
    this.#varint(zigzag(slot - this.#expectedSlot));
    this.#expectedSlot = slot + count;
  }

  #tag(tag: Uint8Array): void {
    this.#bytes.set(tag, this.#at);
    this.#at += TAG_BYTES;
  }

  #varint(value: number): void {
    this.#at = writeVarint(this.#bytes, this.#at, value);
  }
}
