// Checkpoints of real VMs: kept after a migration, and saved of VMs that run or are paused. What a checkpoint holds is compared with
// what the same QEMU writes for a command of its own.
import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, onTestFinished, test } from "vitest";
import { type GodwitProcess, startGodwit, startMigration } from "../../lab/godwit.ts";
import { localHost } from "../../lab/hosts.ts";
import { temporaryFolder } from "../../lab/leftovers.ts";
import { run } from "../../lab/run.ts";
import { startSavedVm } from "../../lab/saved-vm.ts";
import type { Vm } from "../../lab/vm.ts";
import { cleanWalks } from "../../lab/walks.ts";
import type { KeptCheckpoint, SourceSummary } from "../../src/migration/events.ts";
import { openCheckpoints } from "../../src/migration/open-checkpoints.ts";
import { waitForMigrationStatus } from "../../src/qemu/migrate.ts";
import type { ListedCheckpoint } from "../../src/store/checkpoint-folder.ts";
import { SMALL, startPair } from "./support/pair.ts";

const PAGE_BYTES = 4096;
const { memoryMiB: MEMORY_MIB, load } = SMALL;
const PROGRAM = fileURLToPath(new URL("../../bin/godwit", import.meta.url));

function folder(): string {
  const folder = temporaryFolder();
  onTestFinished(() => folder[Symbol.dispose]());
  return folder.path;
}

/** The document of `godwit checkpoint ...ARGS --json`. @throws Error when it ends with another code than 0 */
async function godwitCheckpoint<T>(stateDir: string, ...args: readonly string[]): Promise<T> {
  return JSON.parse(await run([PROGRAM, "checkpoint", ...args, "--state-dir", stateDir, "--json"]));
}

const listed = async (stateDir: string) =>
  (await godwitCheckpoint<{ checkpoints: ListedCheckpoint[] }>(stateDir, "list")).checkpoints;

async function checkIsClean(stateDir: string, { id, pages }: { id: string; pages: number }): Promise<void> {
  const clean = { id, pages, damagedPages: 0, problems: [] };
  expect(await godwitCheckpoint(stateDir, "check", id)).toEqual({ checks: [clean] });
}

/** All of a VM's memory, by guest-physical address. */
async function memoryOf(vm: Vm): Promise<Buffer> {
  const filename = join(folder(), "memory");
  await vm.qmp.execute("pmemsave", { val: 0, size: MEMORY_MIB * 2 ** 20, filename });
  return readFile(filename);
}

const ZERO = Buffer.alloc(PAGE_BYTES);
const pageOf = (memory: Buffer, page: number) => memory.subarray(page * PAGE_BYTES, (page + 1) * PAGE_BYTES);

/** The pages of `memory` that are not all zero, by their numbers. */
function pagesOf(memory: Buffer): Map<number, Buffer> {
  const all = Array.from({ length: memory.length / PAGE_BYTES }, (_, page) => [page, pageOf(memory, page)] as const);
  return new Map(all.filter(([, page]) => !page.equals(ZERO)));
}

/** The pages of a checkpoint, by their numbers. */
async function pagesIn(stateDir: string, id: string): Promise<Map<number, Buffer>> {
  const store = await openCheckpoints(stateDir);
  await using reader = await store.open(id);
  const content = Buffer.alloc(reader.sizeBytes);
  await reader.read(0, content);
  const pages = new Map<number, Buffer>();
  for await (const numbers of reader.pageNumbers()) {
    for (let at = 0; at < numbers.length; at += 8)
      pages.set(Number(numbers.readBigUInt64LE(at)), pageOf(content, pages.size));
  }
  return pages;
}

/** Pages of the first MiB may be hidden behind the BIOS, which is no memory of the guest's. */
const LOW_PAGES = 256;

/** The checkpoint holds the guest's memory, each page under the number of its guest-physical address. */
async function holdsMemory(stateDir: string, id: string, vm: Vm): Promise<void> {
  const [expected, found] = [pagesOf(await memoryOf(vm)), await pagesIn(stateDir, id)];
  const differing = [...found].filter(([page, content]) => !expected.get(page)?.equals(content)).map(([page]) => page);
  const missing = [...expected.keys()].filter((page) => page >= LOW_PAGES && !found.has(page));
  expect({ differing, missing }).toEqual({ differing: [], missing: [] });
  expect(found.size).toBeGreaterThan(5000);
}

const warningsOf = ({ events }: GodwitProcess) =>
  events.flatMap((event) => (event.event === "warning" ? [event.message] : []));

test.each([
  { qemu: "10.0", machine: "q35", load },
  { qemu: "7.2", machine: "pc" },
] as const)("QEMU $qemu: send keeps the memory of the VM that has left", async (options) => {
  await using pair = await startPair({ ...options, memoryMiB: MEMORY_MIB });
  await using migration = await startMigration(pair);
  const { code, stderr } = await migration.send.exited;
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  const { events } = migration.send;
  const names = events.map(({ event }) => event);
  const after = names.slice(names.indexOf("running") + 1).filter((name) => name !== "keeping");
  expect(after).toEqual(["checkpoint", "summary"]);
  expect(names).toContain("keeping");
  const { checkpoint, status } = events.at(-1) as SourceSummary;
  const { event: _, ...kept } = events.find(({ event }) => event === "checkpoint") as {
    event: string;
  } & KeptCheckpoint;
  expect({ status, checkpoint }).toEqual({ status: "completed", checkpoint: kept });
  const stateDir = pair.hosts.source.stateDir!;
  await checkIsClean(stateDir, kept);
  await holdsMemory(stateDir, kept.id, pair.source);
  expect(await pair.source.qmp.execute("query-status")).toMatchObject({ status: "postmigrate" });
  console.log(`QEMU ${options.qemu}: ${kept.pages} pages, ${kept.bytes} bytes, ${kept.ms.toFixed(0)} ms`);
});

