import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { beforeEach, describe, expect, onTestFinished, test } from "vitest";
import { PAGE_HASHER_BYTES, PageHasher } from "../../src/compact/page-hasher.ts";
import { xxh3Secret } from "../../src/compact/xxh3-secret.ts";
import { createKernels } from "../../src/migration/kernels.ts";
import { type Known, ReadingPlan, readDisk } from "../../src/store/disk-index.ts";
import type { DiskReader, Extent } from "../../src/store/disk-reader.ts";
import { type IndexAbout, PART_BLOCKS } from "../../src/store/index-format.ts";
import { IndexStore } from "../../src/store/index-store.ts";
import { type ReadingState, readingPays } from "../../src/store/index-worth.ts";
import { noise } from "./support/pages.ts";

const BLOCK_BYTES = 4096;
const PART_BYTES = PART_BLOCKS * BLOCK_BYTES;
const about: IndexAbout = { vm: "name:a", disk: "d", vmName: "a", image: "", files: null, bitmap: null, savedMs: 0 };
const { pages, bytes, base } = createKernels(PAGE_HASHER_BYTES);
let hasher: PageHasher;
let store: IndexStore;

beforeEach(async () => {
  const stateDir = await mkdtemp(join(tmpdir(), "godwit-index-"));
  onTestFinished(() => rm(stateDir, { recursive: true }));
  store = await IndexStore.open(stateDir);
  hasher = new PageHasher(pages, bytes, base, xxh3Secret(store.seed));
});

/** A disk of some parts, all holes but for what is written; it counts what is read, and fails where it is told to. */
class FakeDisk implements DiskReader {
  readonly sizeBytes: number;
  readonly place = { kind: "file", path: "" } as const;
  readonly blocks = new Map<number, Uint8Array>();
  readonly reads: [block: number, blocks: number][] = [];
  askedForExtents = 0;
  badBlock = -1;

  constructor(sizeBytes: number) {
    this.sizeBytes = sizeBytes;
  }

  write(block: number, ...seeds: number[]): this {
    for (const [i, seed] of seeds.entries()) this.blocks.set(block + i, noise(seed * 977, BLOCK_BYTES));
    return this;
  }

  async read(offsetBytes: number, target: Uint8Array): Promise<void> {
    const [first, count] = [offsetBytes / BLOCK_BYTES, target.length / BLOCK_BYTES];
    this.reads.push([first, count]);
    if (first <= this.badBlock && this.badBlock < first + count) throw new Error("a bad block");
    target.fill(0);
    for (let i = 0; i < count; i++) {
      const content = this.blocks.get(first + i);
      if (content) target.set(content, i * BLOCK_BYTES);
    }
  }

  readScattered(): Promise<void> {
    return Promise.reject(new Error("not used"));
  }

  async *allocatedExtents(): AsyncGenerator<Extent> {
    this.askedForExtents++;
    let current: { offsetBytes: number; lengthBytes: number } | undefined;
    for (const block of [...this.blocks.keys()].sort((a, b) => a - b)) {
      const offsetBytes = block * BLOCK_BYTES;
      if (current && current.offsetBytes + current.lengthBytes === offsetBytes) current.lengthBytes += BLOCK_BYTES;
      else {
        if (current) yield current;
        current = { offsetBytes, lengthBytes: BLOCK_BYTES };
      }
    }
    if (current) yield current;
  }

  async identity() {
    return null;
  }

  async [Symbol.asyncDispose](): Promise<void> {}
}

interface ReadingOptions {
  changes?: readonly Extent[] | null;
  goesOn?: () => boolean;
  signal?: AbortSignal;
  /** What was known is not looked at. */
  isNew?: boolean;
}

/** Reads a disk with what is kept of it, and keeps what comes of it. */
async function read(disk: FakeDisk, options: ReadingOptions = {}) {
  const { changes = null, goesOn = () => true, signal = new AbortController().signal, isNew = false } = options;
  await using stored = isNew ? undefined : await store.find(about);
  const known: Known = { stored, changes };
  const plan = new ReadingPlan(disk.sizeBytes, known);
  const counts = { readBytes: 0, newBlocks: 0, readMs: 0 };
  const partsRead: number[] = [];
  const mixedParts: number[] = [];
  disk.reads.length = 0;
  await using writer = await store.create(about, disk.sizeBytes);
  const onPart = async (part: number, hashes: Uint8Array, count: number, isReadWhole: boolean) => {
    partsRead.push(part);
    if (!isReadWhole) mixedParts.push(part);
    await writer.put(part, hashes, count);
  };
  let error: unknown;
  const isWhole = await readDisk(disk, known, plan, { hasher, onPart, goesOn, signal, counts }).catch((cause) => {
    error = cause;
    return false;
  });
  await writer.finish(about, stored, (part) => plan.isStale(part));
  return { isWhole, counts, partsRead, mixedParts, error };
}

