import { copyFile, cp, readFile, rename, rm, truncate, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { crc32 } from "node:zlib";
import fc from "fast-check";
import { expect, test } from "vitest";
import { openCheckpoints } from "../../src/migration/open-checkpoints.ts";
import type { CheckpointStore } from "../../src/store/checkpoint-store.ts";
import {
  codeOf,
  filesOf,
  keep,
  newStore,
  PAGE_BYTES,
  pageOf,
  stateDirOf,
  temporaryFolder,
  VM,
} from "./support/checkpoint-stores.ts";

const PAGES = 70;

/** What a reader of each page gets: true, or the code of the error. Never another content. */
async function readEach(store: CheckpointStore, id: string): Promise<(true | string)[]> {
  const results: (true | string)[] = [];
  await using reader = await store.open(id);
  const page = Buffer.alloc(PAGE_BYTES);
  for (let position = 0; position < reader.pages; position++) {
    const code = await codeOf(reader.read(position * PAGE_BYTES, page));
    if (code === "none") expect(page.equals(pageOf(position))).toBe(true);
    results.push(code === "none" ? true : code);
  }
  return results;
}

/** Works on a copy of a store with one checkpoint, whose file is changed. */
async function damaged(
  store: CheckpointStore,
  path: string,
  change: (bytes: Buffer) => Buffer,
  look: (copy: CheckpointStore) => Promise<void>,
): Promise<void> {
  const folder = await temporaryFolder();
  try {
    await cp(stateDirOf(store), folder, { recursive: true });
    const copied = join(folder, path.slice(stateDirOf(store).length));
    await writeFile(copied, change(await readFile(copied)));
    await look(await openCheckpoints(folder, { maxBytes: 2 ** 30 }));
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** A checkpoint that is damaged somewhere: it is told, no wrong page is read, and the store goes on. */
async function expectHarmless(copy: CheckpointStore, id: string): Promise<void> {
  const [listed] = await copy.list();
  const { damagedPages, problems } = await copy.check(id);
  expect(problems.length).toBeGreaterThan(0);
  if (listed?.state === "whole") {
    const results = await readEach(copy, id);
    expect(results.filter((result) => result !== true).length).toBeLessThanOrEqual(damagedPages);
  } else {
    expect(listed?.problem).toBeTruthy();
    expect(await codeOf(copy.open(id))).toMatch(/^STORE_CHECKPOINT_/);
    expect(await copy.latest(VM.identity)).toBeUndefined();
  }
  const next = await keep(copy, PAGES);
  expect(next.state).toBe("whole");
  await copy.delete(id).catch((error) => expect(error.code).toBe("STORE_CHECKPOINT_NONE"));
  await copy.gc();
}

const FILES = ["/vm", ".pack", ".checkpoint"] as const;

test.each(FILES)(
  "any bit of %s flipped is told, and gives no wrong page",
  async (suffix) => {
    const store = await newStore();
    const { id } = await keep(store, PAGES);
    const path = (await filesOf(store, suffix))[0]!;
    const bits = (await readFile(path)).length * 8;
    const flip = (bit: number) => (bytes: Buffer) => {
      bytes[bit >> 3]! ^= 1 << (bit & 7);
      return bytes;
    };
    const property = fc.asyncProperty(fc.nat({ max: bits - 1 }), (bit) =>
      damaged(store, path, flip(bit), (copy) => expectHarmless(copy, id)),
    );
    await fc.assert(property, { numRuns: 40 });
  },
  120_000,
);

test.each(FILES)("%s cut off anywhere is told, and gives no page", async (suffix) => {
  const store = await newStore();
  const { id } = await keep(store, PAGES);
  const path = (await filesOf(store, suffix))[0]!;
  const { length } = await readFile(path);
  for (const left of [0, 1, 15, 16, 31, 32, 100, length >> 1, length - 17, length - 16, length - 1]) {
    if (left >= length) continue;
    await damaged(
      store,
      path,
      (bytes) => bytes.subarray(0, left),
      (copy) => expectHarmless(copy, id),
    );
  }
  const longer = (bytes: Buffer) => Buffer.concat([bytes, Buffer.alloc(16)]);
  await damaged(store, path, longer, (copy) => expectHarmless(copy, id));
});

test("a block that is damaged costs its own pages only", async () => {
  const store = await newStore();
  const { id } = await keep(store, PAGES);
  const path = (await filesOf(store, ".pack"))[0]!;
  await damaged(
    store,
    path,
    (bytes) => bytes.fill(0, 16, 24),
    async (copy) => {
      const results = await readEach(copy, id);
      expect(results).toEqual([...Array(16).fill("STORE_CHECKPOINT_DAMAGED"), ...Array(PAGES - 16).fill(true)]);
      const { damagedPages, problems } = await copy.check(id);
      expect([damagedPages, problems.length]).toEqual([16, 1]);
    },
  );
});

test("a pack that is gone", async () => {
  const store = await newStore();
  const { id } = await keep(store, PAGES);
  await using reader = await store.open(id);
  await rm((await filesOf(store, ".pack"))[0]!);
  await reader.read(0, Buffer.alloc(PAGE_BYTES)); // it was opened in time
  expect(await store.find(id)).toMatchObject({ state: "damaged" });
  expect(await store.latest(VM.identity)).toBeUndefined();
  expect((await store.check(id)).problems).toHaveLength(1);
  expect((await keep(store, PAGES)).state).toBe("whole");
});

test("what comes from another VM's folder is refused", async () => {
  const store = await newStore();
  const a = await keep(store, PAGES);
  const b = await keep(store, PAGES, "", { identity: "name:b" });
  const find = async (id: string) => (await filesOf(store, `${id}.checkpoint`))[0]!;
  const folderOfB = dirname(await find(b.id));
  await copyFile(await find(a.id), join(folderOfB, "0123456789ab.checkpoint"));
  expect(await codeOf(store.open("0123456789ab"))).toBe("STORE_CHECKPOINT_FOREIGN");
  expect(await store.find("0123456789ab")).toMatchObject({ state: "damaged" });
  await store.delete("0123456789ab");
  // Its packs, too.
  const [packOfA, packOfB] = [dirname(await find(a.id)), folderOfB].map(async (folder) =>
    (await filesOf(store, ".pack")).find((path) => dirname(path) === folder),
  );
  await copyFile((await packOfA)!, (await packOfB)!);
  expect(new Set(await readEach(store, b.id))).toEqual(new Set(["STORE_CHECKPOINT_FOREIGN"]));
  expect((await store.check(b.id)).damagedPages).toBe(PAGES);
  // And a whole folder under another name.
  await rename(folderOfB, join(store.path, "0".repeat(32)));
  expect(await codeOf(store.open(b.id))).toBe("STORE_CHECKPOINT_FOREIGN");
  expect(await store.check(a.id)).toMatchObject({ problems: [] });
});

/** A file of format version 2, as far as version 1 can tell. */
function newer(bytes: Buffer): Buffer {
  bytes.writeUInt32LE(2, 8);
  bytes.writeUInt32LE(crc32(bytes.subarray(0, 12)), 12);
  return bytes;
}

test("a newer version is left alone", async () => {
  const store = await newStore();
  const a = await keep(store, PAGES);
  const b = await keep(store, 2 * PAGES);
  const path = (await filesOf(store, `${b.id}.checkpoint`))[0]!;
  await writeFile(path, newer(await readFile(path)));
  expect(await codeOf(store.open(b.id))).toBe("STORE_CHECKPOINT_NEWER");
  expect(await store.find(b.id)).toMatchObject({ state: "newer", problem: expect.stringContaining("newer godwit") });
  expect((await store.latest(VM.identity))?.id).toBe(a.id);
  await store.delete(a.id);
  await store.gc();
  expect(await filesOf(store, ".pack")).toHaveLength(2); // its packs
  expect((await keep(store, PAGES)).state).toBe("whole");
  await store.delete(b.id);
  expect(await store.list()).toHaveLength(1);
});

test("nothing is done in the folder of a VM whose keys are of a newer version", async () => {
  const store = await newStore();
  const { id } = await keep(store, PAGES);
  const other = await keep(store, PAGES, "", { identity: "name:b" });
  const path = join(dirname((await filesOf(store, `${id}.checkpoint`))[0]!), "vm");
  await writeFile(path, newer(await readFile(path)));
  const files = await filesOf(store);
  expect(await store.gc()).toEqual({ freedBytes: 0, busyVms: 0 });
  expect(await codeOf(store.create(VM))).toBe("STORE_CHECKPOINT_NEWER");
  expect(await filesOf(store)).toEqual(files);
  await store.delete(other.id);
  expect(await store.find(id)).toMatchObject({ state: "newer" });
});

test("leftovers and files of others are no checkpoints", async () => {
  const store = await newStore();
  const { id } = await keep(store, PAGES);
  const folder = dirname((await filesOf(store, "/vm"))[0]!);
  for (const name of ["feed.pack.tmp", "feed.entries.tmp", "0123456789abcdef.pack"])
    await writeFile(join(folder, name), "x");
  await writeFile(join(store.path, "notes"), "x");
  await truncate(join(folder, "feed.pack.tmp"), 1 << 20);
  expect(await store.list()).toHaveLength(1);
  const { freedBytes } = await store.gc();
  expect(freedBytes).toBe((1 << 20) + 2);
  expect((await filesOf(store)).map((path) => basename(path))).toContain("notes");
  expect(await store.check(id)).toMatchObject({ problems: [] });
});

test("what was given up in a pack is told to whoever wants it still, page by page", async () => {
  const store = await newStore();
  const big = await keep(store, 5 * PAGES);
  const small = await keep(store, 37);
  const manifest = (await filesOf(store, `${big.id}.checkpoint`))[0]!;
  const saved = await readFile(manifest);
  await store.delete(big.id);
  await writeFile(manifest, saved);
  const results = await readEach(store, big.id);
  expect(results).toEqual([...Array(37).fill(true), ...Array(5 * PAGES - 37).fill("STORE_CHECKPOINT_GONE")]);
  expect(await store.check(big.id)).toMatchObject({ damagedPages: 5 * PAGES - 37 });
  expect(await store.check(small.id)).toMatchObject({ damagedPages: 0, problems: [] });
});

test("damage that a check has found is not handed on to later checkpoints", async () => {
  const store = await newStore();
  const { id } = await keep(store, PAGES);
  const path = (await filesOf(store, ".pack"))[0]!;
  const bytes = await readFile(path);
  await writeFile(path, bytes.fill(0, 16, 24));
  expect((await store.check(id)).damagedPages).toBe(16);
  const next = await keep(store, PAGES);
  expect(await store.check(next.id)).toMatchObject({ damagedPages: 0, problems: [] });
  expect((await store.check(id)).damagedPages).toBe(16);
});