test("Ctrl-C while it is kept: the migration has been completed, and nothing is kept; --quit ends the source QEMU", async () => {
  await using pair = await startPair(SMALL);
  const migration = await startMigration(pair, {
    sendArgs: ["--quit"],
    onEvent: ({ event }) => event === "keeping" && migration.send.kill("SIGINT"),
  });
  await using _ = migration;
  expect(await migration.send.exited).toMatchObject({ code: 0 });
  expect(migration.send.events.at(-1)).toMatchObject({ status: "completed", checkpoint: null });
  expect(warningsOf(migration.send)).toEqual([expect.stringMatching(/^no checkpoint .*: cancelled by Ctrl-C$/)]);
  expect(await listed(pair.hosts.source.stateDir!)).toEqual([]);
  expect(await pair.source.exited).toMatchObject({ code: 0 });
});

test("no room: the migration is completed with one warning", async () => {
  await using pair = await startPair(SMALL);
  await using migration = await startMigration(pair, { sendArgs: ["--store-size", "1M"] });
  expect(await migration.send.exited).toMatchObject({ code: 0 });
  expect(migration.send.events.at(-1)).toMatchObject({ status: "completed", checkpoint: null });
  const warnings = warningsOf(migration.send).filter((message) => message.includes("checkpoint"));
  expect(warnings).toEqual([expect.stringMatching(/allow more with --store-size$/)]);
  await cleanWalks(pair.destination, 1);
});

test("a state folder that can't be used: there is no journal without it, so the guest is not touched", async () => {
  await using pair = await startPair(SMALL);
  await using migration = await startMigration(pair, { sendArgs: ["--state-dir", "/dev/null/state"] });
  const { code, stderr } = await migration.send.exited;
  expect(code).toBe(2);
  expect(stderr).toMatch(/--state-dir/);
  expect(await pair.source.qmp.execute("query-status")).toMatchObject({ status: "running" });
});

/** What `godwit checkpoint save --json` writes. */
type Saved = ListedCheckpoint & { ms: number; stoppedMs: number | null };

test("save: a VM under load runs on, QEMU is as before", async () => {
  const stateDir = folder();
  await using vm = await startSavedVm({ uuid: randomUUID(), ...SMALL });
  const settings = () =>
    Promise.all([vm.qmp.execute("query-migrate-parameters"), vm.qmp.execute("query-migrate-capabilities")]);
  const before = await settings();
  const saved = await godwitCheckpoint<Saved>(stateDir, "save", "--qmp", vm.qmpPath);
  expect(saved).toMatchObject({ origin: "saved", stoppedMs: 0 });
  expect(await settings()).toEqual(before);
  expect(await vm.qmp.execute("query-status")).toMatchObject({ status: "running" });
  await cleanWalks(vm, 1);
  await checkIsClean(stateDir, saved);

  // What has not changed meanwhile is in it, wherever it stands.
  await vm.qmp.execute("stop");
  const contents = new Set([...(await pagesIn(stateDir, saved.id)).values()].map((page) => page.toString("latin1")));
  const now = [...pagesOf(await memoryOf(vm)).values()];
  const known = now.filter((page) => contents.has(page.toString("latin1"))).length;
  console.log(`${saved.pages} pages in ${saved.ms.toFixed(0)} ms; ${known} of ${now.length} are the same by now`);
  expect(now.length - known).toBeLessThan(2 * 256 * load.mib);
  expect(known).toBeGreaterThan(5000);

  // Paused, it is read as it stands, and not made to run.
  const paused = await godwitCheckpoint<Saved>(stateDir, "save", "--qmp", vm.qmpPath);
  expect(paused).toMatchObject({ stoppedMs: null });
  expect(await vm.qmp.execute("query-status")).toMatchObject({ status: "paused" });
  await holdsMemory(stateDir, paused.id, vm);
  // What the load may have written meanwhile, and a fifth; the rest was there already.
  expect(paused.storedBytes).toBeLessThan((load.mib * 256 + saved.pages * 0.2) * PAGE_BYTES);
});

test.each([
  ["SIGINT", 130],
  ["SIGKILL", null],
] as const)("save, ended by %s: the VM runs on, nothing is kept", async (signal, code) => {
  const stateDir = folder();
  await using vm = await startSavedVm({ uuid: randomUUID(), ...SMALL });
  const before = await vm.qmp.execute("query-migrate-parameters");
  const isActive = vm.qmp.waitForEvent("MIGRATION", ({ data }) => data.status === "active");
  await vm.qmp.execute("migrate-set-capabilities", { capabilities: [{ capability: "events", state: true }] });
  await using save = startGodwit(localHost, ["checkpoint", "save", "--qmp", vm.qmpPath, "--state-dir", stateDir]);
  await isActive;
  save.kill(signal);
  expect(await save.exited).toMatchObject({ code });
  await waitForMigrationStatus(vm.qmp, ["cancelled", "failed"]);
  expect(await vm.qmp.execute("query-status")).toMatchObject({ status: "running" });
  await cleanWalks(vm, 1);
  expect(await listed(stateDir)).toEqual([]);
  if (signal !== "SIGKILL") expect(await vm.qmp.execute("query-migrate-parameters")).toEqual(before);
  // The next one finds the way clear.
  await checkIsClean(stateDir, await godwitCheckpoint<Saved>(stateDir, "save", "--qmp", vm.qmpPath));
  expect(await vm.qmp.execute("query-migrate-parameters")).toEqual(before);
});
