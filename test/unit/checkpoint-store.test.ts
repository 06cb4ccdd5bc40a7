import { copyFile, stat, utimes } from "node:fs/promises";
import { expect, test } from "vitest";
import { xxh3Secret } from "../../src/compact/xxh3-secret.ts";
import { createKernels } from "../../src/migration/kernels.ts";
import { openCheckpoints } from "../../src/migration/open-checkpoints.ts";
import {
  codeOf,
  contentOf,
  filesOf,
  joined,
  keep,
  newStore,
  PAGE_BYTES,
  pageOf,
  pagesOf,
  stateDirOf,
  VM,
} from "./support/checkpoint-stores.ts";

test("keeps pages, and reads them by their positions", async () => {
  const store = await newStore();
  await using writer = await store.create(VM);
  writer.add(100, pagesOf(0, 40));
  writer.add(7, pageOf(1000));
  await writer.drained();
  writer.add(50_000, pagesOf(2000, 3));
  const kept = await writer.finish();
  expect(kept).toMatchObject({ identity: "name:a", vmName: "a", pages: 44, origin: "saved", state: "whole" });
  const content = await contentOf(store, kept.id);
  expect(content.equals(Buffer.concat([pageOf(1000), pagesOf(0, 40), pagesOf(2000, 3)]))).toBe(true);
  expect(await store.check(kept.id)).toEqual({ id: kept.id, pages: 44, damagedPages: 0, problems: [] });
});

test("leaves nothing but the checkpoint, for its owner only", async () => {
  const store = await newStore();
  await keep(store, 20);
  const files = await filesOf(store);
  expect(files.map((path) => path.replace(/.*[/.]/, "")).sort()).toEqual(["checkpoint", "pack", "vm"]);
  for (const path of files) expect((await stat(path)).mode & 0o777).toBe(0o600);
});

test("a page that is added again replaces what it was, and zeros remove it", async () => {
  const store = await newStore();
  await using writer = await store.create(VM);
  writer.add(0, pagesOf(0, 10));
  writer.add(3, pageOf(33));
  writer.add(5, new Uint8Array(2 * PAGE_BYTES));
  writer.zero(8, 1000);
  writer.zero(2000, 1000);
  const { id, pages } = await writer.finish();
  expect(pages).toBe(6);
  const expected = Buffer.concat([pagesOf(0, 3), pageOf(33), pageOf(4), pageOf(7)]);
  expect((await contentOf(store, id)).equals(expected)).toBe(true);
});

test("a content is stored once, within a checkpoint and among those of a VM", async () => {
  const store = await newStore();
  await using writer = await store.create(VM);
  for (let copy = 0; copy < 5; copy++) writer.add(copy * 100, pagesOf(0, 30));
  const first = await writer.finish();
  const second = await keep(store, 32);
  expect(second.storedBytes).toBeLessThan(first.sharedBytes + first.storedBytes);
  expect(second.pages).toBe(32);
  expect((await contentOf(store, first.id)).equals(Buffer.concat(Array(5).fill(pagesOf(0, 30))))).toBe(true);
  expect((await contentOf(store, second.id)).equals(pagesOf(0, 32))).toBe(true);
  const packs = await Promise.all((await filesOf(store, ".pack")).map(async (path) => (await stat(path)).size));
  const alone = await newStore();
  await keep(alone, 32);
  const [aloneBytes] = await Promise.all((await filesOf(alone, ".pack")).map(async (path) => (await stat(path)).size));
  expect(packs.reduce((sum, size) => sum + size)).toBeLessThan(aloneBytes! * 1.2);
});

test("nothing is shared between VMs", async () => {
  const store = await newStore();
  const a = await keep(store, 20);
  const b = await keep(store, 20, "", { identity: "name:b" });
  expect([a.sharedBytes, b.sharedBytes]).toEqual([0, 0]);
  expect(b.storedBytes).toBeCloseTo(a.storedBytes, -3);
  await store.delete(a.id);
  expect(await store.check(b.id)).toMatchObject({ damagedPages: 0, problems: [] });
});

test("tells hashes under its seed, and page numbers, by positions", async () => {
  const store = await newStore();
  await using writer = await store.create(VM);
  writer.add(9000, pagesOf(0, 9000));
  writer.add(3, pageOf(77_777));
  const { id } = await writer.finish();
  await using reader = await store.open(id);
  const hashes = await joined(reader.hashes());
  const numbers = await joined(reader.pageNumbers());
  expect([hashes.length, numbers.length]).toEqual([9001 * 8, 9001 * 8]);
  expect([0, 1, 9000].map((position) => Number(numbers.readBigUInt64LE(position * 8)))).toEqual([3, 9000, 17_999]);
  const { bytes, base, pages } = createKernels(8192);
  bytes.set(pageOf(4321), base);
  bytes.set(xxh3Secret(reader.seed), base + 4096);
  new DataView(bytes.buffer).setUint32(base + 4400, base, true);
  pages.hashPages(base + 4096, base + 4400, 1, base + 4408);
  expect(Buffer.from(bytes.subarray(base + 4408, base + 4416)).equals(hashes.subarray(4322 * 8, 4323 * 8))).toBe(true);
});

