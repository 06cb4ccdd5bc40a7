import { mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { earlierMigrations } from "../../src/migration/earlier.ts";
import { HistoryStore } from "../../src/store/history.ts";

const VM = "uuid:00000000-0000-0000-0000-000000000001";
const SESSION = "00112233445566778899aabbccddeeff";

let stateDir: string;
beforeEach(() => {
  stateDir = mkdtempSync(join(tmpdir(), "godwit-test-"));
});
afterEach(() => rmSync(stateDir, { recursive: true, force: true }));

/** A trace whose hand-off took so long. */
function aTrace(handoffMs: number, { identity = VM, status = "completed" } = {}): string {
  const header = {
    ...{ type: "header", format: "godwit-trace", version: 1, startedAt: "2026-01-02T03:04:05.678Z", program: "test" },
    ...{ qemuVersion: "10.0.0", machineType: "pc", identity, memoryBytes: 2 ** 30, cpus: 1, policy: "adaptive" },
    ...{ hasSwitchoverBandwidth: true, roundTripMs: null, promises: { onStall: "switch" } },
  };
  const downtimeParts = { residualMs: 1, transferMs: 2, loadMs: 3, handoffMs, resumeMs: 4 };
  const times = { totalMs: 5000, wireBytes: 1e8, downtimeMs: 10 + handoffMs, downtimeParts, predictedMs: null };
  const outcome = { type: "outcome", status, ...times, roundTripMs: 0.5 };
  return `${JSON.stringify(header)}\nticks, which are not looked at\n${JSON.stringify(outcome)}\n`;
}

const warned = (message: string) => {
  throw new Error(`warned: ${message}`);
};

async function open(): Promise<HistoryStore> {
  return (await HistoryStore.open(stateDir, warned))!;
}

const handoffsOf = async (history: HistoryStore, identity = VM) =>
  (await earlierMigrations(history, identity)).map(({ parts }) => parts.handoffMs);

test("what migrations came to is known for the next one, the newest first, and of each VM its own", async () => {
  const history = await open();
  expect(await handoffsOf(history)).toEqual([]);
  // Sessions in order, as two may be kept within a millisecond.
  for (const ms of [10, 20]) await history.add(VM, `${ms}${SESSION}`, aTrace(ms));
  await history.add(VM, `30${SESSION}`, aTrace(30, { status: "failed" }));
  await history.add("name:other", SESSION, aTrace(40, { identity: "name:other" }));
  expect(await handoffsOf(await open())).toEqual([20, 10]);
  expect(await handoffsOf(history, "name:other")).toEqual([40]);
  expect(await earlierMigrations(history, "name:other")).toMatchObject([{ roundTripMs: 0.5 }]);
  expect(await history.list()).toHaveLength(4);
});

test("only its owner can read it, and names say nothing of the VM", async () => {
  const history = await open();
  await history.add("name:../../secret", SESSION, aTrace(1));
  const [{ path, vm } = { path: "", vm: "" }] = await history.list("name:../../secret");
  expect(path).toMatch(/\/history\/[0-9a-f]{32}\/\d{8}T\d{9}Z-00112233\.trace$/);
  expect(path.startsWith(join(stateDir, "history", vm))).toBe(true);
  expect(statSync(path).mode & 0o777).toBe(0o600);
  expect(statSync(join(path, "..")).mode & 0o777).toBe(0o700);
  expect(readFileSync(path, "utf8")).toBe(aTrace(1, {}));
});

test("what is damaged, cut off, of another VM or of a newer version costs nothing but knowledge", async () => {
  const history = await open();
  await history.add(VM, SESSION, aTrace(7));
  const [{ path } = { path: "" }] = await history.list(VM);
  const folder = join(path, "..");
  const damaged = [
    "",
    "\n\n",
    "no JSON",
    "\u0000".repeat(100_000),
    aTrace(1).slice(0, -20),
    aTrace(1).replace('"version":1', '"version":2'),
    aTrace(1, { identity: "name:other" }),
    `{"type":"header"${" ".repeat(50_000)}}\n`,
  ];
  damaged.forEach((text, i) => {
    writeFileSync(join(folder, `20990101T00000000${i}Z-00000000.trace`), text);
  });
  expect(await handoffsOf(history)).toEqual([7]);
});

test("of a VM 32 are kept, the newest; what a process that is gone was writing is removed", async () => {
  const history = await open();
  await history.add(VM, SESSION, aTrace(0));
  const [{ path } = { path: "" }] = await history.list(VM);
  const folder = join(path, "..");
  for (let i = 10; i < 50; i++) writeFileSync(join(folder, `202001${i}T000000000Z-00000000.trace`), aTrace(i));
  writeFileSync(join(folder, "20200101T000000000Z-00000000.trace.4194305.tmp"), "half");
  await history.add(VM, SESSION.replace("0", "f"), aTrace(99));
  expect(readdirSync(folder)).toHaveLength(32);
  expect((await handoffsOf(history)).slice(0, 3)).toEqual([99, 0, 49]);
});

test("of all VMs no more is kept than there is room for, the oldest going first", async () => {
  const history = await open();
  const large = `${aTrace(1)}${" ".repeat(40 * 1024 * 1024)}`;
  await history.add("name:first", SESSION, large);
  const [{ path } = { path: "" }] = await history.list("name:first");
  renameSync(path, join(path, "..", "20200101T000000000Z-00000000.trace"));
  await history.add("name:second", SESSION, large);
  expect(await history.list("name:first")).toEqual([]);
  expect(await history.list("name:second")).toHaveLength(1);
});

test("a state folder that can't be used is warned of, and no more", async () => {
  const warnings: string[] = [];
  const warn = (message: string) => void warnings.push(message);
  expect(await HistoryStore.open("/proc/none", warn)).toBeUndefined();
  const history = (await HistoryStore.open(stateDir, warn))!;
  rmSync(stateDir, { recursive: true });
  writeFileSync(stateDir, "a file in its place");
  await history.add(VM, SESSION, aTrace(1));
  expect(await handoffsOf(history)).toEqual([]);
  expect(warnings).toEqual([
    expect.stringMatching(/^nothing is known of earlier migrations: /),
    expect.stringMatching(/^the migration is not kept in the history: /),
  ]);
});
