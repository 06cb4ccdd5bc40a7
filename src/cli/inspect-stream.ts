import { type FileHandle, open } from "node:fs/promises";
import { isatty } from "node:tty";
import { promisify } from "node:util";
import { zstdCompress } from "node:zlib";
import type { Batch } from "../compact/batch-writer.ts";
import { CacheForms } from "../compact/cache-forms.ts";
import { BatchEncoder, type FormCounts, type References } from "../compact/encoder.ts";
import { PAGE_FORMAT } from "../compact/limits.ts";
import { TAG_KEY_BYTES } from "../compact/page-kernels.ts";
import { type IndexedPlaces, PlaceMatcher, placeMatcherBytes } from "../compact/place-matcher.ts";
import { xxh3Secret } from "../compact/xxh3-secret.ts";
import { GodwitError, messageOf } from "../errors.ts";
import { createKernels } from "../migration/kernels.ts";
import { RawWindow } from "../migration/window.ts";
import { zstdOptions } from "../migration/workers/job.ts";
import type { StreamHandler } from "../stream/events.ts";
import type { Inspection } from "../stream/inspection.ts";
import { StreamInspector } from "../stream/inspector.ts";
import { MAX_HELD_BYTES, StreamParser } from "../stream/parser.ts";

/** Bytes kept: more than a batch can span (BATCH_RAW_BYTES) and a read, as zstd is given batches from here. */
const WINDOW_BYTES = 8 * 1024 * 1024;
/** Slots of the page cache: 512 MiB, what `send` takes for a VM of 1 GiB or more. */
const CACHE_PAGES = 131_072;
/** Batches packed at the same time: Node's thread pool has four threads. */
const MAX_PACKING = 4;

const compress = promisify(zstdCompress);

/** How the stream would look on the wire (docs/page-format.md), the messages' headers left out. */
export interface PageFormatReport {
  version: number;
  batches: number;
  tokenBytes: number;
  payloadBytes: number;
  /** Pages by form; those of literal pages that only a ramblock's name kept from being looked at are raw. */
  pages: Omit<FormCounts, "rawBytes" | "deltaBytes">;
  /** Tokens and payload, each batch packed with zstd where that makes it smaller; null if it was not tried. */
  zstdBytes: number | null;
}

/** The document of `godwit inspect --json`. */
export type StreamReport = Inspection & { pageFormat: PageFormatReport };

/** Puts the next bytes into `region` and returns how many; 0 at the end. */
export type Read = (region: Uint8Array) => Promise<number>;

export interface InspectOptions {
  /** Also pack batches with zstd. */
  readonly zstd?: boolean;
  /** Where pages may be found. */
  readonly places?: readonly IndexedPlaces[];
}

/** Reads a stream to its end and says what it holds, in memory that does not grow with it. */
export async function inspectStream(
  read: Read,
  { zstd = false, places = [] }: InspectOptions = {},
): Promise<StreamReport> {
  const cacheBytes = CacheForms.memoryBytes(CACHE_PAGES);
  const kernels = createKernels(MAX_HELD_BYTES + WINDOW_BYTES + cacheBytes + placeMatcherBytes(places.length));
  const { pages, bytes, base } = kernels;
  const window = new RawWindow(kernels, WINDOW_BYTES);
  const pageFormat = new PageFormatMeter(bytes, zstd);
  const cacheAt = base + MAX_HELD_BYTES + WINDOW_BYTES;
  const [key, secret] = [new Uint8Array(TAG_KEY_BYTES), xxh3Secret(0n)]; // nothing of it is sent
  const cache = new CacheForms(pages, bytes, cacheAt, CACHE_PAGES, key, secret);
  const matcher = new PlaceMatcher(pages, bytes, cacheAt + cacheBytes, places, key);
  const references: References = { match: (from, records) => matcher.match(from, records), referred: () => {} };
  const encoder = new BatchEncoder((batch) => pageFormat.add(batch), undefined, references, cache);
  const inspector = new StreamInspector(kernels.bytes);
  const parser = new StreamParser(kernels.scanner, both(inspector, encoder));
  for (;;) {
    const bytes = await read(window.nextRegion());
    if (bytes === 0) break;
    window.commit(bytes);
    window.parsed(parser.push(window.bytes, window.parseAt, window.writeAt));
    await pageFormat.settled(MAX_PACKING);
  }
  encoder.ahead(window.parseAt, window.writeAt);
  encoder.flush();
  await pageFormat.settled(0);
  const { rawBytes: _raw, deltaBytes: _delta, ...forms } = encoder.counts;
  return { ...inspector.finish(window.writeAt - window.parseAt), pageFormat: { ...pageFormat.report, pages: forms } };
}

