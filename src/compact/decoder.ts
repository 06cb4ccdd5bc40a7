import { KIND, PAGE_RECORD_BYTES } from "../stream/format.ts";
import { type RecordWriter, writePageHeaders } from "./expand.ts";
import { CHECKPOINT, DISK } from "./limits.ts";
import { type Place, payloadBytesOf, readTokens, type Token } from "./tokens.ts";

/** Pages of a body whose records have their headers, and whose contents are to be read from a disk or a checkpoint. */
export interface PlaceRun extends Place {
  readonly count: number;
  /** Of the first record in the output; the others follow it. */
  readonly address: number;
}

/** What a body regenerates. */
export interface DecodedCounts {
  zeroPages: number;
  literalPages: number;
  blankPages: number;
  diskPages: number;
  checkpointPages: number;
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
  };
  /** How many blocks each disk has that both ends agreed on. */
  diskBlocks: readonly number[] = [];
  /** How many pages each checkpoint holds that the sender was told of. */
  checkpointPages: readonly number[] = [];
  readonly #writer: RecordWriter;

  constructor(writer: RecordWriter) {
    this.#writer = writer;
  }

  /**
   * The raw bytes of `body`: a view of its payload where that is all of them (nothing is moved), else `output` filled from
   * `address` on. Pages that stand on disks or in checkpoints are left to the caller.
   *
   * @param output takes at least `rawBytes` from `address` on.
   * @throws GodwitError FORM_TOKENS for tokens that are cut off, unknown, or do not add up.
   */
  decode(body: Uint8Array, tokenBytes: number, rawBytes: number, output: Uint8Array, address: number): DecodedBody {
    const sources = { [DISK]: this.diskBlocks, [CHECKPOINT]: this.checkpointPages };
    const tokens = readTokens(body, tokenBytes, rawBytes, sources);
    this.#count(tokens);
    const placeRuns: PlaceRun[] = [];
    if (body.length - tokenBytes === rawBytes) return { bytes: body.subarray(tokenBytes), placeRuns };
    let from = tokenBytes;
    let to = address;
    for (const token of tokens) {
      const { kind, count, firstPage, place } = token;
      if (kind === KIND.zero || kind === KIND.blank) {
        to = this.#writer.write(kind, output, to, firstPage, count);
      } else if (place !== undefined) {
        writePageHeaders(output, to, firstPage, count);
        placeRuns.push({ ...place, count, address: to });
        to += count * PAGE_RECORD_BYTES;
      } else {
        const bytes = payloadBytesOf(token);
        output.set(body.subarray(from, from + bytes), to);
        from += bytes;
        to += bytes;
      }
    }
    return { bytes: output.subarray(address, to), placeRuns };
  }

  #count(tokens: readonly Token[]): void {
    for (const { kind, count } of tokens) {
      if (kind === KIND.zero) this.counts.zeroPages += count;
      else if (kind === KIND.literal) this.counts.literalPages += count;
      else if (kind === KIND.blank) this.counts.blankPages += count;
      else if (kind === DISK) this.counts.diskPages += count;
      else if (kind === CHECKPOINT) this.counts.checkpointPages += count;
    }
  }
}
