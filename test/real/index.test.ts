// Indexes of disks that are kept: what did not change is not read again, and a bad one costs bytes and nothing else.
import { copyFile, readdir, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { type MigrationOptions, startGodwit, startMigration } from "../../lab/godwit.ts";
import { type Pair, startPair } from "../../lab/pair.ts";
import type { QemuVersion } from "../../lab/qemus.ts";
import { startTap } from "../../lab/tap.ts";
import type { Vm } from "../../lab/vm.ts";
import { cleanWalks } from "../../lab/walks.ts";
import type { MigrationEvent, SourceSummary } from "../../src/migration/events.ts";
import type { IndexCommandSummary } from "../../src/migration/index-disks.ts";

const MIB = 2 ** 20;
const load = { mib: 16, pagesPerSecond: 500, pattern: "word" } as const;
const cached = { cached: true, load, rateBitsPerSecond: 500e6 };
const versions: QemuVersion[] = ["10.0", "7.2"];

/** `godwit index` at the source. */
async function index(pair: Pair, args: readonly string[] = []): Promise<IndexCommandSummary> {
  await using godwit = startGodwit(pair.hosts.source, ["index", "--qmp", pair.source.qmpPath, "--json", ...args]);
  const { code, stderr } = await godwit.exited;
  expect(code, stderr).toBe(0);
  return godwit.events.at(-1) as unknown as IndexCommandSummary;
}

/** Moves the VM, and makes sure that it was moved byte for byte and is whole. */
async function move(pair: Pair, options: MigrationOptions = {}): Promise<{ sent: SourceSummary; warnings: string[] }> {
  await using sourceTap = await startTap({ qmpPath: pair.source.qmpPath, direction: "source" });
  await using destinationTap = await startTap({ qmpPath: pair.destination.qmpPath, direction: "destination" });
  const qmps = { sourceQmp: sourceTap.qmpPath, destinationQmp: destinationTap.qmpPath };
  await using migration = await startMigration(pair, { ...options, ...qmps });
  const [send, receive] = await Promise.all([migration.send.exited, migration.receive.exited]);
  expect(send, send.stderr).toMatchObject({ code: 0 });
  expect(receive, receive.stderr).toMatchObject({ code: 0 });
  const [written, read] = await Promise.all([sourceTap.digest(), destinationTap.digest()]);
  expect(read).toEqual(written); // SHA-256 and length, of the stream and of the return path
  await cleanWalks(pair.destination, 2);
  const sent = migration.send.events.at(-1) as SourceSummary;
  const { knownBlocks, readBytes } = sent.diskIndex;
  console.log(
    `${expect.getState().currentTestName}: ${knownBlocks} blocks known, ${(readBytes / MIB).toFixed(1)} MiB read; ` +
      `${sent.pages.diskPages} disk pages, ${sent.nackedPages} in vain; ${(sent.wireBytes / MIB).toFixed(0)} MiB on the wire, ` +
      `${(sent.totalMs / 1000).toFixed(1)} s`,
  );
  return { sent, warnings: warningsOf(migration.send.events) };
}

function warningsOf(events: readonly MigrationEvent[]): string[] {
  return events.flatMap((event) => (event.event === "warning" ? [event.message] : []));
}

async function bitmapsOf({ qmp }: Vm): Promise<string[]> {
  const nodes = await qmp.execute("query-named-block-nodes", { flat: true });
  return nodes.flatMap((node) => node["dirty-bitmaps"] ?? []).map(({ name }) => name ?? "");
}

async function writeInGuest({ console: port }: Vm, mib: number): Promise<void> {
  port.send(`dd if=/dev/urandom of=/root/new${mib} bs=1M count=${mib} conv=fsync 2>/dev/null; echo wrote ${mib}`);
  await port.waitFor(new RegExp(`^wrote ${mib}$`), 60_000);
}

function indexFolder(pair: Pair): string {
  return join(pair.hosts.source.stateDir!, "indexes");
}

async function indexPath(pair: Pair): Promise<string> {
  const names = await readdir(indexFolder(pair));
  expect(names.filter((name) => name !== "seed")).toEqual([expect.stringMatching(/^[0-9a-f]{32}\.index$/)]);
  return join(indexFolder(pair), names.find((name) => name !== "seed")!);
}

test.each([
  ["10.0", "raw"],
  ["10.0", "qcow2"],
  ["7.2", "raw"],
] as const)("QEMU %s, %s: built ahead, then only what the guest wrote is read", async (qemu, diskFormat) => {
  await using pair = await startPair({ ...cached, qemu, diskFormat });
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
  const { sent, warnings } = await move(pair);
  expect(warnings).toEqual([]);
  expect(sent.diskIndex.knownBlocks).toBeGreaterThan(50_000);
  expect(sent.diskIndex.readBytes).toBeGreaterThanOrEqual(8 * MIB);
  expect(sent.diskIndex.readBytes).toBeLessThan(16 * MIB);
  expect(sent.pages.diskPages).toBeGreaterThan(50_000 / 2);
  expect(await bitmapsOf(pair.source)).toEqual([]);
  expect(JSON.parse(await listed(pair))).toMatchObject({ disk: "virtio-disk0", bitmap: null, why: null });
});

async function listed(pair: Pair): Promise<string> {
  await using godwit = startGodwit(pair.hosts.source, ["index", "list", "--json"]);
  const { code, stdout, stderr } = await godwit.exited;
  expect(code, stderr).toBe(0);
  return stdout;
}