/**
 * Like {@link inspectStream}, of a file, or of standard input for "-".
 *
 * @throws CLI_INSPECT_UNREADABLE, CLI_INSPECT_EMPTY
 */
export async function inspectFile(path: string, options: InspectOptions): Promise<StreamReport> {
  const report = path === "-" ? await inspectInput(options) : await inspectPath(path, options);
  if (report.bytes === 0) throw new GodwitError("CLI_INSPECT_EMPTY", `${nameOf(path)} is empty`, { path });
  return report;
}

/** How messages call what is inspected. */
export function nameOf(path: string): string {
  return path === "-" ? "standard input" : path;
}

async function inspectPath(path: string, options: InspectOptions): Promise<StreamReport> {
  await using file = await opened(path);
  return await inspectStream(async (region) => {
    try {
      return (await file.read(region)).bytesRead;
    } catch (cause) {
      throw unreadable(path, cause);
    }
  }, options);
}

async function opened(path: string): Promise<FileHandle> {
  try {
    return await open(path);
  } catch (cause) {
    throw unreadable(path, cause);
  }
}

/** Standard input may be anything, also non-blocking; so it is read as a stream and copied. */
function inspectInput(options: InspectOptions): Promise<StreamReport> {
  if (isatty(0)) {
    throw new GodwitError("CLI_INSPECT_UNREADABLE", "standard input is a terminal: pipe a stream into it");
  }
  const chunks: AsyncIterator<Buffer> = process.stdin[Symbol.asyncIterator]();
  let chunk = new Uint8Array(0);
  return inspectStream(async (region) => {
    try {
      if (chunk.length === 0) chunk = (await chunks.next()).value ?? chunk;
    } catch (cause) {
      throw unreadable("-", cause);
    }
    const taken = chunk.subarray(0, region.length);
    region.set(taken);
    chunk = chunk.subarray(taken.length);
    return taken.length;
  }, options);
}

const REASONS: Readonly<Record<string, string>> = {
  ENOENT: "does not exist",
  EISDIR: "is a directory",
  EACCES: "may not be read by this user",
};

function unreadable(path: string, cause: unknown): GodwitError {
  const reason = REASONS[(cause as NodeJS.ErrnoException).code ?? ""] ?? `can't be read: ${messageOf(cause)}`;
  return new GodwitError("CLI_INSPECT_UNREADABLE", `${nameOf(path)} ${reason}`, { path }, { cause });
}

function both(first: StreamHandler, second: StreamHandler): StreamHandler {
  return {
    raw(from, to) {
      first.raw(from, to);
      second.raw(from, to);
    },
    pages(kind, from, to, firstPage, records, block) {
      first.pages(kind, from, to, firstPage, records, block);
      second.pages(kind, from, to, firstPage, records, block);
    },
    event(event) {
      first.event?.(event);
      second.event?.(event);
    },
  };
}

/** Adds up batches, packed if wanted. */
class PageFormatMeter {
  readonly report: Omit<PageFormatReport, "pages">;
  readonly #memory: Uint8Array;
  readonly #packing = new Set<Promise<void>>();

  constructor(memory: Uint8Array, zstd: boolean) {
    this.#memory = memory;
    this.report = { version: PAGE_FORMAT, batches: 0, tokenBytes: 0, payloadBytes: 0, zstdBytes: zstd ? 0 : null };
  }

  add({ tokens, payloadBytes, pieces }: Batch): void {
    this.report.batches++;
    this.report.tokenBytes += tokens.length;
    this.report.payloadBytes += payloadBytes;
    if (this.report.zstdBytes === null) return;
    const parts = [tokens];
    for (let i = 0; i < pieces.length; i += 2) parts.push(this.#memory.subarray(pieces[i], pieces[i + 1]));
    const packing: Promise<void> = this.#pack(Buffer.concat(parts)).finally(() => this.#packing.delete(packing));
    this.#packing.add(packing);
  }

  async #pack(body: Buffer): Promise<void> {
    const packed = await compress(body, zstdOptions(body.length, 1));
    this.report.zstdBytes! += Math.min(packed.length, body.length);
  }

  /** Waits until at most so many batches are being packed. */
  async settled(atMost: number): Promise<void> {
    while (this.#packing.size > atMost) await Promise.race(this.#packing);
  }
}