test("reads any pages into any places, many at once", async () => {
  const store = await newStore();
  const { id } = await keep(store, 9000);
  await using reader = await store.open(id);
  const all = pagesOf(0, 9000);
  const reads = Array.from({ length: 200 }, async (_, index) => {
    const position = (index * 1237) % 8900;
    const targets = [1, 0, 2, index % 40, 1].map((pages) => Buffer.alloc(pages * PAGE_BYTES));
    await reader.readScattered(position * PAGE_BYTES, targets);
    const got = Buffer.concat(targets);
    return got.equals(all.subarray(position * PAGE_BYTES, position * PAGE_BYTES + got.length));
  });
  expect((await Promise.all(reads)).every(Boolean)).toBe(true);
  await expect(reader.read(100, Buffer.alloc(PAGE_BYTES))).rejects.toThrow(RangeError);
  await expect(reader.read(9000 * PAGE_BYTES, Buffer.alloc(PAGE_BYTES))).rejects.toThrow(RangeError);
});

test("the newest of a VM, and any by the beginning of its id", async () => {
  const store = await newStore();
  expect(await store.latest("name:a")).toBeUndefined();
  const [first, second] = [await keep(store, 10), await keep(store, 11)];
  await keep(store, 12, "", { identity: "name:b" });
  expect((await store.latest("name:a"))?.id).toBe(second.id);
  expect((await store.find(first.id.slice(0, 11))).id).toBe(first.id);
  expect(await codeOf(store.find(""))).toBe("STORE_CHECKPOINT_NONE");
  expect(await codeOf(store.open("0123456789ab"))).toBe("STORE_CHECKPOINT_NONE");
  expect((await store.list()).map(({ pages }) => pages).sort()).toEqual([10, 11, 12]);
  const [manifest] = await filesOf(store, `${first.id}.checkpoint`);
  const alike = first.id.replace(/.$/, (digit) => (digit === "0" ? "1" : "0"));
  await copyFile(manifest!, manifest!.replace(first.id, alike));
  expect(await codeOf(store.find(first.id.slice(0, 11)))).toBe("STORE_CHECKPOINT_AMBIGUOUS");
});

test("what is given up leaves nothing, and lets others write", async () => {
  const store = await newStore();
  {
    await using writer = await store.create(VM);
    writer.add(0, pagesOf(0, 100));
    await writer.drained();
  }
  expect((await filesOf(store)).map((path) => path.replace(/.*\//, ""))).toEqual(["vm"]);
  const { id } = await keep(store, 3);
  expect((await contentOf(store, id)).equals(pagesOf(0, 3))).toBe(true);
});

test("deleting one keeps what another needs, and gives the rest back", async () => {
  const store = await newStore();
  const big = await keep(store, 400);
  const small = await keep(store, 37);
  const before = await store.storedBytes();
  await using early = await store.open(big.id);
  const page = Buffer.alloc(PAGE_BYTES);
  await early.read(0, page);
  const { freedBytes } = await store.delete(big.id);
  expect(freedBytes).toBe(before - (await store.storedBytes()));
  expect(freedBytes / big.storedBytes).toBeGreaterThan(0.8);
  expect(await store.check(small.id)).toMatchObject({ damagedPages: 0, problems: [] });
  expect((await contentOf(store, small.id)).equals(pagesOf(0, 37))).toBe(true);
  // Who has it open reads on.
  await early.read(399 * PAGE_BYTES, page);
  expect(page.equals(pageOf(399))).toBe(true);
  // A later checkpoint stores again what is gone.
  const again = await keep(store, 400);
  expect((await contentOf(store, again.id)).equals(pagesOf(0, 400))).toBe(true);
  await store.delete(small.id);
  await store.delete(again.id);
  expect([await store.storedBytes(), await filesOf(store)]).toEqual([0, []]);
});

test("above its size the checkpoints used longest ago go first", async () => {
  const unbounded = await newStore();
  const ids: string[] = [];
  for (const [index, salt] of ["a", "b", "c", "d"].entries()) {
    const { id } = await keep(unbounded, 64, salt, { identity: `name:${index % 2}` });
    ids.push(id);
    const time = new Date(Date.UTC(2026, 0, index + 1));
    const path = (await filesOf(unbounded, `${id}.checkpoint`))[0]!;
    await utimes(path, time, time);
  }
  await unbounded.touch(ids[0]!);
  const total = await unbounded.storedBytes();
  const store = await openCheckpoints(stateDirOf(unbounded), { maxBytes: total * 1.05 });
  const kept = await keep(store, 64, "e");
  const left = (await store.list()).map(({ id }) => id).sort();
  expect(left).toEqual([ids[0], ids[2], ids[3], kept.id].sort());
  expect(await store.storedBytes()).toBeLessThanOrEqual(store.maxBytes);
  for (const id of left) expect(await store.check(id)).toMatchObject({ problems: [] });
  const smaller = await openCheckpoints(stateDirOf(unbounded), { maxBytes: total * 0.55 });
  await smaller.gc();
  expect((await smaller.list()).map(({ id }) => id).sort()).toEqual([ids[0], kept.id].sort());
});

test("what does not fit at all is refused, and costs no other checkpoint", async () => {
  const store = await newStore(40_000);
  const small = await keep(store, 16, "small");
  const writer = await store.create(VM);
  writer.add(0, pagesOf(1000, 5000));
  expect(await codeOf(writer.drained())).toBe("STORE_TOO_BIG");
  expect(await codeOf(writer.finish())).toBe("STORE_TOO_BIG");
  expect((await store.list()).map(({ id }) => id)).toEqual([small.id]);
  expect(await filesOf(store)).toHaveLength(3);
});

test("a checkpoint without pages", async () => {
  const store = await newStore();
  await using writer = await store.create({ ...VM, vmName: null });
  writer.add(5, new Uint8Array(PAGE_BYTES));
  const kept = await writer.finish();
  expect(kept).toMatchObject({ pages: 0, vmName: null });
  expect((await contentOf(store, kept.id)).length).toBe(0);
  expect((await store.check(kept.id)).problems).toEqual([]);
});
