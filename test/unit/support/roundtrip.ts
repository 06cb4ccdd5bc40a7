import { BodyDecoder } from "../../../src/compact/decoder.ts";
import { BatchEncoder, type FormCounts } from "../../../src/compact/encoder.ts";
import { ReferenceWriter } from "../../../src/compact/expand.ts";
import { createKernels } from "../../../src/migration/kernels.ts";
import type { StreamEvent } from "../../../src/stream/events.ts";
import { MAX_HELD_BYTES, StreamParser } from "../../../src/stream/parser.ts";
import { ReferenceScanner } from "../../../src/stream/scanner.ts";

export interface Options {
  /** Lengths of the chunks that the stream is cut into, repeated; default: all at once. */
  cuts?: readonly number[];
  /** Kernels or the plain references. */
  kernels?: boolean;
  /** After every n-th chunk, what the parser holds back is sent ahead. */
  aheadEvery?: number;
}

export interface Result {
  decoded: Buffer;
  events: StreamEvent[];
  counts: FormCounts;
  bodies: Buffer[];
  bodyBytes: number;
}

const MEMORY_BYTES = 8 << 20;
const OUTPUT_BYTES = 4 << 20;
const kernels = createKernels(MEMORY_BYTES + OUTPUT_BYTES);

/** Encodes a stream (of at most 8 MiB) cut into chunks, decodes it again and says what was seen on the way. */
export function roundtrip(stream: Uint8Array, options: Options = {}): Result {
  const memory = options.kernels ? kernels.bytes : new Uint8Array(MEMORY_BYTES + OUTPUT_BYTES);
  const base = options.kernels ? kernels.base : 0;
  const scanner = options.kernels ? kernels.scanner : new ReferenceScanner();
  const writer = options.kernels ? kernels.writer : new ReferenceWriter();
  const decoder = new BodyDecoder(writer);
  const decoded: Buffer[] = [];
  const events: StreamEvent[] = [];
  const bodies: Buffer[] = [];
  const encoder = new BatchEncoder(
    (batch) => {
      const pieces: Uint8Array[] = [batch.tokens];
      for (let i = 0; i < batch.pieces.length; i += 2)
        pieces.push(memory.subarray(batch.pieces[i], batch.pieces[i + 1]));
      const body = Buffer.concat(pieces);
      bodies.push(body);
      const { bytes } = decoder.decode(body, batch.tokens.length, batch.rawBytes, memory, base + MEMORY_BYTES);
      decoded.push(Buffer.from(bytes));
    },
    (event) => events.push(event),
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
  }
  encoder.ahead(base + parsed + encoder.aheadBytes, base + stream.length);
  encoder.flush();
  return {
    decoded: Buffer.concat(decoded),
    events,
    counts: encoder.counts,
    bodies,
    bodyBytes: bodies.reduce((sum, body) => sum + body.length, 0),
  };
}
