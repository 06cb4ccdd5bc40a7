import { randomBytes } from "node:crypto";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { PlaceFound } from "../../src/compact/batch-writer.ts";
import { CheckpointIndex } from "../../src/compact/checkpoint-index.ts";
import { BatchEncoder, type FormCounts } from "../../src/compact/encoder.ts";
import { CHECKPOINT, DISK, SAME } from "../../src/compact/limits.ts";
import { PAGE_HASHER_BYTES, PageHasher } from "../../src/compact/page-hasher.ts";
import { PageIndex } from "../../src/compact/page-index.ts";
import { type IndexedPlaces, PlaceMatcher, placeMatcherBytes } from "../../src/compact/place-matcher.ts";
import { shortHashes } from "../../src/compact/short-hashes.ts";
import { xxh3Secret } from "../../src/compact/xxh3-secret.ts";
import { createKernels } from "../../src/migration/kernels.ts";
import { PlaceReferences } from "../../src/migration/references.ts";
import { firstBlocksOf } from "../../src/store/disk-index.ts";
import { StreamParser } from "../../src/stream/parser.ts";
import { noise, PAGE_BYTES } from "./support/pages.ts";
import { decodePlainly, type Held } from "./support/plain-decoder.ts";
import { StreamBuilder } from "./support/streams.ts";

const STREAM_BYTES = 4 << 20;
const MAX_ENTRIES = 2000;
const kernels = createKernels(STREAM_BYTES + placeMatcherBytes(3));
const indexKernels = createKernels(PageIndex.memoryBytes(MAX_ENTRIES));
const key = randomBytes(32);
const secret = xxh3Secret(7n);
const hasherKernels = createKernels(PAGE_HASHER_BYTES);
const hasher = new PageHasher(hasherKernels.pages, hasherKernels.bytes, hasherKernels.base, secret);

const newIndex = () => new PageIndex(indexKernels.pages, indexKernels.bytes, indexKernels.base, MAX_ENTRIES, secret);

/** What a receiver says of a checkpoint that has these pages; it stands in a memory of its own. */
function checkpointIndexOf(content: Uint8Array, hashBytes: number): CheckpointIndex {
  const { pages, bytes, base } = createKernels(PageIndex.memoryBytes(MAX_ENTRIES) + content.length * 2 + 4096);
  const seed = xxh3Secret(BigInt(hashBytes));
  const count = content.length / PAGE_BYTES;
  const index = new CheckpointIndex(pages, bytes, base, count, seed, hashBytes);
  const [at, addresses] = [
    base + PageIndex.memoryBytes(MAX_ENTRIES),
    base + PageIndex.memoryBytes(MAX_ENTRIES) + content.length,
  ];
  bytes.set(content, at);
  const hashes = addresses + count * 4;
  const secret = hashes + count * 8;
  bytes.set(seed, secret);
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < count; i++) view.setUint32(addresses + i * 4, at + i * PAGE_BYTES, true);
  pages.hashPages(secret, addresses, count, hashes);
  index.add(shortHashes(bytes.slice(hashes, secret), hashBytes));
  return index;
}

function indexed(contents: readonly Uint8Array[], checkpoints: readonly Uint8Array[] = []): PlaceMatcher {
  const index = newIndex();
  const firstBlocks = firstBlocksOf(contents.map(({ length }) => ({ sizeBytes: length })));
  const hashes = new Uint8Array(256 * 8);
  for (const [i, content] of contents.entries()) {
    const pages = Math.floor(content.length / PAGE_BYTES);
    for (let page = 0; page < pages; page += 256) {
      const count = Math.min(256, pages - page);
      hasher.chunks[0]!.set(content.subarray(page * PAGE_BYTES, (page + count) * PAGE_BYTES));
      hasher.hash(0, count, hashes);
      index.addHashes(hashes.subarray(0, count * 8), firstBlocks[i]! + page);
    }
  }
  const places: IndexedPlaces[] = checkpoints.map((content, firstSource) => ({
    kind: CHECKPOINT,
    firstSource,
    firstBlocks: [0, content.length / PAGE_BYTES],
    index: checkpointIndexOf(content, 5 + firstSource),
  }));
  places.push({ kind: DISK, firstSource: 0, firstBlocks, index });
  return new PlaceMatcher(kernels.pages, kernels.bytes, kernels.base + STREAM_BYTES, places, key);
}

