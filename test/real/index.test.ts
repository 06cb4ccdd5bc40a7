// Indexes of disks that are kept: what did not change is not read again, and a bad one costs bytes and nothing else.
import { readdir, readFile, rename, truncate, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { expect, test } from "vitest";
import { type MigrationOptions, startGodwit, startMigration } from "../../lab/godwit.ts";
import { copyDisk } from "../../lab/guest.ts";
import type { Pair } from "../../lab/pair.ts";
import type { Vm } from "../../lab/vm.ts";
import type { SourceSummary } from "../../src/migration/events.ts";
import type { IndexCommandSummary, IndexEvent } from "../../src/migration/index-disks.ts";
import { WriteWatch } from "../../src/qemu/dirty-bitmap.ts";
import { listDisks } from "../../src/qemu/disks.ts";
import type { IndexAbout } from "../../src/store/index-format.ts";
import { IndexStore } from "../../src/store/index-store.ts";
import { moveWhole } from "./support/move.ts";
import { CACHED, SMALL_LOAD, startPair } from "./support/pair.ts";
import { receiveWith } from "./support/programs.ts";

const MIB = 2 ** 20;
/** A guest that has read little of its disk, and one that has read its root file system. */
const plain = { load: SMALL_LOAD, rateBitsPerSecond: 500e6 };
const cached = { ...CACHED, rateBitsPerSecond: 500e6 };

/** `godwit index` at the source. */
async function index(pair: Pair): Promise<IndexCommandSummary & { warnings: readonly string[] }> {
  await using godwit = startGodwit(pair.hosts.source, ["index", "--qmp", pair.source.qmpPath, "--json"]);
  const { code, stderr } = await godwit.exited;
  expect(code, stderr).toBe(0);
  const events = godwit.events as unknown as IndexEvent[];
  const warnings = events.flatMap((event) => (event.event === "warning" ? [event.message] : []));
  return { ...(events.at(-1) as IndexCommandSummary), warnings };
}

/** Moves the VM, whole, and says what was known and read of its disk. */
async function move(
  pair: Pair,
  options: MigrationOptions = {},
  livesOn = true,
): Promise<{ sent: SourceSummary; warnings: readonly string[] }> {
  const { sent, warnings } = await moveWhole(pair, options, livesOn);
  const { knownBlocks, readBytes } = sent.diskIndex;
  console.log(
    `${expect.getState().currentTestName}: ${knownBlocks} blocks known, ${(readBytes / MIB).toFixed(1)} MiB read; ` +
      `${sent.pages.diskPages} disk pages, ${sent.nackedPages} in vain; ${(sent.wireBytes / MIB).toFixed(0)} MiB on the wire, ` +
      `${(sent.totalMs / 1000).toFixed(1)} s`,
  );
  return { sent, warnings: warnings.source };
}

async function bitmapsOf({ qmp }: Vm): Promise<string[]> {
  const nodes = await qmp.execute("query-named-block-nodes", { flat: true });
  return nodes.flatMap((node) => node["dirty-bitmaps"] ?? []).map(({ name }) => name ?? "");
}

async function writeInGuest({ console: port }: Vm, mib: number): Promise<void> {
  port.send(`dd if=/dev/urandom of=/root/new${mib} bs=1M count=${mib} conv=fsync 2>/dev/null; echo wrote ${mib}`);
  await port.waitFor(new RegExp(`^wrote ${mib}$`), 60_000);
}

async function indexPath(pair: Pair): Promise<string> {
  const folder = join(pair.hosts.source.stateDir!, "indexes");
  const names = (await readdir(folder)).filter((name) => name !== "seed");
  expect(names).toEqual([expect.stringMatching(/^[0-9a-f]{32}\.index$/)]);
  return join(folder, names[0]!);
}

/** What the index of the source's disk says it is of. */
async function aboutOf(pair: Pair): Promise<IndexAbout> {
  const [info] = await (await IndexStore.open(pair.hosts.source.stateDir!)).list();
  expect(info?.why).toBeNull();
  return info!.about!;
}

test.each([
  ["10.0", "raw"],
  ["10.0", "qcow2"],
  ["7.2", "raw"],
] as const)("QEMU %s, %s: built ahead, then only what the guest wrote is read", async (qemu, diskFormat) => {
  const load = qemu === "10.0" && { load: SMALL_LOAD };
  await using pair = await startPair({ rateBitsPerSecond: 500e6, ...load, qemu, diskFormat });
  const built = await index(pair);
  const [first] = built.disks;
  expect(first).toMatchObject({ disk: "virtio-disk0", knownBlocks: 0, isWhole: true, why: null });
  expect(first!.readBytes).toBeGreaterThan(200 * MIB);
  expect(await bitmapsOf(pair.source)).toHaveLength(1);

  await writeInGuest(pair.source, 4);
  const again = (await index(pair)).disks[0]!;
  expect(again.knownBlocks).toBeGreaterThan(50_000);
  expect(again.readBytes).toBeGreaterThanOrEqual(4 * MIB);
  expect(again.readBytes).toBeLessThan(12 * MIB); // metadata of the file system too
  expect(again.newBlocks).toBeGreaterThanOrEqual(1024);
  expect(await bitmapsOf(pair.source)).toHaveLength(1);

  await writeInGuest(pair.source, 8);
  const program = diskFormat === "raw" ? {} : { receiveProgram: receiveWith("nbd") };
  const { sent, warnings } = await move(pair, program, qemu === "10.0");
  expect(warnings).toEqual([]);
  expect(sent.diskIndex.knownBlocks).toBeGreaterThan(50_000);
  expect(sent.diskIndex.readBytes).toBeGreaterThanOrEqual(8 * MIB);
  expect(sent.diskIndex.readBytes).toBeLessThan(16 * MIB);
  expect(sent.pages.diskPages).toBeGreaterThan(1000);
  expect(await bitmapsOf(pair.source)).toEqual([]);
  expect(await aboutOf(pair)).toMatchObject({ disk: "virtio-disk0", image: pair.source.disk, bitmap: null });
});

/** Puts the hashes of each block under the number of the next one: a whole index in which nothing is right. */
async function shift(pair: Pair): Promise<void> {
  const store = await IndexStore.open(pair.hosts.source.stateDir!);
  const about = await aboutOf(pair);
  await using stored = (await store.find(about))!;
  await using writer = await store.create(about, stored.header.sizeBytes);
  for (let part = 0; part < stored.parts; part++) {
    const hashes = new Uint8Array(stored.blocks(part) * 8);
    expect(await stored.readPart(part, hashes)).toBe(true);
    hashes.copyWithin(8, 0);
    await writer.put(part, hashes, stored.hashesOf(part));
  }
  await writer.finish(about, undefined, () => false);
}

/** Flips a bit in its header. */
async function damage(path: string): Promise<void> {
  const bytes = await readFile(path);
  bytes[60]! ^= 4;
  await writeFile(path, bytes);
}

/** Puts an index of another VM in its place. */
async function replace(pair: Pair, path: string): Promise<void> {
  const store = await IndexStore.open(pair.hosts.source.stateDir!);
  const about = { vm: "name:other", vmName: "other", disk: "d", image: "", files: null, bitmap: null, savedMs: 0 };
  const writer = await store.create(about, 2 ** 30);
  await writer.finish(about, undefined, () => false);
  await writer[Symbol.asyncDispose]();
  const other = (await readdir(dirname(path))).find((name) => name.endsWith(".index") && !path.endsWith(name))!;
  await rename(join(dirname(path), other), path);
}

test("an index that is damaged in its header, or of another VM, is built anew, and it is said once", async () => {
  await using pair = await startPair(plain);
  expect(await index(pair)).toMatchObject({ warnings: [] });
  await damage(await indexPath(pair));
  const damaged = /is not used: its header is damaged; it is built anew/;
  const again = { warnings: [expect.stringMatching(damaged)], disks: [{ knownBlocks: 0, isWhole: true }] };
  expect(await index(pair)).toMatchObject(again);
  await replace(pair, await indexPath(pair));
  const replaced = /is not used: it is of another disk or another host; it is built anew/;
  expect(await index(pair)).toMatchObject({ ...again, warnings: [expect.stringMatching(replaced)] });
  expect(await index(pair)).toMatchObject({ warnings: [] });
});

test.each<[string, (pair: Pair, path: string) => Promise<void>, RegExp, object, "known" | "stale"]>([
  ["cut off", (_, path) => truncate(path, 300_000), /damaged in \d+ of 32 parts, which are read again/, plain, "known"],
  ["wrong in every hash", shift, /switched off/, cached, "stale"], // what was wrong is not relied on again
])("an index that is %s: the VM moves, and it is said once", async (_, spoil, expected, guest, state) => {
  await using pair = await startPair(guest);
  await index(pair);
  await spoil(pair, await indexPath(pair));
  const { warnings } = await move(pair);
  expect(warnings).toEqual([expect.stringMatching(expected)]);
  const store = await IndexStore.open(pair.hosts.source.stateDir!);
  await using stored = await store.find(await aboutOf(pair));
  const states = new Set(Array.from({ length: stored!.parts }, (_, part) => stored!.state(part)));
  expect([...states]).toEqual([state]);
});

test("the image is replaced while the VM moves", async () => {
  await using pair = await startPair(plain);
  await index(pair);
  const other = `${pair.source.disk}.new`;
  await writeFile(other, "");
  await truncate(other, 2 ** 30);
  let replaced: Promise<void> | undefined;
  await move(pair, {
    onEvent: ({ event }) => {
      if (event === "connected") replaced = rename(other, pair.source.disk);
    },
  });
  await replaced;
});

test("a migration that comes to nothing leaves the guest's writes noted", async () => {
  await using pair = await startPair(plain);
  await index(pair);
  const before = await readFile(await indexPath(pair));
  const [bitmap] = await bitmapsOf(pair.source);

  const send = ["send", "--qmp", pair.source.qmpPath, "--to", `${pair.hosts.destination.address}:1`, "--json"];
  const key = join(pair.hosts.source.stateDir!, "key");
  await writeFile(key, `a:${"0".repeat(64)}\n`, { mode: 0o600 });
  {
    await using refused = startGodwit(pair.hosts.source, [...send, "--psk-file", key]);
    expect((await refused.exited).code).toBe(2);
  }
  expect(await readFile(await indexPath(pair))).toEqual(before); // byte for byte
  expect(await bitmapsOf(pair.source)).toEqual([bitmap]);

  await writeInGuest(pair.source, 4);
  {
    await using migration = await startMigration(pair, { sendArgs: ["--max-bandwidth", "1M"] });
    await migration.send.event("started");
    migration.send.kill("SIGINT");
    expect((await migration.send.exited).code).toBe(130);
  }
  const { bitmap: newer } = await aboutOf(pair);
  expect(await bitmapsOf(pair.source)).toEqual([newer]);
  const [disk] = (await index(pair)).disks;
  expect(disk!.readBytes).toBeLessThan(4 * MIB); // what was written before was read then
});

test("what a godwit that was killed leaves in QEMU is removed", async () => {
  await using pair = await startPair();
  const { source } = pair;
  await index(pair);
  const [disk] = await listDisks(source.qmp);
  const [noting] = await bitmapsOf(source);
  await WriteWatch.begin(source.qmp, disk!.nodeName!, noting!); // and then it dies
  expect(await bitmapsOf(source)).toHaveLength(2);
  await writeInGuest(source, 1);
  const [again] = (await index(pair)).disks;
  expect(again!.knownBlocks).toBeGreaterThan(50_000);
  expect(again!.readBytes).toBeGreaterThan(200 * MIB); // nobody knows what was written meanwhile
  expect(await bitmapsOf(source)).toEqual([(await aboutOf(pair)).bitmap]);
  {
    const args = ["index", "delete", "--qmp", source.qmpPath, (await indexPath(pair)).slice(-38, -30)];
    await using godwit = startGodwit(pair.hosts.source, args);
    expect((await godwit.exited).stdout).toMatch(/^deleted [0-9a-f]{12}, of disk virtio-disk0 of /);
  }
  expect(await bitmapsOf(source)).toEqual([]);
});

test("where bitmaps move with the VM, ours do not stand in the way", async () => {
  await using pair = await startPair(plain);
  await index(pair);
  for (const { qmp } of [pair.source, pair.destination]) {
    const capabilities = [{ capability: "dirty-bitmaps", state: true }];
    await qmp.execute("migrate-set-capabilities", { capabilities });
  }
  await move(pair);
  for (const vm of [pair.source, pair.destination]) expect(await bitmapsOf(vm)).toEqual([]);
});

test("a disk is read where a user says; a wrong name is refused", async () => {
  await using pair = await startPair(plain);
  const { source, destination, hosts } = pair;
  const refusal = async (args: readonly string[]) => {
    await using godwit = startGodwit(hosts.source, args);
    const { code, stderr } = await godwit.exited;
    expect(code).toBe(2);
    return stderr;
  };
  const base = ["index", "--qmp", source.qmpPath, "--disk"];
  expect(await refusal([...base, "sda=/dev/null"])).toMatch(
    /this VM has no disk sda; it has virtio-disk0; nothing was/,
  );
  expect(await refusal([...base, "virtio-disk0=/nowhere"])).toMatch(
    /disk virtio-disk0 can't be read at \/nowhere: ENOENT/,
  );
  expect(await refusal([...base, "virtio-disk0"])).toMatch(/give NODE=PATH/);
  const key = join(hosts.source.stateDir!, "key");
  await writeFile(key, `a:${"0".repeat(64)}\n`, { mode: 0o600 });
  const receive = ["receive", "--qmp", destination.qmpPath, "--listen", "127.0.0.1:17001", "--psk-file", key, "--disk"];
  expect(await refusal([...receive, "sda=/dev/null"])).toMatch(/this VM has no disk sda/);

  const copies = ["a", "b"].map((name) => `${source.disk}.${name}`) as [string, string];
  for (const copy of copies) await copyDisk(source.disk, copy);
  const { sent, warnings } = await move(pair, {
    sendArgs: ["--disk", `virtio-disk0=${copies[0]}`],
    receiveArgs: ["--disk", `virtio-disk0=${copies[1]}`],
  });
  expect(warnings).toEqual([]);
  expect(sent.nackedPages).toBeLessThan(sent.pages.diskPages / 10);
  expect(sent.pages.diskPages).toBeGreaterThan(1000);
  expect(await aboutOf(pair)).toMatchObject({ image: copies[0] });
});
