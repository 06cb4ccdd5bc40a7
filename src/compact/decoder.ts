import { KIND, PAGE_RECORD_BYTES } from "../stream/format.ts";
import { type RecordWriter, writePageHeaders } from "./expand.ts";
import { CHECKPOINT, DELTA, DISK, KEPT, RAW, SAME } from "./limits.ts";
import type { PageSlots } from "./page-slots.ts";
import { type PlaceKind, readTokens, type SlotKind, type Token } from "./tokens.ts";

/**
 * Pages of a body whose contents are to be checked by a tag. Their records have their headers. The contents of SAME stand there
 * too; those of other kinds are to be read from where they are said to be.
 */
export interface PlaceRun {
  readonly kind: PlaceKind | typeof SAME;
  /** Index into the disks, or the checkpoints, that both ends agreed on. */
  readonly source: number;
  /** Of PAGE_BYTES each, from the start of the disk or of what the checkpoint holds. */
  readonly block: number;
  readonly tag: Uint8Array;
  readonly count: number;
  /** Of the first record in the output; the others follow it. */
  readonly address: number;
}

/** What a body regenerates. */
export interface DecodedCounts {
  zeroPages: number;
  /** Those that were put into the page cache included. */
  literalPages: number;
  blankPages: number;
  diskPages: number;
  checkpointPages: number;
  samePages: number;
  deltaPages: number;
}

/** A body turned back. Both views are valid as long as the body and the output are left alone. */
export interface DecodedBody {
  /** Its raw bytes, but for the pages of `placeRuns`. */
  readonly bytes: Uint8Array;
  readonly placeRuns: readonly PlaceRun[];
}

/**
 * Turns bodies back into the stream (docs/page-format.md). A body is checked whole before the first byte is written, so a
 * hostile one can make it neither write past its output nor do more work than the bytes it sent and `rawBytes` account for.
 */
export class BodyDecoder {
  readonly counts: DecodedCounts = {
    zeroPages: 0,
    literalPages: 0,
    blankPages: 0,
    diskPages: 0,
    checkpointPages: 0,
    samePages: 0,
    deltaPages: 0,
  };
  /** How many blocks each disk has that both ends agreed on. */
  diskBlocks: readonly number[] = [];
  /** How many pages each checkpoint holds that the sender was told of. */
  checkpointPages: readonly number[] = [];
  /** The page cache, in the memory that `decode` writes to. */
  cache: PageSlots | undefined;
  readonly #writer: RecordWriter;

  constructor(writer: RecordWriter) {
    this.#writer = writer;
  }

  /**
   * The raw bytes of `body`: a view of its payload where that is all of them (nothing is moved), else `output` filled from
   * `address` on. Pages that stand on disks or in checkpoints are left to the caller. Bodies are given in the order of the stream.
   *
   * @param output takes at least `rawBytes` from `address` on.
   * @throws GodwitError FORM_TOKENS for tokens that are cut off, unknown, or do not add up.
   */
  decode(body: Uint8Array, tokenBytes: number, rawBytes: number, output: Uint8Array, address: number): DecodedBody {
    const { diskBlocks, checkpointPages, cache } = this;
    const sources = { [DISK]: diskBlocks, [CHECKPOINT]: checkpointPages, slots: cache?.slots ?? 0 };
    const tokens = readTokens(body, tokenBytes, rawBytes, sources);
    cache?.prepare(tokens, body, tokenBytes);
    this.#count(tokens);
    const placeRuns: PlaceRun[] = [];
    if (tokens.every(({ kind }) => kind === RAW || kind === KIND.literal))
      return { bytes: body.subarray(tokenBytes), placeRuns };
    let from = tokenBytes;
    let to = address;
    for (const token of tokens) {
      const { kind, count, firstPage, payloadBytes, source, block, tag } = token;
      if (kind === KIND.zero || kind === KIND.blank) {
        to = this.#writer.write(kind, output, to, firstPage, count);
      } else if (kind === RAW || kind === KIND.literal || kind === KEPT) {
        output.set(body.subarray(from, from + payloadBytes), to);
        if (kind === KEPT) cache!.keep(token.slot, to, count);
        to += payloadBytes;
      } else {
        writePageHeaders(output, to, firstPage, count);
        if (kind === SAME || kind === DELTA) this.#fill(kind, token, to);
        if (kind !== DELTA) placeRuns.push({ kind, source, block, tag, count, address: to });
        to += count * PAGE_RECORD_BYTES;
      }
      from += payloadBytes;
    }
    return { bytes: output.subarray(address, to), placeRuns };
  }

  #fill(kind: SlotKind, token: Token, address: number): void {
    if (kind === DELTA) this.cache!.update(token.slot, token);
    this.cache!.copyTo(token.slot, address, token.count);
  }

  #count(tokens: readonly Token[]): void {
    for (const { kind, count } of tokens) {
      if (kind === KIND.zero) this.counts.zeroPages += count;
      else if (kind === KIND.literal || kind === KEPT) this.counts.literalPages += count;
      else if (kind === KIND.blank) this.counts.blankPages += count;
      else if (kind === DISK) this.counts.diskPages += count;
      else if (kind === CHECKPOINT) this.counts.checkpointPages += count;
      else if (kind === SAME) this.counts.samePages += count;
      else if (kind === DELTA) this.counts.deltaPages += count;
    }
  }
}
