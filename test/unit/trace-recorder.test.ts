import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { type Trace, type TraceHeader, TraceReader } from "../../src/control/trace.ts";
import { TraceRecorder } from "../../src/migration/trace-recorder.ts";
import { aRound, aTick } from "./support/control.ts";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "godwit-test-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const header: TraceHeader = {
  type: "header",
  format: "godwit-trace",
  version: 1,
  startedAt: "2026-01-02T03:04:05.678Z",
  program: "godwit",
  qemuVersion: "10.0.0",
  machineType: "pc",
  identity: null,
  memoryBytes: 2 ** 30,
  cpus: 1,
  hasSwitchoverBandwidth: true,
  roundTripMs: null,
  policy: "adaptive",
  promises: { onStall: "switch" },
};

function read(text: string): Trace {
  const reader = new TraceReader();
  for (const line of text.trimEnd().split("\n")) reader.push(line);
  return reader.finish();
}

const warned = () => {
  throw new Error("nothing is to be warned of");
};

test("what is recorded can be read; a round that was known late stands in the order of time", async () => {
  const path = join(folder, "trace");
  const recorder = await TraceRecorder.create(path, warned);
  recorder.begin(header);
  recorder.add({ type: "tick", ...aTick({ atMs: 100 }) });
  expect(recorder.add({ type: "round", ...aRound({ atMs: 90 }) })).toMatchObject({ atMs: 100 });
  recorder.add({ type: "decision", atMs: 101, kind: "go-on", reason: "it shrinks" });
  await recorder.close();
  const trace = read(readFileSync(path, "utf8"));
  expect(trace).toEqual(read(recorder.text));
  expect(trace).toMatchObject({ ticks: [{ atMs: 100 }], rounds: [{ atMs: 100 }], decisions: [{ kind: "go-on" }] });
});

test("a long migration is kept within bounds, its rounds rather than its ticks", async () => {
  const recorder = await TraceRecorder.create(undefined, warned);
  recorder.begin(header);
  for (let atMs = 0; atMs < 20_000; atMs++) {
    recorder.add({ type: "tick", ...aTick({ atMs }) });
    if (atMs % 1000 === 0) recorder.add({ type: "round", ...aRound({ atMs, round: atMs / 1000 }) });
  }
  expect(recorder.text.length).toBeLessThan(2 * 1024 * 1024);
  const { rounds, ticks } = read(recorder.text);
  expect(rounds).toHaveLength(20);
  expect(ticks.length).toBeGreaterThan(4000);
});

test("also where nearly all of it is rounds", async () => {
  const recorder = await TraceRecorder.create(undefined, warned);
  recorder.begin(header);
  for (let atMs = 0; atMs < 10_000; atMs++) recorder.add({ type: "round", ...aRound({ atMs, round: atMs }) });
  expect(recorder.text.length).toBeLessThan(2 * 1024 * 1024);
  expect(read(recorder.text).rounds.at(-1)).toMatchObject({ atMs: 9999 });
});

test("a file that can't be made is said before anything begins, one that fails later only warned of", async () => {
  const inNoFolder = TraceRecorder.create(join(folder, "none", "trace"), warned);
  await expect(inNoFolder).rejects.toMatchObject({ code: "MIGRATION_TRACE_UNWRITABLE" });
  const warnings: string[] = [];
  const recorder = await TraceRecorder.create("/dev/full", (message) => warnings.push(message));
  recorder.begin(header);
  recorder.add({ type: "tick", ...aTick({ atMs: 1 }) });
  await recorder.close();
  expect(warnings).toEqual([expect.stringMatching(/^the trace is cut off: ENOSPC/)]);
});
