/**
 * The speed of each kernel of memory compaction, in GB/s of pages on one core: `node bench/kernels.ts`. Medians of RUNS
 * runs over pages that stand as in the migration stream, 4104 bytes apart. Takes 1.6 GiB.
 */

import { randomBytes } from "node:crypto";
import { closeSync, openSync, readSync } from "node:fs";
import { cpus } from "node:os";
import {
  INDEX_BUCKET_BYTES,
  indexBucketsFor,
  LZ4_TABLE_BYTES,
  MAX_DELTA_BYTES,
  TAG_BYTES,
  TAG_SCRATCH_BYTES,
  TAG_SCRATCH_PAGE_BYTES,
} from "../src/compact/page-kernels.ts";
import { xxh3Secret } from "../src/compact/xxh3-secret.ts";
import { createPageKernels } from "../src/migration/kernel-module.ts";

const RUNS = 15;
const PAGE_BYTES = 4096;
const STRIDE_BYTES = 4104;
/** Pages a run works on: more than caches of the second level hold. */
const PAGES = 8192;
/** Pages a call works on, as many as a batch of the sender has. */
const BATCH = 64;
/** Pages whose runs are tagged in a call. */
const GROUP_PAGES = 1024;
const BLOCK_BYTES = 256 * 1024;
const SMALL_INDEX = 10_000_000;
const LARGE_INDEX = 100_000_000;

const tableBytes = indexBucketsFor(LARGE_INDEX) * INDEX_BUCKET_BYTES;
const WASM_PAGE_BYTES = 65536;
const wasmPages = Math.ceil((tableBytes + 256 * 2 ** 20) / WASM_PAGE_BYTES);
const memory = new WebAssembly.Memory({ initial: wasmPages, maximum: wasmPages, shared: true });
const bytes = new Uint8Array(memory.buffer);
const kernels = createPageKernels(memory);

let free = 64;
function room(size: number): number {
  const at = free;
  free = Math.ceil((free + size) / 64) * 64;
  return at;
}
const wordsAt = (at: number, count: number): Uint32Array => new Uint32Array(memory.buffer, at, count);

const secret = room(192);
const key = room(32);
const scratch = room(TAG_SCRATCH_BYTES + GROUP_PAGES * TAG_SCRATCH_PAGE_BYTES);
const lz4Table = room(LZ4_TABLE_BYTES);
const pages = room(PAGES * STRIDE_BYTES) + 8;
const newer = room(PAGES * STRIDE_BYTES) + 8;
const addresses = room(PAGES * 4);
const newerAddresses = room(PAGES * 4);
const listed = room(BATCH * 4);
const hashes = room(PAGES * 8);
const values = room(PAGES * 4);
const tags = room(PAGES * TAG_BYTES);
const lengths = room(PAGES * 8);
const deltas = room(PAGES * MAX_DELTA_BYTES);
const table = room(tableBytes);

bytes.set(xxh3Secret(), secret);
bytes.set(randomBytes(32), key);
for (let page = 0; page < PAGES; page++) {
  wordsAt(addresses, PAGES)[page] = pages + page * STRIDE_BYTES;
  wordsAt(newerAddresses, PAGES)[page] = newer + page * STRIDE_BYTES;
}

/** Runs `work` RUNS times, each after `prepare`, and prints the median of `amount` a second in 10⁶. */
function measure(name: string, unit: "GB/s" | "M/s", amount: number, work: () => void, prepare?: () => void): void {
  const speeds: number[] = [];
  // The first runs do not count: V8 compiles the kernels a second time meanwhile.
  for (let run = -5; run < RUNS; run++) {
    prepare?.();
    const start = performance.now();
    work();
    if (run >= 0) speeds.push(amount / (performance.now() - start) / (unit === "GB/s" ? 1e6 : 1e3));
  }
  speeds.sort((a, b) => a - b);
  const [median, slowest, fastest] = [RUNS >> 1, 0, RUNS - 1].map((index) => speeds[index]!.toFixed(2));
  console.log(`${name.padEnd(60)} ${median!.padStart(7)} ${unit.padEnd(4)} (${slowest} to ${fastest})`);
}

const measurePages = (name: string, work: () => void, prepare?: () => void): void =>
  measure(name, "GB/s", PAGES * PAGE_BYTES, work, prepare);

/** Uniform hashes of the numbers from `first` on. */
function writeHashes(first: number): void {
  const words = wordsAt(hashes, PAGES * 2);
  for (let index = 0; index < PAGES; index++) {
    let word = Math.imul(first + index + 1, 0x9e3779b1);
    for (const [half, factor] of [0x85ebca6b, 0xc2b2ae35].entries()) {
      word = Math.imul(word ^ (word >>> 16), factor);
      words[index * 2 + half] = word ^= word >>> 13;
    }
  }
}

