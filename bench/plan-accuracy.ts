/**
 * What `godwit plan` says of a migration, and what that then comes to: the workloads of the evaluation, each with a fresh guest.
 *
 *   node bench/plan-accuracy.ts [CASE...]     default: all of them over 500 Mbit/s, twice: without an index of the disk, and with one
 */
import { resolve } from "node:path";
import { keyFile, startGodwit } from "../lab/godwit.ts";
import { type Pair, startPair } from "../lab/pair.ts";
import { run } from "../lab/run.ts";
import type { planDocument } from "../src/cli/plan-report.ts";
import type { Estimate } from "../src/control/downtime.ts";
import { messageOf } from "../src/errors.ts";
import type { SourceSummary } from "../src/migration/events.ts";
import { CASES, type Case, isOther } from "./control/cases.ts";
import { quantile } from "./control/report.ts";
import { errorShare, isInside } from "./control/score.ts";
import { table } from "./support.ts";

type Plan = ReturnType<typeof planDocument>;

/** What was expected, and what it came to. */
interface Outcome {
  readonly name: string;
  readonly plan: Plan;
  readonly summary: SourceSummary;
  /** What is wrong with the guest. */
  readonly guestError: string | null;
}

/** Its end comes while a plan looks at it. */
const TOO_SHORT = "boot";
const PROGRAM = resolve(import.meta.dirname, "../bin/godwit");
const USUAL = [...CASES.values()].filter((one) => !isOther(one) && one.name !== TOO_SHORT).map(({ name }) => name);

export async function bench(names: readonly string[] = USUAL): Promise<string> {
  const cases = names.map((name) => {
    const one = CASES.get(name);
    if (one === undefined) throw new Error(`no case ${name}; there are: ${[...CASES.keys()].join(", ")}`);
    return one;
  });
  const outcomes: Outcome[] = [];
  for (const isIndexed of [false, true]) {
    for (const one of cases) {
      const outcome = await planAndMove(one, isIndexed);
      outcomes.push(outcome);
      console.error(outcomeRow(outcome).join("  "));
    }
  }
  const rows = [HEAD, ...outcomes.map(outcomeRow)];
  return [table(rows), ...FIGURES.map((figure) => sumOf(figure, outcomes))].join("\n");
}

async function planAndMove(one: Case, isIndexed: boolean): Promise<Outcome> {
  const { workload, linkBitsPerSecond } = one;
  await using pair = await startPair({ ...workload.vm, preallocated: true, rateBitsPerSecond: linkBitsPerSecond });
  using key = keyFile();
  const { source, destination } = pair.hosts;
  const check = await workload.begin(pair.source);
  const receiveArgs = ["--qmp", pair.destination.qmpPath, "--listen", destination.address, "--psk-file", key.path];
  await using receive = startGodwit(destination, ["receive", ...receiveArgs, "--json"]);
  await receive.event("listening");
  const from = ["--qmp", pair.source.qmpPath];
  if (isIndexed) await godwit(pair, "index", ...from);
  const to = [...from, "--to", destination.address, "--psk-file", key.path, "--json"];
  const plan = JSON.parse(await godwit(pair, "plan", ...to)) as Plan;
  await using send = startGodwit(source, ["send", ...to, "--no-keep-checkpoint"]);
  const { code, stderr } = await send.exited;
  const summary = send.events.at(-1);
  if (code !== 0 || summary?.event !== "summary" || summary.role !== "source")
    throw new Error(`${one.name}: ${stderr}`);
  const guestError = await check(pair.destination).then(() => null, messageOf);
  return { name: `${one.name}${isIndexed ? ", indexed" : ""}`, plan, summary, guestError };
}

/** Runs it at the pair's source, with that host's state. @returns what it prints */
function godwit({ hosts: { source } }: Pair, ...args: string[]): Promise<string> {
  return run(source.command([PROGRAM, ...args]), { env: { ...process.env, GODWIT_STATE_DIR: source.stateDir } });
}

interface Figure {
  readonly title: string;
  readonly predicted: (plan: Plan) => Estimate | null;
  readonly measured: (summary: SourceSummary) => number | null;
  readonly text: (value: number) => string;
}

const FIGURES: readonly Figure[] = [
  {
    title: "total s",
    predicted: ({ predicted }) => predicted.totalMs,
    measured: ({ totalMs }) => totalMs,
    text: (ms) => (ms / 1000).toFixed(1),
  },
  {
    title: "downtime ms",
    predicted: ({ predicted }) => predicted.downtimeMs,
    measured: ({ downtimeMs }) => downtimeMs,
    text: (ms) => ms.toFixed(0),
  },
  {
    title: "MB",
    predicted: ({ predicted }) => predicted.wireBytes,
    measured: ({ wireBytes }) => wireBytes,
    text: (bytes) => (bytes / 1e6).toFixed(0),
  },
];

const HEAD = ["case", ...FIGURES.flatMap(({ title }) => [title, "predicted", ""])];

function outcomeRow({ name, plan, summary, guestError }: Outcome): string[] {
  const cells = FIGURES.flatMap((figure) => {
    const [estimate, measured] = [figure.predicted(plan), figure.measured(summary)];
    if (estimate === null || measured === null) return ["-", "-", ""];
    const [expected, low, high] = [estimate.expected, estimate.low, estimate.high].map(figure.text);
    const mark = isInside({ ...estimate, measured }) ? "" : "outside";
    return [figure.text(measured), `${expected} (${low} to ${high})`, mark];
  });
  return [guestError === null ? name : `${name} (guest broken: ${guestError})`, ...cells];
}

/** How many of the intervals hold what was measured, and how far the middle of them is from it. */
function sumOf({ title, predicted, measured }: Figure, outcomes: readonly Outcome[]): string {
  const predictions = outcomes.flatMap(({ plan, summary }) => {
    const [estimate, value] = [predicted(plan), measured(summary)];
    return estimate === null || value === null ? [] : [{ ...estimate, measured: value }];
  });
  const inside = predictions.filter(isInside).length;
  const errors = predictions.map(errorShare);
  const percent = (share: number) => `${(quantile(errors, share) * 100).toFixed(0)} %`;
  return `${title}: ${inside} of ${predictions.length} inside; off by ${percent(0.5)} in the median, ${percent(0.9)} at nine of ten`;
}

if (import.meta.main) console.log(await bench(process.argv.length > 2 ? process.argv.slice(2) : undefined));
