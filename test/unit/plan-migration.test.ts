// A plan of a QEMU that answers as real ones do, and whose memory is a file.
import { execFile } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { expect, onTestFinished, test, vi } from "vitest";
import { planDocument, planLines, verdictOf } from "../../src/cli/plan-report.ts";
import { goodputOfLink, type PlanOptions, planMigration } from "../../src/migration/plan/plan.ts";
import { CLUSTER_BYTES } from "../../src/migration/plan/sampled-memory.ts";
import { type FakeOptions, FakeQmp, type FakeRequest, refuse } from "./support/fake-qmp.ts";

// A fake QEMU needs no time to measure in.
vi.mock("node:timers/promises", async (original) => {
  const { setTimeout: delay, ...others } = await original<typeof import("node:timers/promises")>();
  return { ...others, setTimeout: (ms: number, ...rest: [undefined, object]) => delay(ms / 50, ...rest) };
});

const MIB = 2 ** 20;
const MEMORY_MAP = [
  "FlatView #0",
  ' AS "memory", root: system',
  " Root memory region: system",
  "  0000000000000000-00000000003fffff (prio 0, ram): pc.ram",
  "",
].join("\r\n");

function pmemsave({ arguments: given }: FakeRequest): object {
  const { val, size, filename } = given as { val: number; size: number; filename: string };
  // The upper half is zero.
  writeFileSync(filename, Buffer.alloc(size, val < 2 * MIB ? `page ${val} of a guest ` : 0));
  return {};
}

function answers(changes: Record<string, unknown> = {}): NonNullable<FakeOptions["commands"]> {
  return {
    "query-status": { running: false, status: "paused" },
    "query-migrate": {},
    "query-version": { qemu: { micro: 13, minor: 0, major: 10 }, package: "Debian" },
    "qom-get": "pc-q35-10.0-machine",
    "query-memory-size-summary": { "base-memory": 4 * MIB },
    "query-cpus-fast": [{ "cpu-index": 0 }],
    "query-name": { name: "web1" },
    "query-uuid": { UUID: "3d0f6a6e-6d3c-4f0e-9d6a-2c6f9f6f0001" },
    "query-block": [],
    "query-memdev": [{ id: "pc.ram" }],
    "query-memory-devices": [],
    "query-migrate-capabilities": [{ capability: "multifd", state: true }],
    "query-migrate-parameters": { "avail-switchover-bandwidth": 0 },
    "human-monitor-command": MEMORY_MAP,
    pmemsave,
    "calc-dirty-rate": {},
    "query-dirty-rate": { status: "measured", "dirty-rate": 0, "calc-time": 1, "sample-pages": 16384 },
    ...changes,
  };
}

async function qemu(changes: Record<string, unknown> = {}) {
  const fake = await FakeQmp.start({ commands: answers(changes) });
  const stateDir = mkdtempSync(join(tmpdir(), "godwit-plan-"));
  onTestFinished(async () => {
    await fake[Symbol.asyncDispose]();
    rmSync(stateDir, { recursive: true });
  });
  const options: PlanOptions = {
    qmpPath: fake.path,
    bytesPerSecond: 10e6,
    promises: { onStall: "switch" },
    diskReferences: true,
    stateDir,
    threads: 1,
    allowOlderQemu: false,
    onStep: () => {},
    onWarning: (message) => expect.unreachable(message),
  };
  return { fake, stateDir, options };
}

test("a paused VM: half of its memory zero, nothing written, no downtime", async () => {
  const { options } = await qemu();
  const steps: string[] = [];
  const report = await planMigration({ ...options, onStep: (step) => steps.push(step) });
  expect(steps).toEqual(["memory", "disks", "prediction"]);
  expect(report).toMatchObject({ isPaused: true, unknownDisks: [], link: null });
  expect(report.shares).toMatchObject({ zero: 0.5, disk: 0, rest: 0.5 });
  expect(report.findings).toMatchObject({ windows: [], disks: "unused", hasSwitchoverBandwidth: true, earlier: [] });
  expect(report.prediction.asked.endShare).toBe(1);
  expect(report.prediction.asked.wireBytes.expected).toBeLessThan(1 * MIB);
  const text = planLines(report).join("\n");
  expect(text).toMatch(/^web1, 4\.00 MiB of memory, paused\n/);
  expect(text).toContain("50 % zero, 50 % else");
  expect(text).toContain("The guest is paused");
  expect(planDocument(report)).toMatchObject({ verdict: "yes", isPaused: true, throttled: null });
});

test("a quiet VM that runs is measured in windows of several lengths", async () => {
  const { fake, options } = await qemu({ "query-status": { running: true, status: "running" } });
  const report = await planMigration(options);
  const asked = fake.requests.filter(({ execute }) => execute === "calc-dirty-rate");
  expect(asked.map((request) => request.arguments?.["calc-time"])).toEqual([50, 100, 1000, 300, 3000, 100, 1000, 300]);
  expect(report.findings.windows).toHaveLength(8);
  expect(report.findings.windows.at(-1)!.pages).toBe(0); // the sample, which is as it was
  expect(report.prediction.stock.endShare).toBe(1);
  expect(planLines(report).join("\n")).toContain("It ends. The smallest downtime in reach is");
});