function benchIndex(entries: number): void {
  const buckets = indexBucketsFor(entries);
  const size = `${entries / 1e6} M entries`;
  bytes.fill(0xff, table, table + buckets * INDEX_BUCKET_BYTES);
  let inserted = 0;
  const insert = () => {
    inserted += kernels.insertPages(table, buckets, hashes, values, PAGES);
  };
  while (inserted < entries) {
    writeHashes(inserted);
    insert();
  }
  measure(`insert, ${size}`, "M/s", PAGES, insert, () => writeHashes(inserted));
  // Each run looks for others, so that none of their buckets is in a cache from the run before.
  let run = 0;
  const lookup = () => kernels.lookupPages(table, buckets, hashes, PAGES, values);
  measure(`lookup, ${size}, held`, "M/s", PAGES, lookup, () => writeHashes(++run * 2 * PAGES));
  measure(`lookup, ${size}, not held`, "M/s", PAGES, lookup, () => writeHashes(1e9 + ++run * PAGES));
  let seed = 0n;
  const chain = () => {
    for (let page = 0; page < PAGES; page += BATCH) {
      const count = kernels.listNonZero(pages + page * STRIDE_BYTES, STRIDE_BYTES, BATCH, listed);
      kernels.hashPages(secret, listed, count, hashes);
      kernels.lookupPages(table, buckets, hashes, count, values);
    }
  };
  measurePages(`zero test, XXH3 and lookup, ${size}`, chain, () => bytes.set(xxh3Secret(++seed), secret));
}

function benchDelta(changedWords: number): void {
  bytes.copyWithin(newer - 8, pages - 8, pages - 8 + PAGES * STRIDE_BYTES);
  for (let page = 0; page < PAGES; page++) {
    const words = new BigUint64Array(memory.buffer, newer + page * STRIDE_BYTES, PAGE_BYTES / 8);
    for (let change = 0; change < changedWords; change++) words[(change * 149 + page) % 512]! ^= 1n;
  }
  let written = 0;
  measurePages(`delta, ${changedWords} words of 512 changed`, () => {
    written = kernels.encodeDeltas(addresses, newerAddresses, PAGES, MAX_DELTA_BYTES, deltas, lengths);
  });
  measurePages(`the same applied`, () => {
    kernels.applyDeltas(addresses, newerAddresses, PAGES, deltas, deltas + written, lengths);
  });
}

function benchLz4(name: string, blockBytes: number): void {
  const blocks = Math.floor((PAGES * PAGE_BYTES) / blockBytes);
  const capacity = blockBytes + blockBytes / 128;
  const blockLengths = wordsAt(lengths, PAGES);
  const amount = blocks * blockBytes;
  measure(`LZ4 compress, ${name}`, "GB/s", amount, () => {
    for (let block = 0; block < blocks; block++) {
      const from = pages + block * blockBytes;
      blockLengths[block] = kernels.compressLz4(from, blockBytes, deltas + block * capacity, capacity, lz4Table);
    }
  });
  const ratio = blockLengths.subarray(0, blocks).reduce((sum, length) => sum + length, 0) / amount;
  measure(`LZ4 decompress, ${name}, was ${(ratio * 100).toFixed(0)} %`, "GB/s", amount, () => {
    for (let block = 0; block < blocks; block++) {
      const to = newer + block * blockBytes;
      kernels.decompressLz4(deltas + block * capacity, blockLengths[block]!, to, blockBytes);
    }
  });
}

console.log(`${cpus()[0]?.model}, Node ${process.versions.node}, one core, median of ${RUNS} (slowest to fastest)\n`);

bytes.set(randomBytes(PAGES * STRIDE_BYTES), pages - 8);
measurePages("XXH3", () => kernels.hashPages(secret, addresses, PAGES, hashes));
for (const runPages of [1, 8, 256]) {
  const runs = wordsAt(lengths, PAGES * 2);
  for (let run = 0; run < PAGES / runPages; run++) runs.set([pages + run * runPages * STRIDE_BYTES, runPages], run * 2);
  const perCall = GROUP_PAGES / runPages;
  measurePages(`keyed BLAKE3, runs of ${runPages}`, () => {
    for (let run = 0; run < PAGES / runPages; run += perCall)
      kernels.tagRuns(key, scratch, lengths + run * 8, perCall, STRIDE_BYTES, tags);
  });
}
for (const entries of [SMALL_INDEX, LARGE_INDEX]) benchIndex(entries);
for (const changedWords of [0, 1, 64, 512]) benchDelta(changedWords);

// What a guest's memory holds is much like this: machine code, tables and text.
const program = openSync(process.execPath, "r");
readSync(program, bytes, pages, PAGES * PAGE_BYTES, 16 * 2 ** 20);
closeSync(program);
benchLz4("Node's own program in 256 KiB", BLOCK_BYTES);
benchLz4("the same page by page", PAGE_BYTES);
bytes.set(randomBytes(PAGES * PAGE_BYTES), pages);
benchLz4("random bytes in 256 KiB", BLOCK_BYTES);
