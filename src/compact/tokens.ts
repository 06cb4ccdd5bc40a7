import { GodwitError } from "../errors.ts";
import { KIND, type Kind, MAX_PAGE, PAGE_RECORD_BYTES, ZERO_RECORD_BYTES } from "../stream/format.ts";
import { CHECKPOINT, DELTA, DISK, KEPT, MAX_TAGGED_PAGES, PAGE_FORMAT, RAW, SAME } from "./limits.ts";
import { TAG_BYTES } from "./page-kernels.ts";
import { unzigzag, VarintReader } from "./varint.ts";

/** Kinds whose pages stand in a disk or a checkpoint. */
export type PlaceKind = typeof DISK | typeof CHECKPOINT;
/** Kinds that are about slots of the page cache. */
export type SlotKind = typeof SAME | typeof DELTA | typeof KEPT;

/** A token of a body (docs/page-format.md). */
export interface Token {
  readonly kind: Kind | typeof RAW | PlaceKind | SlotKind;
  /** Bytes for RAW, pages for all others. */
  readonly count: number;
  readonly payloadBytes: number;
  readonly firstPage: number;
  /** Of a place: index into the disks, or the checkpoints, that both ends agreed on. */
  readonly source: number;
  /** Of a place: the first page's; of PAGE_BYTES each, from the start of the disk, or of what the checkpoint holds. */
  readonly block: number;
  /** Of SlotKind: the first page's. */
  readonly slot: number;
  /** Of places and SAME: what tells whether the pages are the right ones. */
  readonly tag: Uint8Array;
  /** Of DELTA: the bytes of each difference. */
  readonly lengths: readonly number[];
}

/** What bodies may be about. */
export interface Sources {
  /** How many blocks each disk has. */
  readonly [DISK]: readonly number[];
  /** How many pages each checkpoint holds. */
  readonly [CHECKPOINT]: readonly number[];
  /** How many slots the page cache has. */
  readonly slots: number;
}

/** @throws GodwitError FORM_TOKENS always */
export function refuseBody(why: string): never {
  throw new GodwitError("FORM_TOKENS", `the peer sent a body that can't be decoded: ${why}`);
}

/**
 * Reads and checks all tokens of a body: those that it returns add up to its payload and to `rawBytes` of output. What the slots
 * and the payload hold is not looked at.
 *
 * @throws GodwitError FORM_TOKENS for tokens that are cut off, unknown, or do not add up
 */
export function readTokens(body: Uint8Array, tokenBytes: number, rawBytes: number, sources: Sources): Token[] {
  if (tokenBytes > body.length) refuseBody("its tokens are longer than itself");
  const reader = new TokenReader(body, tokenBytes, sources);
  const tokens: Token[] = [];
  let payloadBytes = 0;
  let outputBytes = 0;
  while (!reader.isAtEnd) {
    const token = reader.next(rawBytes - outputBytes);
    tokens.push(token);
    payloadBytes += token.payloadBytes;
    outputBytes += outputBytesOf(token.kind, token.count);
  }
  if (outputBytes !== rawBytes) refuseBody("it makes fewer bytes than announced");
  if (payloadBytes !== body.length - tokenBytes) refuseBody("its payload has another length than its tokens say");
  return tokens;
}

function outputBytesOf(kind: Token["kind"], count: number): number {
  if (kind === RAW) return count;
  return count * (kind === KIND.zero ? ZERO_RECORD_BYTES : PAGE_RECORD_BYTES);
}

const NO_TAG: Uint8Array = new Uint8Array(0);
const NO_LENGTHS: readonly number[] = [];

class TokenReader {
  readonly #body: Uint8Array;
  readonly #tokenBytes: number;
  readonly #sources: Sources;
  readonly #reader: VarintReader;
  #expectedPage = 0;
  #expectedSlot = 0;
  /** Of the last token of a place. */
  #kind: PlaceKind | undefined;
  #source = 0;
  #expectedBlock = 0;

  constructor(body: Uint8Array, tokenBytes: number, sources: Sources) {
    this.#body = body;
    this.#tokenBytes = tokenBytes;
    this.#sources = sources;
    this.#reader = new VarintReader(body, 0, tokenBytes);
  }

  get isAtEnd(): boolean {
    return this.#reader.at >= this.#tokenBytes;
  }

  /** The next token, which is to make no more than `maxOutputBytes`. */
  next(maxOutputBytes: number): Token {
    const head = this.#reader.next();
    const kind = (head % 16) as Token["kind"];
    const count = Math.floor(head / 16);
    if (head < 0 || count < 1) refuseBody("a token is malformed");
    if (kind > KEPT) refuseBody(`kind ${kind} is not in version ${PAGE_FORMAT} of the page format`);
    // Before anything is done for its count.
    if (outputBytesOf(kind, count) > maxOutputBytes) refuseBody("it makes more bytes than announced");
    const token = {
      kind,
      count,
      payloadBytes: 0,
      firstPage: 0,
      source: 0,
      block: 0,
      slot: 0,
      tag: NO_TAG,
      lengths: NO_LENGTHS,
    };
    if (kind === RAW) token.payloadBytes = count;
    else token.firstPage = this.#position(count);
    if (kind === KIND.literal || kind === KEPT) token.payloadBytes = count * PAGE_RECORD_BYTES;
    if (kind === DISK || kind === CHECKPOINT) {
      token.source = this.#nextOf("a reference");
      token.block = this.#block(kind, token.source, count);
    }
    if (kind === SAME || kind === DELTA || kind === KEPT) token.slot = this.#slot(count);
    if (kind === DISK || kind === CHECKPOINT || kind === SAME) token.tag = this.#tag(count);
    if (kind === DELTA) {
      token.lengths = Array.from({ length: count }, () => this.#nextOf("a list of lengths"));
      token.payloadBytes = token.lengths.reduce((sum, length) => sum + length, 0);
    }
    return token;
  }

  #nextOf(what: string): number {
    const value = this.#reader.next();
    return value < 0 ? refuseBody(`${what} is cut off`) : value;
  }

  #position(count: number): number {
    const firstPage = this.#expectedPage + unzigzag(this.#nextOf("a token"));
    this.#expectedPage = firstPage + count;
    if (firstPage < 0 || this.#expectedPage > MAX_PAGE) refuseBody("a token's page is out of range");
    return firstPage;
  }

  #block(kind: PlaceKind, source: number, count: number): number {
    const expected = kind === this.#kind && source === this.#source ? this.#expectedBlock : 0;
    const block = expected + unzigzag(this.#nextOf("a reference"));
    const blocks = this.#sources[kind][source] ?? refuseBody("a reference is to something that was not agreed on");
    if (block < 0 || block + count > blocks) refuseBody("a reference goes beyond what it is to");
    this.#kind = kind;
    this.#source = source;
    this.#expectedBlock = block + count;
    return block;
  }

  #slot(count: number): number {
    const slot = this.#expectedSlot + unzigzag(this.#nextOf("a token"));
    this.#expectedSlot = slot + count;
    if (slot < 0 || this.#expectedSlot > this.#sources.slots) refuseBody("a slot is not in the page cache");
    return slot;
  }

  #tag(count: number): Uint8Array {
    if (count > MAX_TAGGED_PAGES) refuseBody("a token with a tag has too many pages");
    const from = this.#reader.at;
    this.#reader.at += TAG_BYTES;
    if (this.#reader.at > this.#tokenBytes) refuseBody("a tag is cut off");
    return this.#body.subarray(from, this.#reader.at);
  }
}
