import { CacheForms } from "../../../src/compact/cache-forms.ts";
import { BodyDecoder, type DecodedCounts } from "../../../src/compact/decoder.ts";
import { BatchEncoder, type FormCounts } from "../../../src/compact/encoder.ts";
import { ReferenceWriter } from "../../../src/compact/expand.ts";
import { PageSlots } from "../../../src/compact/page-slots.ts";
import { xxh3Secret } from "../../../src/compact/xxh3-secret.ts";
import { createKernels } from "../../../src/migration/kernels.ts";
import type { StreamEvent } from "../../../src/stream/events.ts";
import { MAX_HELD_BYTES, StreamParser } from "../../../src/stream/parser.ts";
import { ReferenceScanner } from "../../../src/stream/scanner.ts";
import { runTag, TAG_KEY } from "./disk-bodies.ts";
import { referenceKernels } from "./reference-kernels.ts";

export interface Options {
  /** Lengths of the chunks that the stream is cut into, repeated; default: all at once. */
  cuts?: readonly number[];
  /** Kernels or the plain references. */
  kernels?: boolean;
  /** After every n-th chunk, what the parser holds back is sent ahead. */
  aheadEvery?: number;
  /** A body ends with every chunk. */
  flushes?: boolean;
  /** Of the page cache, at most MAX_SLOTS; 0: there is none. */
  slots?: number;
}

export interface Result {
  decoded: Buffer;
  events: StreamEvent[];
  counts: FormCounts;
  decodedCounts: DecodedCounts;
  bodies: Buffer[];
  /** Of each body the bytes that are tokens. */
  tokenBytes: number[];
  bodyBytes: number;
}

const MEMORY_BYTES = 8 << 20;
const OUTPUT_BYTES = 4 << 20;
export const MAX_SLOTS = 64;
const FORMS_AT = MEMORY_BYTES + OUTPUT_BYTES;
const SLOTS_AT = FORMS_AT + Math.ceil(CacheForms.memoryBytes(MAX_SLOTS) / 16) * 16;
const TOTAL_BYTES = SLOTS_AT + PageSlots.memoryBytes(MAX_SLOTS);
const kernels = createKernels(TOTAL_BYTES);

/** Encodes a stream (of at most 8 MiB) cut into chunks, decodes it again and says what was seen on the way. */
export function roundtrip(stream: Uint8Array, options: Options = {}): Result {
  const memory = options.kernels ? kernels.bytes : new Uint8Array(TOTAL_BYTES);
  const base = options.kernels ? kernels.base : 0;
  const scanner = options.kernels ? kernels.scanner : new ReferenceScanner();
  const writer = options.kernels ? kernels.writer : new ReferenceWriter();
  const pages = options.kernels ? kernels.pages : referenceKernels(memory);
  const slots = options.slots ?? 0;
  const forms = slots > 0 ? new CacheForms(pages, memory, base + FORMS_AT, slots, TAG_KEY, xxh3Secret(9n)) : undefined;
  const decoder = new BodyDecoder(writer);
  if (slots > 0) decoder.cache = new PageSlots(pages, memory, base + SLOTS_AT, slots);
  const decoded: Buffer[] = [];
  const events: StreamEvent[] = [];
  const bodies: Buffer[] = [];
  const tokenBytes: number[] = [];
  const encoder = new BatchEncoder(
    (batch) => {
      const pieces: Uint8Array[] = [batch.tokens];
      for (let i = 0; i < batch.pieces.length; i += 2)
        pieces.push(memory.subarray(batch.pieces[i], batch.pieces[i + 1]));
      const body = Buffer.concat(pieces);
      bodies.push(body);
      tokenBytes.push(batch.tokens.length);
      const output = base + MEMORY_BYTES;
      const { bytes, placeRuns } = decoder.decode(body, batch.tokens.length, batch.rawBytes, memory, output);
      for (const { tag, count, address } of placeRuns) {
        const contents = Array.from({ length: count }, (_, i) =>
          memory.subarray(address + i * 4104 + 8).subarray(0, 4096),
        );
        if (Buffer.compare(runTag(TAG_KEY, contents), tag) !== 0) throw new Error("a tag is wrong");
      }
      decoded.push(Buffer.from(bytes));
    },
    (event) => events.push(event),
    undefined,
    forms,
  );
  const parser = new StreamParser(scanner, encoder);
  const cuts = options.cuts?.length ? options.cuts : [stream.length || 1];
  let parsed = 0;
  for (let at = 0, i = 0; at < stream.length; i++) {
    const chunk = stream.subarray(at, at + Math.max(1, cuts[i % cuts.length]!));
    memory.set(chunk, base + at);
    at += chunk.length;
    parsed = parser.push(memory, base + parsed, base + at) - base;
    if (at - parsed >= MAX_HELD_BYTES) throw new Error(`the parser holds back ${at - parsed} bytes`);
    if (parser.offset !== parsed) throw new Error(`the parser says it is at ${parser.offset}, and is at ${parsed}`);
    if (options.aheadEvery && i % options.aheadEvery === 0)
      encoder.ahead(base + parsed + encoder.aheadBytes, base + at);
    if (options.flushes) encoder.flush();
  }
  encoder.ahead(base + parsed + encoder.aheadBytes, base + stream.length);
  encoder.flush();
  return {
    decoded: Buffer.concat(decoded),
    events,
    counts: encoder.counts,
    decodedCounts: decoder.counts,
    bodies,
    tokenBytes,
    bodyBytes: bodies.reduce((sum, body) => sum + body.length, 0),
  };
}
