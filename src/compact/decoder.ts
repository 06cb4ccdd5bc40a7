import { GodwitError } from "../errors.ts";
import { KIND, type Kind, MAX_PAGE, PAGE_RECORD_BYTES, recordBytesOf } from "../stream/format.ts";
import { type RecordWriter, writePageHeaders } from "./expand.ts";
import { DISK, MAX_DISK_RUN_PAGES, PAGE_FORMAT, RAW } from "./limits.ts";
import { TAG_BYTES } from "./page-kernels.ts";
import { unzigzag, VarintReader } from "./varint.ts";

/** Where the contents of consecutive pages stand, and what tells whether they are the right ones. */
interface DiskPlace {
  /** Index into the disks that both ends agreed on. */
  disk: number;
  /** Of PAGE_BYTES each, from the start of the disk. */
  block: number;
  tag: Uint8Array;
}

interface Token {
  kind: Kind | typeof RAW | typeof DISK;
  /** Bytes for RAW, pages for all others. */
  count: number;
  firstPage: number;
  place?: DiskPlace;
}

/** Pages of a body whose records have their headers, and whose contents are to be read from a disk. */
export interface DiskRun extends Readonly<DiskPlace> {
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
}

/** A body turned back. Both views are valid as long as the body and the output are left alone. */
export interface DecodedBody {
  /** Its raw bytes, but for the pages of `diskRuns`. */
  readonly bytes: Uint8Array;
  readonly diskRuns: readonly DiskRun[];
}

/**
 * Turns bodies back into the stream (docs/page-format.md). A body is checked whole before the first byte is written, so a
 * hostile one can make it neither write past its output nor do more work than the bytes it sent and `rawBytes` account for.
 */
export class BodyDecoder {
  readonly counts: DecodedCounts = { zeroPages: 0, literalPages: 0, blankPages: 0, diskPages: 0 };
  /** How many blocks each disk has that both ends agreed on. */
  diskBlocks: readonly number[] = [];
  readonly #writer: RecordWriter;

  constructor(writer: RecordWriter) {
    this.#writer = writer;
  }

  /**
   * The raw bytes of `body`: a view of its payload where that is all of them (nothing is moved), else `output` filled from
   * `address` on. Pages that stand on disks are left to the caller.
   *
   * @param output takes at least `rawBytes` from `address` on.
   * @throws GodwitError FORM_TOKENS for tokens that are cut off, unknown, or do not add up.
   */
  decode(body: Uint8Array, tokenBytes: number, rawBytes: number, output: Uint8Array, address: number): DecodedBody {
    const tokens = readTokens(body, tokenBytes, rawBytes, this.diskBlocks);
    this.#count(tokens);
    const diskRuns: DiskRun[] = [];
    if (body.length - tokenBytes === rawBytes) return { bytes: body.subarray(tokenBytes), diskRuns };
    let from = tokenBytes;
    let to = address;
    for (const { kind, count, firstPage, place } of tokens) {
      if (kind === KIND.zero || kind === KIND.blank) {
        to = this.#writer.write(kind, output, to, firstPage, count);
      } else if (place !== undefined) {
        writePageHeaders(output, to, firstPage, count);
        diskRuns.push({ ...place, count, address: to });
        to += count * PAGE_RECORD_BYTES;
      } else {
        const bytes = payloadBytesOf(kind, count);
        output.set(body.subarray(from, from + bytes), to);
        from += bytes;
        to += bytes;
      }
    }
    return { bytes: output.subarray(address, to), diskRuns };
  }

  #count(tokens: readonly Token[]): void {
    for (const { kind, count } of tokens) {
      if (kind === KIND.zero) this.counts.zeroPages += count;
      else if (kind === KIND.literal) this.counts.literalPages += count;
      else if (kind === KIND.blank) this.counts.blankPages += count;
      else if (kind === DISK) this.counts.diskPages += count;
    }
  }
}

function payloadBytesOf(kind: Token["kind"], count: number): number {
  if (kind === RAW) return count;
  return kind === KIND.literal ? count * recordBytesOf(kind) : 0;
}

function outputBytesOf(kind: Token["kind"], count: number): number {
  if (kind === RAW) return count;
  return count * (kind === DISK ? PAGE_RECORD_BYTES : recordBytesOf(kind));
}

function readTokens(
  body: Uint8Array,
  tokenBytes: number,
  rawBytes: number,
  diskBlocks: readonly number[],
): readonly Token[] {
  const refuse = (why: string): never => {
    throw new GodwitError("FORM_TOKENS", `the peer sent a body that can't be decoded: ${why}`, {
      tokenBytes,
      rawBytes,
    });
  };
  if (tokenBytes > body.length) refuse("its tokens are longer than itself");
  const reader = new VarintReader(body, 0, tokenBytes);
  const tokens: Token[] = [];
  let expectedPage = 0;
  let lastDisk = -1;
  let expectedBlock = 0;
  let payloadBytes = 0;
  let outputBytes = 0;

  const readPlace = (count: number): DiskPlace => {
    const disk = reader.next();
    const distance = reader.next();
    const block = (disk === lastDisk ? expectedBlock : 0) + unzigzag(distance);
    const tag = body.subarray(reader.at, reader.at + TAG_BYTES);
    reader.at += TAG_BYTES;
    if (disk < 0 || distance < 0 || reader.at > tokenBytes) refuse("a disk token is cut off");
    const blocks = diskBlocks[disk] ?? refuse("a token names a disk that was not agreed on");
    if (count > MAX_DISK_RUN_PAGES) refuse("a disk token has too many pages");
    if (block < 0 || block + count > blocks) refuse("a token's blocks are not on the disk");
    lastDisk = disk;
    expectedBlock = block + count;
    return { disk, block, tag };
  };

  while (reader.at < tokenBytes) {
    const head = reader.next();
    const kind = (head % 16) as Token["kind"];
    const count = Math.floor(head / 16);
    if (head < 0 || count < 1) refuse("a token is malformed");
    const token: Token = { kind, count, firstPage: 0 };
    if (kind === KIND.zero || kind === KIND.literal || kind === KIND.blank || kind === DISK) {
      const position = reader.next();
      token.firstPage = expectedPage + unzigzag(position);
      expectedPage = token.firstPage + count;
      if (position < 0 || token.firstPage < 0 || expectedPage > MAX_PAGE) refuse("a token's page is out of range");
      if (kind === DISK) token.place = readPlace(count);
    } else if (kind !== RAW) refuse(`kind ${kind} is not in version ${PAGE_FORMAT} of the page format`);
    tokens.push(token);
    payloadBytes += payloadBytesOf(kind, count);
    outputBytes += outputBytesOf(kind, count);
    if (outputBytes > rawBytes) refuse("it makes more bytes than announced");
  }
  if (outputBytes !== rawBytes) refuse("it makes fewer bytes than announced");
  if (payloadBytes !== body.length - tokenBytes) refuse("its payload has another length than its tokens say");
  return tokens;
}
