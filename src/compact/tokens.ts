import { GodwitError } from "../errors.ts";
import { KIND, type Kind, MAX_PAGE, PAGE_RECORD_BYTES, recordBytesOf } from "../stream/format.ts";
import { CHECKPOINT, DISK, MAX_TAGGED_PAGES, PAGE_FORMAT, RAW } from "./limits.ts";
import { TAG_BYTES } from "./page-kernels.ts";
import { unzigzag, VarintReader } from "./varint.ts";

/** Where the contents of consecutive pages stand, and what tells whether they are the right ones. */
export interface Place {
  readonly kind: typeof DISK | typeof CHECKPOINT;
  /** Index into the disks, or the checkpoints, that both ends agreed on. */
  readonly source: number;
  /** Of PAGE_BYTES each, from the start of the disk or of what the checkpoint holds. */
  readonly block: number;
  readonly tag: Uint8Array;
}

/** A token of a body (docs/page-format.md). */
export interface Token {
  readonly kind: Kind | typeof RAW | typeof DISK | typeof CHECKPOINT;
  /** Bytes for RAW, pages for all others. */
  readonly count: number;
  readonly firstPage: number;
  readonly place?: Place;
}

/** What bodies may refer to: how many blocks each disk has, and how many pages each checkpoint. */
export interface Sources {
  readonly [DISK]: readonly number[];
  readonly [CHECKPOINT]: readonly number[];
}

/** The bytes of the payload that a token takes. */
export function payloadBytesOf({ kind, count }: Token): number {
  if (kind === RAW) return count;
  return kind === KIND.literal ? count * PAGE_RECORD_BYTES : 0;
}

function outputBytesOf({ kind, count }: Token): number {
  if (kind === RAW) return count;
  return count * (kind === KIND.zero ? recordBytesOf(kind) : PAGE_RECORD_BYTES);
}

/**
 * Reads and checks all tokens of a body: those that it returns add up to its payload and to `rawBytes` of output.
 *
 * @throws GodwitError FORM_TOKENS for tokens that are cut off, unknown, or do not add up
 */
export function readTokens(body: Uint8Array, tokenBytes: number, rawBytes: number, sources: Sources): readonly Token[] {
  return new TokenReader(body, tokenBytes, rawBytes, sources).read();
}

class TokenReader {
  readonly #body: Uint8Array;
  readonly #tokenBytes: number;
  readonly #rawBytes: number;
  readonly #sources: Sources;
  readonly #reader: VarintReader;
  #expectedPage = 0;
  #lastPlace: Place | undefined;
  #expectedBlock = 0;

  constructor(body: Uint8Array, tokenBytes: number, rawBytes: number, sources: Sources) {
    this.#body = body;
    this.#tokenBytes = tokenBytes;
    this.#rawBytes = rawBytes;
    this.#sources = sources;
    this.#reader = new VarintReader(body, 0, tokenBytes);
  }

  read(): readonly Token[] {
    if (this.#tokenBytes > this.#body.length) this.#refuse("its tokens are longer than itself");
    const tokens: Token[] = [];
    let payloadBytes = 0;
    let outputBytes = 0;
    while (this.#reader.at < this.#tokenBytes) {
      const token = this.#token();
      tokens.push(token);
      payloadBytes += payloadBytesOf(token);
      outputBytes += outputBytesOf(token);
      if (outputBytes > this.#rawBytes) this.#refuse("it makes more bytes than announced");
    }
    if (outputBytes !== this.#rawBytes) this.#refuse("it makes fewer bytes than announced");
    if (payloadBytes !== this.#body.length - this.#tokenBytes)
      this.#refuse("its payload has another length than its tokens say");
    return tokens;
  }

  #token(): Token {
    const head = this.#reader.next();
    const kind = (head % 16) as Token["kind"];
    const count = Math.floor(head / 16);
    if (head < 0 || count < 1) this.#refuse("a token is malformed");
    switch (kind) {
      case RAW:
        return { kind, count, firstPage: 0 };
      case KIND.zero:
      case KIND.literal:
      case KIND.blank:
        return { kind, count, firstPage: this.#position(count) };
      case DISK:
      case CHECKPOINT:
        return { kind, count, firstPage: this.#position(count), place: this.#place(kind, count) };
      default:
        return this.#refuse(`kind ${kind} is not in version ${PAGE_FORMAT} of the page format`);
    }
  }

  #position(count: number): number {
    const position = this.#reader.next();
    const firstPage = this.#expectedPage + unzigzag(position);
    this.#expectedPage = firstPage + count;
    if (position < 0 || firstPage < 0 || this.#expectedPage > MAX_PAGE) this.#refuse("a token's page is out of range");
    return firstPage;
  }

  #place(kind: Place["kind"], count: number): Place {
    const source = this.#reader.next();
    const distance = this.#reader.next();
    if (source < 0 || distance < 0) this.#refuse("a reference is cut off");
    const last = this.#lastPlace;
    const expected = last?.kind === kind && last.source === source ? this.#expectedBlock : 0;
    const block = expected + unzigzag(distance);
    const blocks = this.#sources[kind][source] ?? this.#refuse("a reference is to something that was not agreed on");
    if (block < 0 || block + count > blocks) this.#refuse("a reference goes beyond what it is to");
    this.#expectedBlock = block + count;
    this.#lastPlace = { kind, source, block, tag: this.#tag(count) };
    return this.#lastPlace;
  }

  #tag(count: number): Uint8Array {
    if (count > MAX_TAGGED_PAGES) this.#refuse("a token with a tag has too many pages");
    const from = this.#reader.at;
    this.#reader.at += TAG_BYTES;
    if (this.#reader.at > this.#tokenBytes) this.#refuse("a tag is cut off");
    return this.#body.subarray(from, this.#reader.at);
  }

  #refuse(why: string): never {
    throw new GodwitError("FORM_TOKENS", `the peer sent a body that can't be decoded: ${why}`, {
      tokenBytes: this.#tokenBytes,
      rawBytes: this.#rawBytes,
    });
  }
}