test("what can't be kept is said, with what could", async () => {
  const { options } = await qemu();
  const promises = { deadlineMs: 150, maxBytes: 100, onStall: "switch" } as const;
  const report = await planMigration({ ...options, promises });
  expect(verdictOf(report.prediction.asked)).toBe("no");
  const text = planLines(report).join("\n");
  expect(text).toMatch(/With --deadline 150 ms: no; it takes .* ms \(/);
  expect(text).toMatch(/With --max-bytes 100 bytes: no; it sends .* KiB \(/);
});

test.each([
  ["QMP_PARAMETER", { "query-migrate-parameters": { "tls-creds": "tls0" } }],
  ["QMP_CAPABILITY", { "query-migrate-capabilities": [{ capability: "x-colo", state: true }] }],
  ["QMP_WRONG_STATE", { "query-status": { running: false, status: "postmigrate" } }],
  ["QMP_MEMORY_MAP", { "human-monitor-command": "nothing" }],
  [
    "QMP_COMMAND_FAILED",
    {
      pmemsave: () => {
        throw refuse("GenericError", "Could not open '/run/x': Permission denied");
      },
    },
  ],
  [
    "MIGRATION_MEMORY_UNREAD",
    {
      pmemsave: ({ arguments: given }: FakeRequest) => {
        writeFileSync(given!.filename as string, Buffer.alloc(CLUSTER_BYTES - 1));
        return {};
      },
    },
  ],
  [
    "QMP_DIRTY_RATE",
    {
      "query-status": { running: true, status: "running" },
      "calc-dirty-rate": () => {
        throw refuse("GenericError", "the dirty rate is already being measured.");
      },
    },
  ],
])("%s ends it", async (code, changes) => {
  const { options } = await qemu(changes);
  await expect(planMigration(options)).rejects.toMatchObject({ code });
});

test("a state folder that can't be used costs knowledge only", async () => {
  const { options } = await qemu();
  const warnings: string[] = [];
  const stateDir = "/dev/null/state";
  const report = await planMigration({ ...options, stateDir, onWarning: (message) => warnings.push(message) });
  expect(warnings).toEqual([
    expect.stringContaining("indexes of disks can't be read"),
    expect.stringContaining("nothing is known of earlier migrations"),
  ]);
  expect(report.prediction.asked.endShare).toBe(1);
});

test.each(["memory", "prediction"])("it can be cancelled at the %s, and leaves nothing behind", async (at) => {
  const { options } = await qemu();
  const controller = new AbortController();
  const reason = new Error("enough");
  const onStep = (step: string) => step === at && controller.abort(reason);
  await expect(planMigration({ ...options, onStep, signal: controller.signal })).rejects.toBe(reason);
});

test("the mean of a link is as sure as its stretches are alike, and never surer than to 2 %", () => {
  const link = (...stretches: number[]) => ({
    stretchesBytesPerSecond: stretches,
    goodputBytesPerSecond: stretches.reduce((sum, rate) => sum + rate, 0) / stretches.length,
    roundTripMs: { expected: 1, low: 1, high: 1 },
    facts: undefined as never,
  });
  const steady = goodputOfLink(link(100, 100, 100));
  expect([steady.low, steady.expected, steady.high]).toEqual([expect.closeTo(96.71), 100, expect.closeTo(103.29)]);
  // Deviation √200 = 14.14 of stretches, 10 of the mean of two: 16.45 to either side.
  const unsteady = goodputOfLink(link(90, 110));
  expect([unsteady.low, unsteady.high]).toEqual([expect.closeTo(83.55), expect.closeTo(116.45)]);
});

test("the command: a report, an exit code, one line for what is wrong", async () => {
  const { fake, stateDir } = await qemu();
  const run = (...args: string[]) =>
    new Promise<{ code: unknown; stdout: string; stderr: string }>((done) => {
      execFile(resolve("bin/godwit"), ["plan", "--state-dir", stateDir, ...args], (error, stdout, stderr) =>
        done({ code: error?.code ?? 0, stdout, stderr }),
      );
    });
  const qmp = ["--qmp", fake.path];
  const [kept, broken, nowhere, noKey, noQemu] = [
    await run(...qmp, "--bandwidth", "80Mbit", "--json"),
    await run(...qmp, "--bandwidth", "80Mbit", "--max-bytes", "64K"),
    await run(...qmp),
    await run(...qmp, "--to", "127.0.0.1:1"),
    await run("--qmp", join(stateDir, "none"), "--bandwidth", "1Gbit"),
  ];
  expect(JSON.parse(kept.stdout)).toMatchObject({ verdict: "yes", vm: { name: "web1" }, predicted: { endShare: 1 } });
  expect([kept.code, kept.stderr]).toEqual([0, ""]);
  expect([broken.code, broken.stderr]).toEqual([4, ""]);
  expect(nowhere).toMatchObject({
    code: 2,
    stderr: "godwit: say where to with --to, or what the link carries with --bandwidth; nothing was changed\n",
  });
  expect([noKey.code, noKey.stderr]).toEqual([2, expect.stringContaining("--psk-file FILE or --tls-dir FOLDER")]);
  expect([noQemu.code, noQemu.stderr]).toEqual([2, expect.stringMatching(/^godwit: there is no QMP socket at .*\n$/)]);
}, 30_000);