interface Sent {
  bodies: { bytes: Buffer; tokenBytes: number; rawOffset: number; rawBytes: number }[];
  referred: { rawOffset: number; run: PlaceFound }[];
  counts: FormCounts;
}

/** The stream as it goes over the wire, read in chunks of `chunkBytes`. */
function send(stream: Uint8Array, matcher: PlaceMatcher, chunkBytes: number): Sent {
  const { bytes, base, scanner } = kernels;
  const bodies: Sent["bodies"] = [];
  const referred: Sent["referred"] = [];
  const encoder = new BatchEncoder(
    ({ tokens, pieces, rawOffset, rawBytes }) => {
      const parts: Uint8Array[] = [tokens];
      for (let i = 0; i < pieces.length; i += 2) parts.push(bytes.subarray(pieces[i], pieces[i + 1]));
      bodies.push({ bytes: Buffer.concat(parts), tokenBytes: tokens.length, rawOffset, rawBytes });
    },
    undefined,
    {
      match: (from, records) => matcher.match(from, records),
      referred: (rawOffset, run) => referred.push({ rawOffset, run: run as PlaceFound }),
    },
  );
  const parser = new StreamParser(scanner, encoder);
  let parsed = base;
  for (let at = 0; at < stream.length; at += chunkBytes) {
    const chunk = stream.subarray(at, at + chunkBytes);
    bytes.set(chunk, base + at);
    parsed = parser.push(bytes, parsed, base + at + chunk.length);
  }
  encoder.ahead(parsed, base + stream.length);
  encoder.flush();
  return { bodies, referred, counts: encoder.counts };
}

/** What the other end makes of it, whose disks and checkpoints may be others; what does not hold is taken from the stream. */
function receive({ bodies, referred }: Sent, stream: Uint8Array, held: Held) {
  let failedPages = 0;
  const ranges: { rawOffset: number; bytes: number }[] = [];
  const decoded = bodies.map(({ bytes: body, tokenBytes, rawOffset, rawBytes }) => {
    const { bytes, references } = decodePlainly(body, tokenBytes, held, key);
    expect(bytes.length).toBe(rawBytes);
    for (const { at, bytes: length, holds } of references) {
      ranges.push({ rawOffset: rawOffset + at, bytes: length });
      if (holds) continue;
      failedPages += length / 4104;
      bytes.set(stream.subarray(rawOffset + at, rawOffset + at + length), at);
    }
    return bytes;
  });
  expect(ranges).toEqual(referred.map(({ rawOffset, run }) => ({ rawOffset, bytes: run.count * 4104 })));
  return { bytes: Buffer.concat(decoded), failedPages };
}

/** A page by its number: 0 is all zero, the others are noise. */
const pageOf = (number: number) => (number === 0 ? new Uint8Array(PAGE_BYTES) : noise(number * 977, PAGE_BYTES));
const pagesOf = (numbers: readonly number[]) => Buffer.concat(numbers.map(pageOf));

const number = fc.nat(60);
const stretch = fc
  .tuple(number, fc.integer({ min: 1, max: 12 }))
  .map(([first, count]) => Array.from({ length: count }, (_, i) => first + i));
const content = fc.array(stretch, { maxLength: 6 }).map((stretches) => stretches.flat());

