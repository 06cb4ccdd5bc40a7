/** The index of a disk: built from a file in the page cache, loaded, refreshed. */
import { closeSync, openSync, writeSync } from "node:fs";
import { join } from "node:path";
import { temporaryFolder } from "../lab/leftovers.ts";
import { PAGE_HASHER_BYTES, PageHasher } from "../src/compact/page-hasher.ts";
import { PageIndex } from "../src/compact/page-index.ts";
import { xxh3Secret } from "../src/compact/xxh3-secret.ts";
import { createKernels } from "../src/migration/kernels.ts";
import { type Known, ReadingPlan, readDisk } from "../src/store/disk-index.ts";
import { type Extent, FileDisk } from "../src/store/disk-reader.ts";
import { BLOCK_BYTES, PART_BLOCKS } from "../src/store/index-format.ts";
import { IndexStore } from "../src/store/index-store.ts";
import { table } from "./support.ts";

const DISK_BYTES = 2 ** 30;
const LARGE_BLOCKS = 10_000_000;
const RUNS = 3;
const about = { vm: "name:bench", disk: "d", vmName: null, image: "", files: null, bitmap: null, savedMs: 0 };

export async function bench(): Promise<string> {
  using folder = temporaryFolder();
  const { path } = folder;
  return table([["index", "by the clock", "CPU"], ...(await smallDisk(path)), ...(await largeIndex(path))]);
}

/** A disk of 1 GiB: read, then refreshed where one part in a hundred has changed. */
async function smallDisk(folder: string): Promise<string[][]> {
  const path = join(folder, "disk");
  writeDisk(path);
  const store = await IndexStore.open(folder);
  const { pages, bytes, base } = createKernels(PAGE_HASHER_BYTES + PageIndex.memoryBytes(DISK_BYTES / BLOCK_BYTES));
  const secret = xxh3Secret(store.seed);
  const hasher = new PageHasher(pages, bytes, base, secret);
  const tableAt = Math.ceil((base + PAGE_HASHER_BYTES) / 64) * 64;
  await using disk = await FileDisk.open(path, DISK_BYTES);

  const read = async (changes: readonly Extent[] | null) => {
    const index = new PageIndex(pages, bytes, tableAt, DISK_BYTES / BLOCK_BYTES - 8, secret);
    await using stored = changes === null ? undefined : await store.find(about);
    const known: Known = { stored, changes };
    const plan = new ReadingPlan(DISK_BYTES, known);
    await using writer = await store.create(about, DISK_BYTES);
    const onPart = async (part: number, hashes: Uint8Array, count: number) => {
      index.addHashes(hashes, part * PART_BLOCKS);
      await writer.put(part, hashes, count);
    };
    const counts = { readBytes: 0, newBlocks: 0, readMs: 0 };
    await readDisk(disk, known, plan, { hasher, onPart, signal: new AbortController().signal, counts });
    await writer.finish(about, stored, (part) => plan.isStale(part));
    return counts.readBytes;
  };

  const rows: string[][] = [];
  // As a guest writes: here and there, noted in units of 64 KiB.
  const changes = Array.from({ length: DISK_BYTES / 2 ** 20 / 6 }, (_, i) => ({
    offsetBytes: i * 6 * 2 ** 20,
    lengthBytes: 65_536,
  }));
  for (let run = 0; run < RUNS; run++) {
    rows.push(await measured("built, 1 GiB from the page cache, and saved", () => read(null)));
    rows.push(await measured("refreshed, 1 % of it, and saved", () => read(changes)));
  }
  return rows;
}

/** An index of 10 M blocks, 40 GB of disk, into a table. */
async function largeIndex(folder: string): Promise<string[][]> {
  const sizeBytes = LARGE_BLOCKS * BLOCK_BYTES;
  const store = await IndexStore.open(folder);
  const hashes = new BigUint64Array(PART_BLOCKS);
  {
    await using writer = await store.create(about, sizeBytes);
    for (let part = 0; part * PART_BLOCKS < LARGE_BLOCKS; part++) {
      const blocks = Math.min(PART_BLOCKS, LARGE_BLOCKS - part * PART_BLOCKS);
      for (let i = 0; i < blocks; i++)
        hashes[i] = BigInt.asUintN(64, BigInt(part * PART_BLOCKS + i + 1) * 0x9e3779b97f4a7c15n);
      await writer.put(part, new Uint8Array(hashes.buffer, 0, blocks * 8), blocks);
    }
    await writer.finish(about, undefined, () => false);
  }
  const { pages, bytes, base } = createKernels(PageIndex.memoryBytes(LARGE_BLOCKS));
  const load = async () => {
    const index = new PageIndex(pages, bytes, base, LARGE_BLOCKS, xxh3Secret(store.seed));
    await using stored = await store.find(about);
    const part = new Uint8Array(PART_BLOCKS * 8);
    for (let i = 0; i < stored!.parts; i++) {
      if (await stored!.readPart(i, part)) index.addHashes(part.subarray(0, stored!.blocks(i) * 8), i * PART_BLOCKS);
    }
    if (index.entries !== LARGE_BLOCKS) throw new Error(`${index.entries} entries were loaded`);
    return 0;
  };
  const rows: string[][] = [];
  for (let run = 0; run < RUNS; run++) rows.push(await measured("loaded, 10 M blocks, checksums and table", load));
  return rows;
}

/** The work by the clock, and per second of CPU time of all threads. */
async function measured(name: string, work: () => Promise<number>): Promise<string[]> {
  const [startMs, startCpu] = [performance.now(), process.cpuUsage()];
  const bytes = await work();
  const ms = performance.now() - startMs;
  const { user, system } = process.cpuUsage(startCpu);
  const cpuMs = (user + system) / 1000;
  if (bytes < 2 ** 28) return [name, `${ms.toFixed(0)} ms`, `${cpuMs.toFixed(0)} ms`];
  const rate = (duration: number) => `${(bytes / duration / 1e6).toFixed(2)} GB/s`;
  return [name, rate(ms), `${rate(cpuMs)} per core`];
}

/** Content that is nowhere zero, in the page cache. */
function writeDisk(path: string): void {
  const file = openSync(path, "w");
  const chunk = new Uint32Array(2 ** 18);
  for (let i = 0; i < chunk.length; i++) chunk[i] = Math.imul(i + 1, 2654435761);
  for (let at = 0; at < DISK_BYTES; at += chunk.byteLength) {
    for (let i = 0; i < chunk.length; i += 1024) chunk[i] = at / 4096 + i;
    writeSync(file, chunk);
  }
  closeSync(file);
}
