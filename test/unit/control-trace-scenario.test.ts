// What a trace says about load, link and devices: by hand.
import { expect, test } from "vitest";
import { scenarioOfTrace } from "../../src/control/simulation/from-trace.ts";
import type { Trace, TraceOutcome, TraceRound } from "../../src/control/trace.ts";

const BYTES_PER_MS = 4096 * 10; // 10 pages

/** A round that sent 10 pages a ms until nothing was left. */
function aRound(round: number, atMs: number, durationMs: number, dirtiedPages: number): TraceRound {
  const pages = durationMs * 10;
  const wireBytes = durationMs * BYTES_PER_MS;
  return {
    ...{ type: "round", atMs, round, durationMs, pages, dirtiedPages, wireBytes },
    ...{ distinctPages: pages, redirtiedPages: pages, leftPages: 0, remainingBytes: dirtiedPages * 4096 },
    ...{ pagesByForm: { literal: pages }, wireBytesByForm: { literal: wireBytes } },
    ...{ goodputBytesPerSecond: BYTES_PER_MS * 1000, roundTripMs: 1, restoreBytesPerSecond: null, throttlePercent: 0 },
  };
}

const OUTCOME: TraceOutcome = {
  ...{ type: "outcome", status: "completed", totalMs: 6100, wireBytes: 1e8, predictedMs: null },
  ...{ downtimeMs: 100, residualBytes: 0 },
  downtimeParts: { residualMs: 60, transferMs: 10, loadMs: 10, handoffMs: 10, resumeMs: 10 },
};

/** Half a second until the first page; 4 s; two rounds of 500 ms that leave the next one as much; 500 ms until the guest was stopped. */
function traceOf(given: Partial<Pick<Trace, "rounds" | "outcome">> = {}): Trace {
  const header: Trace["header"] = {
    ...{ type: "header", format: "godwit-trace", version: 1, startedAt: "", program: "", qemuVersion: "10.0.0" },
    ...{ machineType: "", identity: null, memoryBytes: 40_000 * 4096, cpus: 1, hasSwitchoverBandwidth: true },
    ...{ roundTripMs: 1, policy: "adaptive", promises: { onStall: "switch" } },
  };
  const rounds = [aRound(0, 4500, 4000, 5000), aRound(1, 5000, 500, 5000), aRound(2, 5500, 500, 5000)];
  return { header, rounds, ticks: [], decisions: [], outcome: OUTCOME, cutOff: null, ...given };
}

test("the time until the first page goes before", () => {
  expect(scenarioOfTrace("", traceOf()).startMs).toBe(500);
});

test("the round that the guest's stop ended: nothing was left, so nothing was written", () => {
  const { activity } = scenarioOfTrace("", traceOf()).workload;
  expect(activity(4600).value).toBeGreaterThan(0.5);
  expect(activity(5400).value).toBeGreaterThan(0.5);
  expect(activity(5600)).toMatchObject({ value: 0, untilMs: expect.closeTo(6000, 6) });
});

test("… what was left was written in it, but for what could not have been sent", () => {
  // 100 ms after the last sync 1,000 of 5,000 pages were sent, so 4,000 of 4,900 were left from before.
  const outcome = { ...OUTCOME, totalMs: 5700, residualBytes: 4900 * 4096 };
  const written = scenarioOfTrace("", traceOf({ outcome })).workload.activity(5550).value;
  const all = { ...outcome, residualBytes: 4000 * 4096 };
  expect(written).toBeGreaterThan(0.1);
  expect(scenarioOfTrace("", traceOf({ outcome: all })).workload.activity(5550).value).toBe(0);
});

test("a round under 50 ms tells nothing of the load", () => {
  const rounds = [...traceOf().rounds, { ...aRound(3, 5530, 30, 4000) }];
  const outcome = { ...OUTCOME, totalMs: 5640 };
  expect(scenarioOfTrace("", traceOf({ rounds, outcome })).workload.classes).toEqual(
    scenarioOfTrace("", traceOf({ outcome: { ...OUTCOME, totalMs: 5510 } })).workload.classes,
  );
});

test("beyond its pages the residual part are bytes of the devices, 128 KiB at most, then time", () => {
  const residual = (residualMs: number, residualBytes: number) => {
    const outcome = { ...OUTCOME, residualBytes, downtimeParts: { ...OUTCOME.downtimeParts!, residualMs } };
    const { deviceBytes, deviceMs } = scenarioOfTrace("", traceOf({ outcome }));
    return [deviceBytes, deviceMs];
  };
  // 100 pages take 10 ms, 128 KiB 3.2 ms.
  expect(residual(33.2, 409_600)).toEqual([131_072, expect.closeTo(20, 6)]);
  expect(residual(13, 409_600)).toEqual([expect.closeTo(1 * BYTES_PER_MS, 6), expect.closeTo(2, 6)]);
  expect(residual(10, 409_600)).toEqual([0, 2]);
});

test("a link that never carried its goodput is slower by that", () => {
  const slower = (share: number) => (round: TraceRound) => ({ ...round, wireBytes: round.wireBytes * share });
  const ticks = Array.from({ length: 30 }, (_, i) => ({
    ...{ type: "tick" as const, atMs: 200 * i, round: 1, remainingBytes: 1e7, dirtyRatePagesPerSecond: 0 },
    ...{ qemuBytesPerSecond: 0, throttlePercent: 0, goodputBytesPerSecond: BYTES_PER_MS * 1000, wireBytes: 8e6 * i },
  }));
  const linkAt = (share: number) => {
    const trace = { ...traceOf(), ticks };
    return scenarioOfTrace("", { ...trace, rounds: trace.rounds.map(slower(share)) }).link(5000).value;
  };
  expect(linkAt(1)).toBeCloseTo(BYTES_PER_MS * 1000, 3);
  expect(linkAt(0.9)).toBeCloseTo(0.9 * BYTES_PER_MS * 1000, 3);
  // Rounds that used less were held up by something else.
  expect(linkAt(0.5)).toBeCloseTo(BYTES_PER_MS * 1000, 3);
});
