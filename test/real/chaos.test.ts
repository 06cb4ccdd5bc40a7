// One fault at one step of a migration, and an operator who does what he is told to: a fixed dozen of what `npm run chaos` does at
// length. No two VMs ever run, one does in the end, and the guest finds its memory whole.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { operate } from "../../lab/chaos/operator.ts";
import { faultNamed, type Plan, type Step } from "../../lab/chaos/plan.ts";
import { Log, openStage, type Stage, Trial } from "../../lab/chaos/trial.ts";

const cases: readonly [Step, string, runs: "source" | "destination" | "nowhere" | "either"][] = [
  ["any time", "link reset", "destination"],
  ["round", "link half-open, sender told", "destination"],
  ["any time", "link flaps", "destination"],
  ["any time", "kill send", "source"],
  ["started", "kill receive", "source"],
  ["round", "kill destination QEMU", "source"],
  ["switchover", "link refuse", "destination"],
  ["loaded", "kill send", "either"],
  ["loaded", "kill receive", "either"],
  ["committed", "link black-hole", "destination"],
  ["committed", "kill send", "destination"],
  ["running", "freeze source QEMU", "destination"],
];

/** As many at once as keep two cores busy: a trial mostly waits. */
const STAGES = 3;
const free: Stage[] = [];
const waiting: ((stage: Stage) => void)[] = [];

async function takeStage(): Promise<Stage> {
  return free.pop() ?? new Promise((resolve) => waiting.push(resolve));
}

function giveBack(stage: Stage): void {
  const next = waiting.shift();
  if (next === undefined) free.push(stage);
  else next(stage);
}

beforeAll(async () => {
  free.push(...(await Promise.all(Array.from({ length: STAGES }, openStage))));
});
afterAll(async () => {
  for (const stage of free) await stage[Symbol.asyncDispose]();
});

describe.concurrent("chaos", () => {
  test.each(cases.map((one, number) => [...one, number] as const))("%s: %s", async (step, fault, runs, number) => {
    const plan: Plan = {
      ...{ number, step, fault: faultNamed(fault, 1000), delayMs: step === "any time" ? 500 : 0 },
      ...{ linkDelayMs: number % 2 === 0 ? 0 : 20, reconnectForS: 30, restartMs: 300 },
    };
    const stage = await takeStage();
    const log = new Log();
    try {
      await using trial = await Trial.begin(plan, stage, log);
      const outcome = await operate(trial);
      expect(runs === "either" ? ["source", "destination"] : [runs]).toContain(outcome.runs);
    } catch (error) {
      console.log(log.lines.join("\n"));
      throw error;
    } finally {
      giveBack(stage);
    }
  });
});