function streamOf(guest: readonly { at: number; numbers: readonly number[] }[]): Buffer {
  const builder = new StreamBuilder()
    .header()
    .ramStart(2, { "pc.ram": 1 << 24 })
    .part(2);
  for (const { at, numbers } of guest) numbers.forEach((number, i) => void builder.page(at + i, pageOf(number)));
  return builder.eos().footer(2).u8(0).build();
}

describe("references", () => {
  test("give back any memory from any disks and checkpoints, also from what has changed since", async () => {
    const guest = fc.array(fc.record({ at: fc.nat(1000), numbers: stretch }), { maxLength: 8 });
    const change = fc.record({ kind: fc.constantFrom(DISK, CHECKPOINT), source: fc.nat(2), block: fc.nat(50), number });
    await fc.assert(
      fc.asyncProperty(
        fc.array(content, { maxLength: 3 }),
        fc.array(content, { maxLength: 2 }),
        guest,
        fc.array(change, { maxLength: 6 }),
        fc.integer({ min: 2000, max: 200_000 }),
        async (disks, checkpoints, guest, changes, chunkBytes) => {
          const stream = streamOf(guest);
          const held = { [DISK]: disks.map(pagesOf), [CHECKPOINT]: checkpoints.map(pagesOf) };
          const sent = send(stream, indexed(held[DISK], held[CHECKPOINT]), chunkBytes);
          const [onDisk, inCheckpoint] = [new Set(disks.flat()), new Set(checkpoints.flat())];
          const pages = guest.flatMap(({ numbers }) => numbers).filter((number) => number !== 0);
          const elsewhere = pages.filter((number) => !inCheckpoint.has(number));
          expect(sent.counts).toMatchObject({
            checkpointPages: pages.length - elsewhere.length,
            diskPages: elsewhere.filter((number) => onDisk.has(number)).length,
            literalPages: elsewhere.filter((number) => !onDisk.has(number)).length,
          });

          const unchanged = receive(sent, stream, held);
          expect(Buffer.compare(unchanged.bytes, stream)).toBe(0);
          expect(unchanged.failedPages).toBe(0);

          for (const { kind, source, block, number } of changes) {
            const content = held[kind][source];
            if (content && block < content.length / PAGE_BYTES) content.set(pageOf(number), block * PAGE_BYTES);
          }
          expect(Buffer.compare(receive(sent, stream, held).bytes, stream)).toBe(0);
        },
      ),
      { numRuns: 60 },
    );
  });

  test("of consecutive pages to consecutive blocks are one token, of 32 pages at most", async () => {
    const numbers = Array.from({ length: 600 }, (_, i) => i + 1);
    const matcher = indexed([pagesOf([0, 5000]), pagesOf(numbers)]);
    const sent = send(streamOf([{ at: 77, numbers }]), matcher, STREAM_BYTES);
    expect(sent.referred.map(({ run: { count, source, block } }) => [source, block, count])).toEqual([
      ...Array.from({ length: 18 }, (_, i) => [1, i * 32, 32]),
      [1, 576, 24],
    ]);
    expect(sent.bodies.length).toBe(1);
    // Head, page, disk and block of two bytes or one each, and a tag of 16; all that is not pages.
    expect(sent.bodies[0]!.tokenBytes).toBeLessThan(19 * 22);
  });

  test("do not run on from one disk to the next", async () => {
    const matcher = indexed([pagesOf([1, 2]), pagesOf([3, 4])]);
    const { referred } = send(streamOf([{ at: 0, numbers: [1, 2, 3, 4] }]), matcher, STREAM_BYTES);
    expect(referred.map(({ run: { count, source, block } }) => [source, block, count])).toEqual([
      [0, 0, 2],
      [1, 0, 2],
    ]);
  });

  test("stop for a disk or checkpoint that is switched off, and for no other", async () => {
    const matcher = indexed([pagesOf([1]), pagesOf([2, 3])], [pagesOf([9, 3]), pagesOf([4])]);
    const off = (kind: PlaceFound["kind"], source: number) => matcher.switchOff({ kind, source });
    expect([off(DISK, 0), off(DISK, 0), off(CHECKPOINT, 0), off(CHECKPOINT, 0)]).toEqual([true, false, true, false]);
    const { counts } = send(streamOf([{ at: 0, numbers: [1, 2, 3, 4] }]), matcher, STREAM_BYTES);
    expect(counts).toMatchObject({ diskPages: 2, checkpointPages: 1, literalPages: 1 });
  });

  test("to a checkpoint go on over pages that stand in it more than once, 256 pages a token", async () => {
    const numbers = Array.from({ length: 300 }, (_, i) => (i % 10 === 9 ? 5 : i + 1));
    const matcher = indexed([], [pagesOf([7, ...numbers])]);
    const { referred } = send(streamOf([{ at: 77, numbers }]), matcher, STREAM_BYTES);
    expect(referred.map(({ run: { kind, source, block, count } }) => [kind, source, block, count])).toEqual([
      [CHECKPOINT, 0, 1, 256],
      [CHECKPOINT, 0, 257, 44],
    ]);
  });
});

