import { constants, type ZstdOptions, zstdCompressSync, zstdDecompressSync } from "node:zlib";
import type { Packing } from "../../compact/codec.ts";
import type { PageKernels } from "../../compact/page-kernels.ts";

/** Packing or unpacking a body that stands in memory which the threads share. All places are addresses in it. */
export interface BodyJob extends Packing {
  readonly task: "pack" | "unpack";
  readonly from: number;
  readonly bytes: number;
  readonly to: number;
  /** What may be written from `to` on. */
  readonly capacity: number;
  /** LZ4_TABLE_BYTES to work in. */
  readonly table: number;
}

/** What has been done. */
export interface BodyResult {
  /** Written from `to` on; 0 if a body does not fit when packed, or what the peer has packed can't be unpacked. */
  readonly bytes: number;
  /** How long it took. */
  readonly ms: number;
}

/** What a thread says once it can work. */
export const READY = "ready";

/** zlib hands out what it has made in pieces of this size: larger than the whole, it is one. */
const SPARE_BYTES = 1024;

/** A frame may ask for memory to look back in, up to 128 MiB by zstd's default: 2 MiB are more than the longest body. */
const MAX_WINDOW_LOG = 21;

/** For packing `bytes` bytes at once: of a known size zstd takes as little memory as that needs. */
export function zstdOptions(bytes: number, level: number): ZstdOptions {
  const params = { [constants.ZSTD_c_compressionLevel]: level };
  return { chunkSize: bytes + SPARE_BYTES, pledgedSrcSize: bytes, params };
}

/** Does it, in whatever thread this is. */
export function runJob(kernels: PageKernels, memory: Uint8Array, job: BodyJob): BodyResult {
  const startMs = performance.now();
  const bytes = job.task === "pack" ? pack(kernels, memory, job) : unpack(kernels, memory, job);
  return { bytes, ms: performance.now() - startMs };
}

function pack(kernels: PageKernels, memory: Uint8Array, job: BodyJob): number {
  const { codec, level, from, bytes, to, capacity, table } = job;
  if (codec === "lz4") return kernels.compressLz4(from, bytes, to, capacity, table);
  const packed = zstdCompressSync(memory.subarray(from, from + bytes), zstdOptions(bytes, level));
  return put(packed, memory, to, capacity);
}

function unpack(kernels: PageKernels, memory: Uint8Array, job: BodyJob): number {
  const { codec, from, bytes, to, capacity } = job;
  if (codec === "lz4") return Math.max(0, kernels.decompressLz4(from, bytes, to, capacity));
  try {
    const packed = memory.subarray(from, from + bytes);
    const params = { [constants.ZSTD_d_windowLogMax]: MAX_WINDOW_LOG };
    const body = zstdDecompressSync(packed, { chunkSize: capacity + SPARE_BYTES, maxOutputLength: capacity, params });
    return put(body, memory, to, capacity);
  } catch {
    return 0; // cut off, no zstd, or more than it was said to be
  }
}

function put(result: Uint8Array, memory: Uint8Array, to: number, capacity: number): number {
  if (result.length > capacity) return 0;
  memory.set(result, to);
  return result.length;
}
