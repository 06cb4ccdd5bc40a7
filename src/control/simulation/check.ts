/** The simulator against reality: a recorded migration once more, with the load and the link that its trace shows. */
import { GodwitError } from "../../errors.ts";
import type { EarlierMigration } from "../downtime.ts";
import { POLICIES } from "../policies/all.ts";
import type { Trace } from "../trace.ts";
import { type Ending, simulate } from "./engine.ts";
import { scenarioOfTrace } from "./from-trace.ts";

export interface Checked {
  measured: number;
  simulated: number;
  /** (simulated − measured) / measured. */
  error: number;
}

export interface Check {
  trace: string;
  policy: string;
  ending: Ending;
  totalMs: Checked;
  wireBytes: Checked;
  /** Null unless it was switched over in the simulation too. */
  downtimeMs: Checked | null;
  rounds: { measured: number; simulated: number };
}

/**
 * Simulates the migration that a trace was recorded of, under the same policy and promises.
 *
 * @param earlier what the policy knew of the VM's earlier migrations
 * @throws GodwitError CONTROL_TRACE_NOT_COMPLETED where it did not end, or nothing was measured; CONTROL_TRACE_TOO_SHORT as scenarioOfTrace
 */
export function checkAgainst(name: string, trace: Trace, earlier: readonly EarlierMigration[] = []): Check {
  const { header, outcome, rounds } = trace;
  const makePolicy = Object.hasOwn(POLICIES, header.policy) ? POLICIES[header.policy] : undefined;
  if (outcome?.status !== "completed" || outcome.downtimeMs === null || makePolicy === undefined) {
    const message = "the trace is not of a migration that was completed by a policy which is known here";
    throw new GodwitError("CONTROL_TRACE_NOT_COMPLETED", message, { status: outcome?.status, policy: header.policy });
  }
  const run = simulate(scenarioOfTrace(name, trace), makePolicy(header.promises, earlier));
  return {
    trace: name,
    policy: header.policy,
    ending: run.ending,
    totalMs: checked(outcome.totalMs, run.totalMs),
    wireBytes: checked(outcome.wireBytes, run.wireBytes),
    downtimeMs: run.downtimeMs === null ? null : checked(outcome.downtimeMs, run.downtimeMs),
    rounds: { measured: rounds.length + 1, simulated: run.rounds },
  };
}

function checked(measured: number, simulated: number): Checked {
  return { measured, simulated, error: (simulated - measured) / Math.max(measured, Number.MIN_VALUE) };
}
