import { GodwitError } from "../errors.ts";
import { KIND, type Kind, MAX_PAGE, recordBytesOf } from "../stream/format.ts";
import type { RecordWriter } from "./expand.ts";
import { RAW } from "./limits.ts";
import { unzigzag, VarintReader } from "./varint.ts";

interface Token {
  kind: Kind | typeof RAW;
  count: number;
  firstPage: number;
}

/** What a body regenerates. */
export interface DecodedCounts {
  zeroPages: number;
  literalPages: number;
  blankPages: number;
}

/**
 * Turns bodies back into the stream (docs/page-format.md). A body is checked whole before the first byte is written, so a
 * hostile one can make it neither write past its output nor do more work than the bytes it sent and `rawBytes` account for.
 */
export class BodyDecoder {
  readonly counts: DecodedCounts = { zeroPages: 0, literalPages: 0, blankPages: 0 };
  readonly #writer: RecordWriter;

  constructor(writer: RecordWriter) {
    this.#writer = writer;
  }

  /**
   * The raw bytes of `body`: a view of its payload where that is all of them (nothing is moved), else `output` filled from
   * `address` on.
   *
   * @param output takes at least `rawBytes` from `address` on.
   * @throws GodwitError FORM_TOKENS for tokens that are cut off, unknown, or do not add up.
   */
  decode(body: Uint8Array, tokenBytes: number, rawBytes: number, output: Uint8Array, address: number): Uint8Array {
    const tokens = readTokens(body, tokenBytes, rawBytes);
    for (const { kind, count } of tokens) {
      if (kind === KIND.zero) this.counts.zeroPages += count;
      else if (kind === KIND.literal) this.counts.literalPages += count;
      else if (kind === KIND.blank) this.counts.blankPages += count;
    }
    if (body.length - tokenBytes === rawBytes) return body.subarray(tokenBytes);
    let from = tokenBytes;
    let to = address;
    for (const { kind, count, firstPage } of tokens) {
      if (kind === KIND.zero || kind === KIND.blank) {
        to = this.#writer.write(kind, output, to, firstPage, count);
      } else {
        const bytes = payloadBytesOf(kind, count);
        output.set(body.subarray(from, from + bytes), to);
        from += bytes;
        to += bytes;
      }
    }
    return output.subarray(address, to);
  }
}

function payloadBytesOf(kind: Token["kind"], count: number): number {
  if (kind === RAW) return count;
  return kind === KIND.literal ? count * recordBytesOf(kind) : 0;
}

function readTokens(body: Uint8Array, tokenBytes: number, rawBytes: number): Token[] {
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
  let payloadBytes = 0;
  let outputBytes = 0;
  while (reader.at < tokenBytes) {
    const head = reader.next();
    const kind = head % 16;
    const count = Math.floor(head / 16);
    if (head < 0 || count < 1) refuse("a token is malformed");
    if (kind === RAW) {
      tokens.push({ kind, count, firstPage: 0 });
      outputBytes += count;
    } else if (kind === KIND.zero || kind === KIND.literal || kind === KIND.blank) {
      const position = reader.next();
      const firstPage = expectedPage + unzigzag(position);
      if (position < 0 || firstPage < 0 || firstPage + count > MAX_PAGE) refuse("a token's page is out of range");
      tokens.push({ kind, count, firstPage });
      expectedPage = firstPage + count;
      outputBytes += count * recordBytesOf(kind);
    } else refuse(`kind ${kind} is not in version 1 of the page format`);
    payloadBytes += payloadBytesOf(tokens.at(-1)!.kind, count);
    if (outputBytes > rawBytes) refuse("it makes more bytes than announced");
  }
  if (outputBytes !== rawBytes) refuse("it makes fewer bytes than announced");
  if (payloadBytes !== body.length - tokenBytes) refuse("its payload has another length than its tokens say");
  return tokens;
}