/** What the index says of each block that it knows to hold something, and the states of its parts. */
async function known() {
  await using stored = await store.find(about);
  const blocks = new Map<number, bigint>();
  const states: string[] = [];
  for (let part = 0; part < stored!.parts; part++) {
    states.push(stored!.state(part));
    const hashes = new Uint8Array(stored!.blocks(part) * 8);
    if (!(await stored!.readPart(part, hashes))) continue;
    new BigUint64Array(hashes.buffer).forEach((hash, i) => void (hash && blocks.set(part * PART_BLOCKS + i, hash)));
  }
  return { blocks, states };
}

/** What a new reading of all of it would say. */
async function expectRight(disk: FakeDisk): Promise<void> {
  const { blocks } = await known();
  await read(disk, { isNew: true });
  expect([...blocks]).toEqual([...(await known()).blocks]);
}

const extent = (block: number, blocks: number): Extent => ({
  offsetBytes: block * BLOCK_BYTES,
  lengthBytes: blocks * BLOCK_BYTES,
});

describe("reading a disk", () => {
  test("leaves out holes, zeros and what is no whole block", async () => {
    const disk = new FakeDisk(2 * PART_BYTES + 5 * BLOCK_BYTES + 100);
    disk.write(0, 1, 2, 3).write(PART_BLOCKS * 2 + 4, 4);
    disk.blocks.set(1, new Uint8Array(BLOCK_BYTES));
    const { isWhole, counts, partsRead } = await read(disk);
    expect({ isWhole, partsRead }).toEqual({ isWhole: true, partsRead: [0, 1, 2] });
    expect(counts).toMatchObject({ readBytes: 4 * BLOCK_BYTES, newBlocks: 3 });
    expect(disk.reads).toEqual([
      [0, 3],
      [PART_BLOCKS * 2 + 4, 1],
    ]);
    const { blocks, states } = await known();
    expect([...blocks.keys()]).toEqual([0, 2, PART_BLOCKS * 2 + 4]);
    expect(states).toEqual(["known", "known", "known"]);
  });

  test("long stretches are read in chunks, also over the border of parts", async () => {
    const disk = new FakeDisk(2 * PART_BYTES);
    const seeds = Array.from({ length: 600 }, (_, i) => i + 1);
    disk.write(PART_BLOCKS - 300, ...seeds);
    await read(disk);
    expect(disk.reads).toEqual([
      [PART_BLOCKS - 300, 256],
      [PART_BLOCKS - 44, 44],
      [PART_BLOCKS, 256],
      [PART_BLOCKS + 256, 44],
    ]);
    expect((await known()).blocks.size).toBe(600);
  });

  test("what is known is not read again, nor asked where it is", async () => {
    const disk = new FakeDisk(3 * PART_BYTES).write(5, 1).write(PART_BLOCKS + 5, 2);
    await read(disk);
    disk.askedForExtents = 0;
    const { isWhole, counts } = await read(disk, { changes: [] });
    expect({ isWhole, counts }).toMatchObject({ isWhole: true, counts: { readBytes: 0, newBlocks: 0 } });
    expect(disk.askedForExtents).toBe(0);
    await expectRight(disk);
  });

  test("only what has changed is read, and what was discarded is forgotten", async () => {
    const disk = new FakeDisk(3 * PART_BYTES)
      .write(5, 1, 2, 3)
      .write(PART_BLOCKS + 5, 4)
      .write(2 * PART_BLOCKS, 5);
    await read(disk);
    disk.write(6, 6).blocks.delete(2 * PART_BLOCKS);
    const { counts, partsRead } = await read(disk, { changes: [extent(6, 1), extent(2 * PART_BLOCKS, 16)] });
    expect(partsRead).toEqual([0, 2]);
    expect(disk.reads).toEqual([
      [6, 1],
      [2 * PART_BLOCKS, 16],
    ]);
    expect(counts.newBlocks).toBe(1);
    await expectRight(disk);
  });

  test("a part of which only some blocks are read is told apart", async () => {
    const disk = new FakeDisk(2 * PART_BYTES).write(5, 1, 2).write(PART_BLOCKS, 3);
    expect((await read(disk)).mixedParts).toEqual([]);
    expect((await read(disk, { changes: [extent(6, 1)] })).mixedParts).toEqual([0]);
  });

  test("where nothing says what has changed, all of it is", async () => {
    const disk = new FakeDisk(2 * PART_BYTES).write(5, 1, 2).write(PART_BLOCKS, 3);
    await read(disk);
    disk.write(6, 7);
    const { counts } = await read(disk);
    expect(counts).toMatchObject({ readBytes: 3 * BLOCK_BYTES, newBlocks: 1 });
    await expectRight(disk);
  });

  test("that ends early keeps the old hashes of what it should have read, to be read next time", async () => {
    const disk = new FakeDisk(4 * PART_BYTES)
      .write(0, 1)
      .write(PART_BLOCKS, 2)
      .write(2 * PART_BLOCKS, 3)
      .write(3 * PART_BLOCKS, 4);
    await read(disk);
    const before = (await known()).blocks;
    disk
      .write(0, 11)
      .write(PART_BLOCKS, 12)
      .write(3 * PART_BLOCKS, 14);
    const changes = [extent(0, 1), extent(PART_BLOCKS, 1), extent(3 * PART_BLOCKS, 1)];
    let parts = 0;
    const { isWhole, partsRead } = await read(disk, { changes, goesOn: () => parts++ < 1 });
    expect({ isWhole, partsRead }).toEqual({ isWhole: false, partsRead: [0] });
    const now = await known();
    expect(now.states).toEqual(["known", "stale", "known", "stale"]);
    expect(now.blocks.get(0)).not.toBe(before.get(0));
    expect(now.blocks.get(PART_BLOCKS)).toBe(before.get(PART_BLOCKS));
    const { partsRead: then } = await read(disk, { changes: [] });
    expect(then).toEqual([1, 3]);
    await expectRight(disk);
  });

  test("that is aborted or fails keeps the parts before", async () => {
    const disk = new FakeDisk(3 * PART_BYTES)
      .write(0, 1)
      .write(PART_BLOCKS, 2)
      .write(2 * PART_BLOCKS, 3);
    disk.badBlock = PART_BLOCKS;
    const failed = await read(disk);
    expect(failed).toMatchObject({ partsRead: [0], error: new Error("a bad block") });
    expect((await known()).states).toEqual(["known", "unknown", "unknown"]);
    const aborted = await read(disk, { changes: [], signal: AbortSignal.abort() });
    expect(aborted).toMatchObject({ isWhole: false, partsRead: [], error: undefined });
    disk.badBlock = -1;
    expect((await read(disk, { changes: [] })).partsRead).toEqual([1, 2]);
    await expectRight(disk);
  });

  test("any writes, noted roughly, in any order: the index is that of the disk", async () => {
    const block = fc.nat(3 * PART_BLOCKS + 9);
    const write = fc.record({
      block,
      seeds: fc.array(fc.integer({ min: 1, max: 99 }), { minLength: 1, maxLength: 40 }),
    });
    const round = fc.record({ writes: fc.array(write, { maxLength: 6 }), parts: fc.nat(5), discard: fc.boolean() });
    await fc.assert(
      fc.asyncProperty(fc.array(round, { minLength: 1, maxLength: 4 }), async (rounds) => {
        const disk = new FakeDisk(3 * PART_BYTES + 10 * BLOCK_BYTES + 7);
        await read(disk, { isNew: true });
        for (const { writes, parts, discard } of rounds) {
          const changes: Extent[] = [];
          for (const { block, seeds } of writes) {
            const fitting = seeds.slice(0, 3 * PART_BLOCKS + 10 - block);
            if (discard) for (const [i] of fitting.entries()) disk.blocks.delete(block + i);
            else disk.write(block, ...fitting);
            const from = Math.floor(block / 16) * 16; // QEMU notes 64 KiB at a time
            changes.push(extent(from, Math.ceil((block + fitting.length - from) / 16) * 16));
          }
          let left = parts;
          await read(disk, { changes: sorted(changes), goesOn: () => left-- > 0 });
        }
        await read(disk, { changes: [] });
        await expectRight(disk);
      }),
      { numRuns: 25 },
    );
  });
});

