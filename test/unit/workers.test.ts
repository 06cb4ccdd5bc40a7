import { randomBytes } from "node:crypto";
import { buffer } from "node:stream/consumers";
import { constants, createZstdCompress, zstdCompressSync } from "node:zlib";
import fc from "fast-check";
import { compressSync } from "lz4-napi";
import { describe, expect, onTestFinished, test } from "vitest";
import { nameOf, type Packing } from "../../src/compact/codec.ts";
import { createKernels } from "../../src/migration/kernels.ts";
import type { BodyJob, BodyResult } from "../../src/migration/workers/job.ts";
import { WorkerPool } from "../../src/migration/workers/pool.ts";
import { type Slot, Workbench } from "../../src/migration/workers/workbench.ts";
import { structured } from "./support/pages.ts";

const packings: Packing[] = [
  { codec: "lz4", level: 0 },
  { codec: "zstd", level: 1 },
  { codec: "zstd", level: 9 },
];
const text = Buffer.alloc(200_000, "what a guest has in its memory is often text; ");

async function workbench(threads: number, warnings: string[] = []): Promise<Workbench> {
  const bench = new Workbench(4, threads, (message) => warnings.push(message));
  onTestFinished(() => bench.stop());
  bench.start();
  await expect.poll(() => bench.threads, { timeout: 10_000 }).toBe(threads);
  return bench;
}

const pack = (bench: Workbench, slot: Slot, bytes: Uint8Array, packing: Packing): Promise<BodyResult> => {
  slot.input.set(bytes);
  return new Promise((resolve) => bench.pack(slot, bytes.length, packing, resolve));
};
const unpack = (bench: Workbench, slot: Slot, bytes: Uint8Array, packing: Packing, bodyBytes: number) => {
  slot.input.set(bytes);
  return new Promise<number>((resolve) =>
    bench.unpack(slot, bytes.length, packing.codec, bodyBytes, ({ bytes }) => resolve(bytes)),
  );
};

describe.each([0, 2])("with %i threads", (threads) => {
  test.each(packings.map((packing) => [nameOf(packing), packing] as const))(
    "%s: what was packed unpacks",
    async (_, packing) => {
      const bench = await workbench(threads);
      const [one, other] = [bench.take()!, bench.take()!];
      const bodies = fc.oneof(structured(40), fc.constant(new Uint8Array(text)));
      await fc.assert(
        fc.asyncProperty(bodies, async (body) => {
          if (body.length === 0) return;
          const { bytes, ms } = await pack(bench, one, body, packing);
          expect(ms).toBeGreaterThanOrEqual(0);
          if (bytes === 0) return;
          expect(bytes).toBeLessThan(body.length);
          const packed = one.output.slice(0, bytes);
          expect(await unpack(bench, other, packed, packing, body.length)).toBe(body.length);
          expect(Buffer.compare(other.output.subarray(0, body.length), body)).toBe(0);
        }),
        { numRuns: 30 },
      );
      expect((await pack(bench, one, text, packing)).bytes).toBeGreaterThan(0);
    },
  );

  test("bytes that do not shrink are not packed", async () => {
    const bench = await workbench(threads);
    const slot = bench.take()!;
    for (const packing of packings) expect((await pack(bench, slot, randomBytes(100_000), packing)).bytes).toBe(0);
  });

  test("what is cut off, too long or nothing at all does not unpack", async () => {
    const bench = await workbench(threads);
    const slot = bench.take()!;
    const good = { lz4: compressSync(text).subarray(4), zstd: zstdCompressSync(text), none: Buffer.alloc(0) };
    for (const packing of packings) {
      const packed = good[packing.codec];
      expect(await unpack(bench, slot, packed, packing, text.length)).toBe(text.length);
      expect(await unpack(bench, slot, packed, packing, text.length + 1)).toBe(text.length);
      expect(await unpack(bench, slot, packed, packing, text.length - 1)).toBe(0);
      expect(await unpack(bench, slot, packed.subarray(0, packed.length - 1), packing, text.length)).toBe(0);
      expect(await unpack(bench, slot, randomBytes(1000), packing, text.length)).toBe(0);
      expect(slot.output.subarray(text.length + 1, text.length + 100).every((byte) => byte === 0)).toBe(true);
    }
  });
});

test("a zstd frame that asks for much memory to look back in does not unpack", async () => {
  const bench = await workbench(0);
  const slot = bench.take()!;
  const zstd: Packing = { codec: "zstd", level: 1 };
  const frame = async (windowLog: number) => {
    // Of a length that is not known ahead, so that the frame says how far it looks back.
    const params = { [constants.ZSTD_c_windowLog]: windowLog, [constants.ZSTD_c_contentSizeFlag]: 0 };
    const stream = createZstdCompress({ params });
    stream.write("once");
    await new Promise<void>((resolve) => stream.flush(resolve));
    stream.end("more");
    return buffer(stream);
  };
  expect(await unpack(bench, slot, await frame(21), zstd, 8)).toBe(8);
  expect(await unpack(bench, slot, await frame(22), zstd, 8)).toBe(0);
  expect(await unpack(bench, slot, await frame(27), zstd, 8)).toBe(0);
});

test("slots are as many as there are, and come back", async () => {
  const bench = await workbench(0);
  const slots = Array.from({ length: 4 }, () => bench.take());
  expect(new Set(slots.map((slot) => slot!.input.byteOffset)).size).toBe(4);
  expect(bench.take()).toBeUndefined();
  bench.release(slots[2]!);
  expect(bench.take()).toBe(slots[2]);
});

test("a thread that dies: its work is done all the same, and that is said", async () => {
  const kernels = createKernels(1 << 20);
  const warnings: string[] = [];
  const pool = new WorkerPool(kernels.memory, kernels.pages, (message) => warnings.push(message));
  onTestFinished(() => pool.stop());
  pool.start(1, new URL("./support/dying-worker.ts", import.meta.url));
  await expect.poll(() => pool.threads, { timeout: 10_000 }).toBe(1);
  kernels.bytes.set(text, kernels.base);
  const job: BodyJob = {
    ...{ task: "pack", codec: "zstd", level: 1, from: kernels.base, bytes: text.length },
    ...{ to: kernels.base + text.length, capacity: text.length, table: 0 },
  };
  const results = await Promise.all([1, 2, 3].map(() => new Promise<BodyResult>((done) => pool.run(job, done))));
  for (const { bytes } of results) expect(bytes).toBeGreaterThan(0);
  expect(warnings).toEqual(["a worker thread died, the others do its work: out of luck"]);
  expect(pool.threads).toBe(0);
});

test("once stopped, nothing is done any more", async () => {
  const bench = await workbench(1);
  const slot = bench.take()!;
  slot.input.set(text);
  let isDone = false;
  bench.pack(slot, text.length, packings[1]!, () => {
    isDone = true;
  });
  bench.stop();
  const other = await workbench(1);
  await pack(other, other.take()!, text, packings[1]!);
  expect(isDone).toBe(false);
});
