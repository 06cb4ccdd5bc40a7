/**
 * The control loop on real guests: every case by godwit and by stock QEMU, in turn, each with a fresh guest.
 *
 *   node bench/control.ts [--runs N] [--no-stock] [--results FOLDER] [CASE...]     default: all cases, 3 runs; 20 minutes
 *
 * Each migration is a line of FOLDER/results.jsonl (default: evaluation/) and a trace in FOLDER/traces as soon as it has ended. What was
 * interrupted goes on where it was, unless the code has changed since. The section of docs/benchmarks.md is in FOLDER/report.md after
 * each migration, and printed at the end.
 */
import { createHash } from "node:crypto";
import { appendFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { run as execute } from "../lab/run.ts";
import { type Trace, TraceReader } from "../src/control/trace.ts";
import { messageOf } from "../src/errors.ts";
import { CASES, type Case, isOther } from "./control/cases.ts";
import { legend, report, type Scored } from "./control/report.ts";
import { MOVERS, type MoverName, migrate, type Run, tracePath } from "./control/run.ts";
import { scoreOf } from "./control/score.ts";
import { machine } from "./support.ts";

interface Turn {
  readonly one: Case;
  readonly mover: MoverName;
  readonly run: number;
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  allowNegative: true,
  options: {
    runs: { type: "string", default: "3" },
    stock: { type: "boolean", default: true },
    results: { type: "string", default: join(import.meta.dirname, "..", "evaluation") },
  },
});
const runs = Number(values.runs);
if (!Number.isSafeInteger(runs) || runs < 1) refuse("--runs must be a number from 1 on");
const names = positionals.length > 0 ? positionals : [...CASES.keys()];
const unknown = names.filter((name) => !CASES.has(name));
if (unknown.length > 0) refuse(`no case ${unknown.join(", ")}; there are: ${[...CASES.keys()].join(", ")}`);

// The lab cleans up when the process ends, and a signal alone does not count as that.
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => process.exit(130));

const folder = values.results;
const file = join(folder, "results.jsonl");
mkdirSync(join(folder, "traces"), { recursive: true });
const revision = await codeRevision();
const done = resultsOf(revision)
  .filter((result) => names.includes(result.case))
  .map(withScore);
const turns = turnsOf(names.map((name) => CASES.get(name)!));
for (const [i, turn] of turns.entries()) {
  const { one, mover, run } = turn;
  if (done.some((result) => result.case === one.name && result.mover === mover && result.run === run)) continue;
  const startMs = performance.now();
  const result: Run = { ...(await attempt(turn)), run, revision };
  appendFileSync(file, `${JSON.stringify(result)}\n`);
  done.push(withScore(result));
  writeReport();
  const took = ((performance.now() - startMs) / 1000).toFixed(0);
  console.error(`${i + 1} of ${turns.length}: ${wordsOf(result)} (${took} s with boot and check)`);
}
console.log(writeReport());
const isGood = done.every((run) => run.guestError === null && (run.hasEnded || run.mover === "stock"));
process.exitCode = isGood ? 0 : 1;

function refuse(why: string): never {
  console.error(`evaluation: ${why}`);
  process.exit(2);
}

/** So far: whoever interrupts it has that. */
function writeReport(): string {
  const text = [machine(), legend(), report(done)].join("\n\n");
  writeFileSync(join(folder, "report.md"), `${text}\n`);
  return text;
}

/** All cases once, then again: what ends early has something of all. Stock QEMU goes once over each, and so do cases over other links. */
function turnsOf(cases: readonly Case[]): Turn[] {
  return Array.from({ length: runs }, (_, run) =>
    cases
      .filter((one) => run === 0 || !isOther(one))
      .flatMap((one) =>
        MOVERS.filter((mover) => mover === "godwit" || (values.stock && run === 0)).map((mover) => ({
          one,
          mover,
          run,
        })),
      ),
  ).flat();
}

/** A migration that goes wrong in the lab, or in godwit, is a result, too. */
async function attempt({ one, mover, run }: Turn): Promise<Omit<Run, "run" | "revision">> {
  try {
    return await migrate(one, mover, tracePath(folder, { case: one.name, run }));
  } catch (error) {
    const nothing = { totalMs: 0, downtimeMs: null, blackoutMs: null, wireBytes: 0, rounds: null, summary: null };
    return { case: one.name, mover, ...nothing, hasEnded: false, guestError: null, error: messageOf(error) };
  }
}

function resultsOf(wanted: string): Run[] {
  if (!existsSync(file)) return [];
  const lines = readFileSync(file, "utf8").split("\n").filter(Boolean);
  return lines.map((line) => JSON.parse(line) as Run).filter((result) => result.revision === wanted);
}

function withScore(run: Run): Scored {
  return {
    ...run,
    score: run.mover === "godwit" && run.hasEnded ? scoreOf(run, readTrace(tracePath(folder, run))) : null,
  };
}

function readTrace(path: string): Trace | null {
  if (!existsSync(path)) return null;
  const reader = new TraceReader();
  for (const line of readFileSync(path, "utf8").split("\n").filter(Boolean)) reader.push(line);
  return reader.finish();
}

/** Names the product and the lab as they are, changes that were not committed included. */
async function codeRevision(): Promise<string> {
  const root = { cwd: join(import.meta.dirname, "..") };
  const trees = await execute(["git", "rev-parse", "HEAD:src", "HEAD:lab", "HEAD:assembly"], root);
  const changes = await execute(["git", "diff", "HEAD", "--", "src", "lab", "assembly"], root);
  return createHash("sha256").update(trees).update(changes).digest("hex").slice(0, 12);
}

function wordsOf({ case: name, mover, hasEnded, totalMs, downtimeMs, guestError, error }: Run): string {
  const ending = hasEnded ? "ended after" : "not ended after";
  const downtime = downtimeMs === null ? "" : `, downtime ${downtimeMs.toFixed(0)} ms`;
  const wrong = [guestError, error].flatMap((text) => (text === null ? [] : `; ${text}`)).join("");
  return `${name} by ${mover} ${ending} ${(totalMs / 1000).toFixed(1)} s${downtime}${wrong}`;
}
