import type { RecordWriter, RegeneratedKind } from "../compact/expand.ts";
import type { PageKernels } from "../compact/page-kernels.ts";
import { KIND, type Kind } from "../stream/format.ts";
import type { PageScanner, Run, Scan } from "../stream/scanner.ts";
import { createPageKernels, instantiateKernels } from "./kernel-module.ts";

const WASM_PAGE_BYTES = 65536;
/** Runs a scan hands back at once. */
const MAX_RUNS = 4096;
const RUN_BYTES = 16;
/** The table of runs and the scan's result stand in front of the memory that callers use. */
const TABLE_ADDRESS = 64;
const RESULT_ADDRESS = 0;
const RESERVED_BYTES = Math.ceil((TABLE_ADDRESS + (MAX_RUNS + 1) * RUN_BYTES) / WASM_PAGE_BYTES) * WASM_PAGE_BYTES;

interface Exports {
  scanPages(at: number, end: number, table: number, maxRuns: number, result: number): number;
  expandZero(to: number, firstPage: number, records: number): number;
  expandBlank(to: number, firstPage: number, records: number): number;
  isZero(at: number, bytes: number): number;
}

/** The kernels of assembly/ over a memory of their own. Addresses are indexes into `bytes`. */
export interface Kernels {
  /** What other threads may work on too. */
  memory: WebAssembly.Memory;
  /** All of it. */
  bytes: Uint8Array;
  /** The caller's part of it: [base, base + size). */
  base: number;
  scanner: PageScanner;
  writer: RecordWriter;
  /** What memory compaction is made of. */
  pages: PageKernels;
}

/** Instantiates the kernels with `size` bytes of memory for the caller. */
export function createKernels(size: number): Kernels {
  const pages = (RESERVED_BYTES + Math.ceil(size / WASM_PAGE_BYTES) * WASM_PAGE_BYTES) / WASM_PAGE_BYTES;
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  const exports = instantiateKernels(memory) as unknown as Exports;
  const bytes = new Uint8Array(memory.buffer);
  return {
    memory,
    bytes,
    base: RESERVED_BYTES,
    scanner: new KernelScanner(exports, bytes),
    writer: new KernelWriter(exports, bytes),
    pages: createPageKernels(memory),
  };
}

/** What both ends say where `createKernelsWithCache` has none. */
export const NO_CACHE_MEMORY = "there is no memory for the page cache: pages that change are sent whole";

/**
 * Kernels with `size` bytes of memory for the caller, and `cacheBytes` more for a page cache, which it can do without.
 *
 * @returns `hasCache` is false where the system does not give so much memory; the smaller one it has to give
 */
export function createKernelsWithCache(size: number, cacheBytes: number): { kernels: Kernels; hasCache: boolean } {
  try {
    return { kernels: createKernels(size + cacheBytes), hasCache: true };
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // it may limit address space, or what processes can promise each other
    return { kernels: createKernels(size), hasCache: false };
  }
}

function assertOwnMemory(given: Uint8Array, own: Uint8Array): void {
  if (given !== own) throw new TypeError("a kernel works on its own memory only");
}

class KernelScanner implements PageScanner {
  readonly #exports: Exports;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #scan: Scan = { runs: 0, end: 0 };
  readonly #run: Run = { kind: KIND.zero, records: 0, firstPage: 0 };

  constructor(exports: Exports, bytes: Uint8Array) {
    this.#exports = exports;
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer);
  }

  scan(bytes: Uint8Array, at: number, end: number): Scan {
    assertOwnMemory(bytes, this.#bytes);
    this.#scan.runs = this.#exports.scanPages(at, end, TABLE_ADDRESS, MAX_RUNS, RESULT_ADDRESS);
    this.#scan.end = this.#view.getUint32(RESULT_ADDRESS, true);
    return this.#scan;
  }

  run(index: number): Readonly<Run> {
    const at = TABLE_ADDRESS + index * RUN_BYTES;
    this.#run.kind = this.#view.getUint32(at, true) as Kind;
    this.#run.records = this.#view.getUint32(at + 4, true);
    this.#run.firstPage = this.#view.getFloat64(at + 8, true);
    return this.#run;
  }
}

class KernelWriter implements RecordWriter {
  readonly #exports: Exports;
  readonly #bytes: Uint8Array;

  constructor(exports: Exports, bytes: Uint8Array) {
    this.#exports = exports;
    this.#bytes = bytes;
  }

  write(kind: RegeneratedKind, target: Uint8Array, at: number, firstPage: number, records: number): number {
    assertOwnMemory(target, this.#bytes);
    const expand = kind === KIND.zero ? this.#exports.expandZero : this.#exports.expandBlank;
    return expand(at, firstPage, records);
  }
}