describe("the sender's references", () => {
  const run = (source: number, count: number): PlaceFound => ({
    ...{ record: 0, count, kind: DISK, source, block: 0, tag: new Uint8Array(16) },
  });
  const bytes = (pages: number) => pages * 4104;

  async function references() {
    const switchedOff: number[] = [];
    const result = new PlaceReferences(indexed([pagesOf([1]), pagesOf([2])]), ({ kind, source }) =>
      switchedOff.push(kind === DISK ? source : -1),
    );
    return { references: result, switchedOff };
  }

  test("may be asked for once each, and not when they are acknowledged", async () => {
    const { references: sent } = await references();
    sent.referred(100, run(0, 2));
    sent.referred(100 + bytes(2), run(0, 1));
    for (const [rawOffset, pages] of [
      [101, 2],
      [100, 1],
      [100, 3],
      [100 + bytes(3), 1],
    ] as const) {
      expect(() => sent.nacked({ rawOffset, rawBytes: bytes(pages) })).toThrow("no reference stood for");
    }
    sent.nacked({ rawOffset: 100, rawBytes: bytes(2) });
    expect(sent.nackedPages).toBe(2);
    expect(() => sent.nacked({ rawOffset: 100, rawBytes: bytes(2) })).toThrow("no reference stood for");
    sent.acknowledged(100 + bytes(3));
    expect(() => sent.nacked({ rawOffset: 100 + bytes(2), rawBytes: bytes(1) })).toThrow("no reference stood for");
  });

  test("to the page cache may be asked for too, also where there is nothing else to refer to", () => {
    const sent = new PlaceReferences(undefined, () => {});
    expect(sent.match(0, 1)).toEqual([]);
    for (let i = 0; i < 100; i++) sent.referred(i * bytes(100), { kind: SAME, source: 0, count: 100 });
    for (let i = 0; i < 100; i++) sent.nacked({ rawOffset: i * bytes(100), rawBytes: bytes(100) });
    sent.acknowledged(100 * bytes(100));
    expect(sent.nackedPages).toBe(10_000);
  });

  test.each([
    [2048, []],
    [2304, [1]],
  ])("are switched off where more than half of 4096 pages fail: %i", async (failing, expected) => {
    const { references: sent, switchedOff } = await references();
    for (let i = 0; i < 32; i++) {
      const rawOffset = i * bytes(256);
      sent.referred(rawOffset, run(i % 2, 256));
      const isFailing = i % 2 === 1 && i < (failing / 256) * 2;
      if (isFailing) sent.nacked({ rawOffset, rawBytes: bytes(256) });
    }
    expect(switchedOff).toEqual([]);
    sent.acknowledged(32 * bytes(256));
    expect(switchedOff).toEqual(expected);
  });
});
