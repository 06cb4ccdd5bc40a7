/**
 * `npm run chaos [-- --runs N] [--seed S] [--first N] [--case WORDS] [--parallel N] [--minutes N]`: migrations of a real, busy guest, each with one
 * fault at one step; an operator does what he is told to; then no two VMs may ever have run, one must, and the guest's own checks must be clean.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { operate } from "./operator.ts";
import { hardships, nameOf, type Plan, planOf } from "./plan.ts";
import { type Result, report } from "./report.ts";
import { Log, openStage, Trial } from "./trial.ts";

const DEFAULT_RUNS = "200";
/** Plans looked through for a case. */
const LAPS = 10_000;
const HARDSHIPS_FROM = 1_000_000;

const { values } = parseArgs({
  options: {
    runs: { type: "string", default: DEFAULT_RUNS },
    seed: { type: "string", default: `${Math.floor(Date.now() / 1000) % 1e6}` },
    /** The number of the first plan: with --runs 1, to repeat one. */
    first: { type: "string", default: "0" },
    case: { type: "string" },
    parallel: { type: "string", default: "2" },
    /** No more runs are begun after so many. */
    minutes: { type: "string", default: "60" },
    verbose: { type: "boolean", default: false },
  },
});
const seed = Number(values.seed);

/** The plans whose fault and step have all the words of --case. */
function* plans(): Generator<Plan> {
  const words = values.case?.split(" ") ?? [];
  const isAsked = ({ fault, step }: Plan) => words.every((word) => `${nameOf(fault)} ${step}`.includes(word));
  const hard = hardships(HARDSHIPS_FROM).filter(isAsked);
  let left = Number(values.runs);
  // What --case asks for may be hardships only.
  for (let number = Number(values.first); left > 0 && number < Number(values.first) + LAPS; number++) {
    const plan = planOf(seed, number);
    if (!isAsked(plan)) continue;
    left--;
    yield plan;
  }
  yield* hard.slice(0, values.runs === DEFAULT_RUNS ? hard.length : left);
}

const logs = join(tmpdir(), `godwit-chaos-${seed}`);
const results: Result[] = [];
const queue = plans();
const startMs = performance.now();
console.log(`seed ${seed}`);

async function work(): Promise<void> {
  await using stage = await openStage();
  for (const plan of queue) {
    if (performance.now() - startMs > Number(values.minutes) * 60_000) return;
    const log = new Log();
    log.say(JSON.stringify(plan));
    const result = await once(plan, log).catch((error: Error): Result => ({ plan, why: error.message, samples: 0 }));
    results.push(result);
    const { outcome, why } = result;
    const text = why === undefined ? `${outcome!.runs}, by ${outcome!.by}` : `FAILED: ${why}`;
    console.log(`${results.length}  #${plan.number}  ${plan.step}: ${nameOf(plan.fault)} → ${text}`);
    if (values.verbose) console.log(log.lines.join("\n"));
    if (why === undefined) continue;
    process.exitCode = 1;
    mkdirSync(logs, { recursive: true });
    const path = join(logs, `${plan.number}.log`);
    writeFileSync(path, `${log.lines.join("\n")}\n${why}\n`);
    console.log(`  its log is ${path}; again: npm run chaos -- --seed ${seed} --first ${plan.number} --runs 1`);
  }

  async function once(plan: Plan, log: Log): Promise<Result> {
    await using trial = await Trial.begin(plan, stage, log);
    const outcome = await operate(trial);
    return { plan, outcome, samples: trial.watch.samples };
  }
}

await Promise.all(Array.from({ length: Number(values.parallel) }, work));
console.log(`\n${report(results)}\n\n${Math.round((performance.now() - startMs) / 1000)} s, seed ${seed}`);
