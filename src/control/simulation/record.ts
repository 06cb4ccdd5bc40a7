import type { Estimate } from "../downtime.ts";
import type { Policy } from "../policy.ts";
import type { Promises } from "../promises.ts";
import { TRACE_FORMAT, TRACE_VERSION, type TraceOutcome, type TraceRecord, traceLine } from "../trace.ts";
import { simulate } from "./engine.ts";
import type { Scenario } from "./scenario.ts";

const STATUS: Readonly<Record<string, TraceOutcome["status"]>> = {
  switched: "completed",
  aborted: "cancelled",
  endless: "cancelled",
};

/** The trace of a simulated migration, as a real one would have left it. */
export function recordTrace(scenario: Scenario, policy: Policy, promises: Promises = { onStall: "switch" }): string {
  const lines: string[] = [];
  const write = (record: TraceRecord) => void lines.push(traceLine(record));
  write({
    type: "header",
    format: TRACE_FORMAT,
    version: TRACE_VERSION,
    startedAt: new Date(0).toISOString(),
    program: "godwit replay",
    qemuVersion: scenario.hasSwitchoverBandwidth ? "10.0.0" : "7.2.0",
    machineType: "simulated",
    identity: null,
    memoryBytes: scenario.workload.memoryBytes,
    cpus: 1,
    hasSwitchoverBandwidth: scenario.hasSwitchoverBandwidth,
    roundTripMs: scenario.roundTripMs,
    policy: policy.name,
    promises,
  });
  let predictedMs: Estimate | null = null;
  const run = simulate(scenario, policy, {
    onRound: (round) => write({ type: "round", ...round }),
    onTick: (tick) => write({ type: "tick", ...tick }),
    onDecision: (decision) => {
      if ("predictedMs" in decision && decision.predictedMs) predictedMs = decision.predictedMs;
      write({ type: "decision", ...decision });
    },
  });
  write({
    type: "outcome",
    status: STATUS[run.ending]!,
    totalMs: run.totalMs,
    wireBytes: run.wireBytes,
    downtimeMs: run.downtimeMs,
    downtimeParts: run.downtimeParts,
    predictedMs,
  });
  return lines.join("");
}
