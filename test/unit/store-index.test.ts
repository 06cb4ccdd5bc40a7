import { readFileSync } from "node:fs";
import { mkdtemp, readdir, readFile, rename, rm, stat, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { beforeEach, describe, expect, onTestFinished, test } from "vitest";
import { type IndexAbout, PART_BLOCKS } from "../../src/store/index-format.ts";
import { IndexStore } from "../../src/store/index-store.ts";

const document = readFileSync(new URL("../../docs/index-format.md", import.meta.url), "utf8");
const BLOCK_BYTES = 4096;
const about: IndexAbout = {
  vm: "uuid:6f0d3f4e-6f77-4974-8000-676f64776974",
  disk: "disk0",
  vmName: "web1",
  image: "/vm/web1.raw",
  files: [{ dev: 2049n, inode: 131_073n, sizeBytes: 12_388, mtimeNs: 1_700_000_000_123_456_789n }],
  bitmap: null,
  savedMs: 1_700_000_000_500,
};
/** Two parts and a bit, the one in the middle with nothing on it. */
const SIZE_BYTES = (2 * PART_BLOCKS + 3) * BLOCK_BYTES + 100;

let stateDir: string;
let store: IndexStore;

beforeEach(async () => {
  stateDir = await mkdtemp(join(tmpdir(), "godwit-index-"));
  onTestFinished(() => rm(stateDir, { recursive: true }));
  await writeSeed(Buffer.from("0123456789abcdef", "hex"));
  store = await IndexStore.open(stateDir);
});

async function writeSeed(seed: Uint8Array): Promise<void> {
  await IndexStore.open(stateDir); // makes the folder
  await writeFile(join(stateDir, "indexes", "seed"), seed);
}

async function indexPath(): Promise<string> {
  const [name] = (await readdir(join(stateDir, "indexes"))).filter((each) => each.endsWith(".index"));
  return join(stateDir, "indexes", name!);
}

const hashesOf = (...values: number[]) => Buffer.from(new BigUint64Array(values.map(BigInt)).buffer);
const full = Buffer.alloc(PART_BLOCKS * 8, 0x11);

async function write(sizeBytes = SIZE_BYTES): Promise<string> {
  await using writer = await store.create(about, sizeBytes);
  await writer.put(0, full, PART_BLOCKS);
  await writer.put(1, Buffer.alloc(PART_BLOCKS * 8), 0);
  await writer.put(2, hashesOf(1, 0, 3), 2);
  await writer.finish(about, undefined, () => false);
  return indexPath();
}

/** What is read of each part: its hashes, or null. */
async function read(): Promise<(string | null)[]> {
  await using stored = await store.find(about);
  const parts: (string | null)[] = [];
  for (let part = 0; part < stored!.parts; part++) {
    const hashes = new Uint8Array(stored!.blocks(part) * 8);
    parts.push((await stored!.readPart(part, hashes)) ? Buffer.from(hashes).toString("hex") : null);
  }
  return parts;
}

const expected = [full.toString("hex"), "00".repeat(PART_BLOCKS * 8), hashesOf(1, 0, 3).toString("hex")];

describe("an index", () => {
  test("is what the document shows", async () => {
    await using writer = await store.create(about, 12_388);
    await writer.put(0, hashesOf(0xfedcba98, 0, 0x76543210), 2);
    await writer.finish(about, undefined, () => false);
    const bytes = await readFile(await indexPath());
    expect(bytes.length).toBe(131_072 + 24);
    expect(/<!-- example:[^\n]*-->\n```\n(.*?)```/s.exec(document)?.[1]).toBe(dump(bytes));
  });

  test("is read as it was written, and takes no room for what is not there", async () => {
    const path = await write();
    expect(await read()).toEqual(expected);
    await using stored = await store.find(about);
    expect(stored!.header).toEqual({ seed: 0xefcdab8967452301n, sizeBytes: SIZE_BYTES, about });
    expect([0, 1, 2, 3].map((part) => stored!.state(part))).toEqual(["known", "known", "known", "unknown"]);
    expect(stored!.hashes).toBe(PART_BLOCKS + 2);
    const status = await stat(path);
    expect(status.mode & 0o777).toBe(0o600);
    expect(status.blocks * 512).toBeLessThan(65_536 * 5);
  });

  test("keeps of the one before what was not read again, and says what is stale", async () => {
    await write();
    await using previous = await store.find(about);
    await using writer = await store.create(about, SIZE_BYTES);
    await writer.put(2, hashesOf(7, 8, 9), 3);
    await writer.finish({ ...about, bitmap: "godwit-1" }, previous, (part) => part === 0);
    expect(await read()).toEqual([expected[0], expected[1], hashesOf(7, 8, 9).toString("hex")]);
    await using stored = await store.find(about);
    expect([0, 1, 2].map((part) => stored!.state(part))).toEqual(["stale", "known", "known"]);
    expect(stored!.header.about.bitmap).toBe("godwit-1");
  });

  test("a part that is doubted after it was put is stale, with its hashes", async () => {
    {
      await using writer = await store.create(about, SIZE_BYTES);
      await writer.put(0, full, PART_BLOCKS);
      await writer.put(1, hashesOf(), 0);
      writer.doubt(0);
      writer.doubt(2);
      await writer.finish(about, undefined, () => false);
    }
    await using stored = await store.find(about);
    expect([0, 1, 2].map((part) => stored!.state(part))).toEqual(["stale", "known", "unknown"]);
    expect(await stored!.readPart(0, new Uint8Array(PART_BLOCKS * 8))).toBe(true);
  });

  test("that is not finished leaves nothing behind, and the one before as it was", async () => {
    await write();
    {
      await using writer = await store.create(about, SIZE_BYTES);
      await writer.put(0, full.fill(0x22), PART_BLOCKS);
    }
    full.fill(0x11);
    expect(await read()).toEqual(expected);
    expect((await readdir(join(stateDir, "indexes"))).sort()).toEqual([expect.stringMatching(/\.index$/), "seed"]);
  });

  test("of a disk that has another size now: parts that have not moved count", async () => {
    await write();
    await using previous = await store.find(about);
    await using writer = await store.create(about, 4 * PART_BLOCKS * BLOCK_BYTES);
    await writer.finish(about, previous, () => false);
    expect(await read()).toEqual([expected[0], expected[1], null, null]);
  });
});

describe("a damaged index", () => {
  test("cut off anywhere: what is left counts", async () => {
    const path = await write();
    const whole = await readFile(path);
    for (const [bytes, wanted] of [
      [whole.length - 1, [expected[0], expected[1], null]],
      [131_072 + 100, [null, expected[1], null]],
      [65_536 + 20, [null, null, null]],
      [65_536, [null, null, null]],
      [47, "STORE_INDEX_DAMAGED"],
      [0, "STORE_INDEX_DAMAGED"],
    ] as const) {
      await writeFile(path, whole);
      await truncate(path, bytes);
      if (typeof wanted === "string") await expect(read()).rejects.toMatchObject({ code: wanted });
      else expect(await read()).toEqual(wanted);
    }
  });

  test("with any bit flipped: none of its hashes is another than was written", async () => {
    const path = await write();
    const whole = await readFile(path);
    const interesting = fc.oneof(
      fc.integer({ min: 0, max: 600 }),
      fc.integer({ min: 65_536, max: 65_600 }),
      fc.integer({ min: 131_072, max: whole.length - 1 }),
    );
    await fc.assert(
      fc.asyncProperty(interesting, fc.nat(7), async (at, bit) => {
        const bytes = Buffer.from(whole);
        bytes[at]! ^= 1 << bit;
        await writeFile(path, bytes);
        const parts = await read().catch((error) => String(error.code));
        if (typeof parts === "string") {
          expect(parts).toMatch(/^STORE_INDEX_(DAMAGED|NEWER)$/);
          expect(at).toBeLessThan(65_536);
          return;
        }
        const lost = parts.filter((part, i) => part !== expected[i]);
        expect(lost.every((part) => part === null)).toBe(true);
        expect(lost.length).toBeLessThanOrEqual(1);
        if (at >= 65_536 && at < 65_536 + 48) expect(lost.length).toBe(1);
      }),
      { numRuns: 150 },
    );
  });

  test("of another version, disk or host, or no index at all", async () => {
    const path = await write();
    const whole = await readFile(path);
    const newer = Buffer.from(whole);
    newer.writeUInt32LE(2, 8);
    for (const [bytes, code] of [
      [newer, "STORE_INDEX_NEWER"],
      [Buffer.alloc(200_000, "x"), "STORE_INDEX_DAMAGED"],
      [Buffer.alloc(200_000), "STORE_INDEX_DAMAGED"],
    ] as const) {
      await writeFile(path, bytes);
      await expect(store.find(about)).rejects.toMatchObject({ code });
      expect(await store.list()).toMatchObject([{ about: undefined, why: expect.any(String) }]);
    }
    await writeFile(path, whole);
    expect(await store.find({ ...about, disk: "disk1" })).toBeUndefined();
    const other = await store.create({ ...about, disk: "disk1" }, SIZE_BYTES);
    await other.finish({ ...about, disk: "disk1" }, undefined, () => false);
    await other[Symbol.asyncDispose]();
    const names = (await readdir(join(stateDir, "indexes"))).filter((name) => name.endsWith(".index"));
    const [mine, theirs] = names.map((name) => join(stateDir, "indexes", name));
    await rename(mine!, `${mine}.x`);
    await rename(theirs!, mine!);
    await rename(`${mine}.x`, theirs!);
    await expect(store.find(about)).rejects.toMatchObject({ code: "STORE_INDEX_FOREIGN" });

    await writeFile(path, whole);
    await writeSeed(Buffer.alloc(8, 1));
    store = await IndexStore.open(stateDir);
    await expect(store.find(about)).rejects.toMatchObject({ code: "STORE_INDEX_FOREIGN" });
  });
});

describe("the folder", () => {
  test("a seed that is torn is drawn anew, and stays", async () => {
    await writeSeed(Buffer.alloc(3));
    const { seed } = await IndexStore.open(stateDir);
    expect((await IndexStore.open(stateDir)).seed).toBe(seed);
    expect((await stat(join(stateDir, "indexes"))).mode & 0o777).toBe(0o700);
  });

  test("what a process that is gone was writing is removed", async () => {
    const path = await write();
    const leftover = path.replace(".index", ".4194305.tmp"); // above the largest pid_max
    const others = path.replace(".index", ".1.tmp");
    for (const each of [leftover, others]) await writeFile(each, "x");
    await IndexStore.open(stateDir);
    await expect(stat(leftover)).rejects.toThrow("ENOENT");
    await stat(others);
  });

  test("lists and deletes", async () => {
    await write();
    const [info] = await store.list();
    expect(info).toMatchObject({ about, sizeBytes: SIZE_BYTES, hashes: PART_BLOCKS + 2, why: null });
    for (const prefix of ["x", ""])
      await expect(store.locate([prefix])).rejects.toMatchObject({ code: "STORE_INDEX_NONE" });
    const id = info!.id;
    expect(await store.locate([id.slice(0, 6), id])).toMatchObject([{ id }]);
    await store.delete(info!);
    expect(await store.list()).toEqual([]);
  });

  test("that can't be written to", async () => {
    await rm(join(stateDir, "indexes"), { recursive: true });
    await expect(store.create(about, SIZE_BYTES)).rejects.toMatchObject({ code: "STORE_INDEX_NOT_WRITABLE" });
    await writeFile(join(stateDir, "indexes"), "a file");
    await expect(IndexStore.open(stateDir)).rejects.toMatchObject({ code: "STORE_STATE_DIR" });
  });
});

/** Lines of 16 bytes with their offsets, stretches of zeros left out. */
function dump(bytes: Buffer): string {
  const lines: string[] = [];
  for (let at = 0; at < bytes.length; at += 16) {
    const line = bytes.subarray(at, at + 16);
    if (line.every((byte) => byte === 0)) continue;
    const hex = line.toString("hex").replace(/../g, "$& ").trimEnd();
    const text = line.toString("latin1").replace(/[^ -~]/g, ".");
    lines.push(`${at.toString(16).padStart(6, "0")}  ${hex.padEnd(47)}  ${text}`);
  }
  return `${lines.join("\n")}\n`;
}
