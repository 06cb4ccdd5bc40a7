import { createReadStream } from "node:fs";
import { writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { createInterface } from "node:readline";
import { Command, Option } from "commander";
import { POLICIES } from "../control/policies/all.ts";
import type { Policy } from "../control/policy.ts";
import type { Promises } from "../control/promises.ts";
import { checkAgainst } from "../control/simulation/check.ts";
import { type Case, compare, type Score } from "../control/simulation/compare.ts";
import { scenarioOfTrace } from "../control/simulation/from-trace.ts";
import { recordTrace } from "../control/simulation/record.ts";
import { LOADS, standardSet } from "../control/simulation/standard-set.ts";
import { type Trace, TraceReader } from "../control/trace.ts";
import { GodwitError, messageOf } from "../errors.ts";
import { makeFolder } from "../store/state-dir.ts";
import { oneLine } from "./format.ts";
import { openOutputs } from "./output.ts";
import { addPromiseOptions, type PromiseOptions, promisesOf } from "./promise-options.ts";
import { checkLines } from "./replay-check.ts";
import { plotOf } from "./replay-plot.ts";
import { overviewLines, scoreLines } from "./replay-table.ts";

const HELP = `
Policies: ${Object.keys(POLICIES).join(", ")}.
Loads:    ${LOADS.map(({ name }) => name).join(", ")}.

A trace says how much the guest dirtied in each round and how fast the link was; a load that does the same is then migrated in a
simulation of QEMU's pre-copy, once with each policy. docs/control-loop.md says what is simulated, and what is not.

Exit codes:
  0  done
  2  a trace can't be read, or wrong options

Examples:
  godwit replay vm.trace --policy all
  godwit replay vm.trace --max-downtime 300 --on-stall throttle
  godwit replay --check *.trace
  godwit replay --synthetic --policy all
  godwit replay --synthetic --policy adaptive --policy nova --load long-phases --plot phases.svg
  godwit replay --synthetic --json | jq 'select(.downtimeMs > 1000)'`;

interface ReplayOptions extends PromiseOptions {
  synthetic?: true;
  check?: true;
  policy?: string[];
  load?: string;
  json?: true;
  plot?: string;
  save?: string;
}

export function replayCommand(): Command {
  const command = new Command("replay")
    .description("try policies of the switch-over on recorded or synthetic migrations")
    .argument("[trace...]", "traces of migrations")
    .addOption(
      new Option(
        "--check",
        "simulate the migrations that the traces were recorded of, and show the simulation's error",
      ).conflicts(["synthetic", "load", "policy", "plot", "save", "maxDowntime", "deadline", "maxBytes", "onStall"]),
    )
    .option("--synthetic", "the standard set: loads, links and sizes of VM")
    .addOption(
      new Option("--policy <name>", "adaptive unless given; more than once for several; all for all of them").argParser(
        collectPolicies,
      ),
    )
    .addOption(new Option("--load <name>", "of the standard set only this load").choices(LOADS.map(({ name }) => name)))
    .option("--json", "write a JSON object a line: a workload and a policy each")
    .option("--plot <file>", "write a plot as SVG")
    .option("--save <folder>", "write the traces of the simulated migrations into a folder");
  return addPromiseOptions(command).addHelpText("after", HELP).action(replay);
}

interface NamedTrace {
  readonly name: string;
  readonly trace: Trace;
}

/** @throws CONTROL_BAD_LIMIT, CLI_REPLAY_NOTHING, CLI_REPLAY_UNREADABLE, CLI_REPLAY_UNWRITABLE, and what TraceReader throws */
async function replay(paths: readonly string[], options: ReplayOptions): Promise<void> {
  const { stdout, stderr } = openOutputs();
  const traces: NamedTrace[] = [];
  for (const path of paths) {
    const trace = await readTrace(path);
    if (trace.cutOff !== null) stderr.write(`godwit: the trace ${oneLine(path)} is not whole: ${trace.cutOff}\n`);
    const isAlone = paths.filter((other) => basename(other) === basename(path)).length === 1;
    traces.push({ name: isAlone ? basename(path) : path, trace });
  }
  const leftOut = (name: string, why: string) =>
    stderr.write(`godwit: the trace ${oneLine(name)} is left out: ${why}\n`);
  if (options.check) {
    const checks = ofEach(traces, checkAgainst, leftOut);
    if (checks.length === 0)
      throw new GodwitError(
        "CLI_REPLAY_NOTHING",
        "--check needs traces of completed migrations to check the simulation with",
      );
    stdout.write(`${(options.json ? checks.map((check) => JSON.stringify(check)) : checkLines(checks)).join("\n")}\n`);
    return;
  }
  const cases = ofEach(traces, (name, trace): Case => ({ name, scenarios: [scenarioOfTrace(name, trace)] }), leftOut);
  if (options.synthetic) cases.push(...standardSet().filter(({ load }) => load === (options.load ?? load)));
  else if (options.load !== undefined) {
    throw new GodwitError("CLI_REPLAY_NOTHING", "--load is one of the standard set: add --synthetic");
  }
  if (cases.length === 0)
    throw new GodwitError("CLI_REPLAY_NOTHING", "there is nothing to replay: name a trace, or --synthetic");
  const folder = options.save;
  if (folder !== undefined) {
    await makeFolder(folder, 0o777).catch((error) => {
      throw unwritable(folder, error);
    });
  }
  const names = options.policy ?? ["adaptive"];
  const promises = promisesOf(options, names.includes("adaptive") ? "adaptive" : names[0]);
  const policies = Object.fromEntries(names.map((name) => [name, () => POLICIES[name]!(promises)]));
  const scores: Score[] = [];
  for (const one of cases) {
    const added = compare(one, policies);
    scores.push(...added);
    if (options.json) for (const score of added) stdout.write(`${JSON.stringify(score)}\n`);
    if (folder !== undefined) await saveTraces(folder, one, policies, promises);
  }
  if (!options.json) {
    const lines = options.synthetic && options.load === undefined ? overviewLines(scores) : scoreLines(scores);
    stdout.write(`${lines.join("\n")}\n`);
  }
  if (options.plot !== undefined) await write(options.plot, plotOf(cases, policies, scores));
}

/** What comes of each of them; of many some may have ended before they tell of the load, which is said and no more. */
function ofEach<T>(
  traces: readonly NamedTrace[],
  use: (name: string, trace: Trace) => T,
  leftOut: (name: string, why: string) => void,
): T[] {
  return traces.flatMap(({ name, trace }) => {
    try {
      return [use(name, trace)];
    } catch (error) {
      if (!(error instanceof GodwitError)) throw error;
      leftOut(name, error.message);
      return [];
    }
  });
}

function collectPolicies(name: string, before: string[] = []): string[] {
  if (name === "all") return Object.keys(POLICIES);
  if (Object.hasOwn(POLICIES, name)) return before.includes(name) ? before : [...before, name];
  const names = Object.keys(POLICIES).join(", ");
  throw new GodwitError("CLI_REPLAY_POLICY", `there is no policy ${JSON.stringify(name)}; there are ${names}, and all`);
}

async function readTrace(path: string): Promise<Trace> {
  const reader = new TraceReader();
  // Left open by readline's own iterator when a line throws.
  const file = createReadStream(path, "utf8");
  try {
    for await (const line of createInterface({ input: file, crlfDelay: Number.POSITIVE_INFINITY })) reader.push(line);
    return reader.finish();
  } catch (error) {
    if (error instanceof GodwitError) {
      throw new GodwitError(error.code, `${oneLine(path)}: ${error.message}`, { ...error.details, path });
    }
    const message = `the trace ${oneLine(path)} can't be read: ${messageOf(error)}`;
    throw new GodwitError("CLI_REPLAY_UNREADABLE", message, { path }, { cause: error });
  } finally {
    file.destroy();
  }
}

async function saveTraces(
  folder: string,
  { name, scenarios }: Case,
  policies: Record<string, () => Policy>,
  promises: Promises,
): Promise<void> {
  for (const [policy, create] of Object.entries(policies)) {
    const file = `${name} ${policy}`.replaceAll(/[^A-Za-z0-9.]+/g, "-");
    await write(join(folder, `${file}.trace`), recordTrace(scenarios[0]!, create(), promises));
  }
}

async function write(path: string, text: string): Promise<void> {
  await writeFile(path, text).catch((error) => {
    throw unwritable(path, error);
  });
}

function unwritable(path: string, cause: unknown): GodwitError {
  const message = `${oneLine(path)} can't be written: ${messageOf(cause)}`;
  return new GodwitError("CLI_REPLAY_UNWRITABLE", message, { path }, { cause });
}