/** In order, none reaching into the next, as a bitmap tells them. */
function sorted(changes: readonly Extent[]): Extent[] {
  const blocks = new Set<number>();
  for (const { offsetBytes, lengthBytes } of changes) {
    for (let at = 0; at < lengthBytes; at += BLOCK_BYTES) blocks.add((offsetBytes + at) / BLOCK_BYTES);
  }
  return [...blocks].sort((a, b) => a - b).map((block) => extent(block, 1));
}

describe("reading beside a migration", () => {
  const state: ReadingState = {
    readBytes: 4 * 2 ** 30,
    readMs: 4000,
    newBlocks: 2 ** 20,
    indexedBlocks: 2 ** 20,
    foundPages: 50_000,
    unsentShare: 0.5,
    linkBytesPerSecond: 62.5e6,
  };

  test.each<[string, Partial<ReadingState>, boolean]>([
    ["1 GiB/s, and every tenth block holds pages", {}, true],
    ["a network disk of 10 MB/s", { readBytes: 40e6, newBlocks: 10_000 }, false],
    ["before there is anything to judge by", { readBytes: 1e6, readMs: 100, foundPages: 0 }, true],
    ["before the guest's memory is on its way", { unsentShare: 1, foundPages: 0 }, true],
    ["what is read again has not changed", { newBlocks: 0 }, false],
    ["hardly any page stands on the disk", { foundPages: 5 }, false],
    ["all has been sent", { unsentShare: 0 }, false],
    ["a link of 100 Gbit/s", { linkBytesPerSecond: 12.5e9 }, false],
    ["a link whose speed is not known", { linkBytesPerSecond: 0 }, true],
  ])("%s", (_, change, pays) => {
    expect(readingPays({ ...state, ...change })).toBe(pays);
  });
});
