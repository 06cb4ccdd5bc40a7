import { setTimeout as delay } from "node:timers/promises";
import type { Vm } from "../vm.ts";
import { SETTLED_MS, type Trial } from "./trial.ts";

/** Where the VM ended up, and what it took. */
export interface Outcome {
  readonly runs: "destination" | "source" | "nowhere";
  /** "resolve": a person had to ask for it; "vouched": and to vouch for what the tool could not know. */
  readonly by: "itself" | "a restart" | "resolve" | "vouched";
}

/** "waiting": for a VM, of which it has nothing or only a part. */
type Look = "running" | "stopped" | "waiting" | "gone";

const LOOK_MS = 100;
/** A VM that runs is left to its programs for so long, to say what they have to say. */
const LAST_WORDS_MS = 4_000;

/**
 * Does what an operator would: waits, starts again what was killed, asks `godwit resolve`, and does what that says.
 *
 * @throws Error when a copy is there and can't be made to run
 */
export async function operate(trial: Trial): Promise<Outcome> {
  const { plan, log } = trial;
  await trial.strike();
  const { fault } = plan;
  let by: Outcome["by"] = "itself";
  if (fault.kind === "kill" && (fault.part === "send" || fault.part === "receive")) {
    await trial.program(fault.part)!.exited;
    await delay(plan.restartMs);
    trial.startProgram(fault.part);
    by = "a restart";
  }
  await settled(trial);
  let runs = await whereItRuns(trial);
  if (runs === "nowhere") {
    by = (await resolved(trial)) ?? by;
    runs = await whereItRuns(trial);
  }
  log.say(`it runs: ${runs}, by ${by}`);
  const runner = runs === "nowhere" ? undefined : trial[runs];
  if (runner === undefined) assertLost(trial, await looks(trial));
  else await trial.judge(runner);
  return { runs, by };
}

interface Looks {
  readonly source: Look;
  readonly destination: Look;
}

async function looks({ source, destination }: Trial): Promise<Looks> {
  const [at, to] = await Promise.all([look(source), look(destination)]);
  return { source: at, destination: to };
}

async function look(vm: Vm): Promise<Look> {
  const gone = vm.exited.then(() => "gone" as const);
  const answer = vm.qmp.execute("query-status").then(
    ({ running, status }): Look => (running ? "running" : status === "inmigrate" ? "waiting" : "stopped"),
    () => gone,
  );
  return Promise.race([answer, gone]);
}

async function whereItRuns(trial: Trial): Promise<Outcome["runs"]> {
  const { source, destination } = await looks(trial);
  if (destination === "running") return "destination";
  return source === "running" ? "source" : "nowhere";
}

/** Waits until the programs have ended, or nothing more is to come of them. */
async function settled(trial: Trial): Promise<void> {
  const deadlineMs = performance.now() + SETTLED_MS;
  let lastWordsMs = Number.POSITIVE_INFINITY;
  while (performance.now() < Math.min(deadlineMs, lastWordsMs)) {
    const hasEnded = (name: "send" | "receive") => Promise.race([trial.program(name)?.exited, false]);
    const [send, receive] = await Promise.all([hasEnded("send"), hasEnded("receive")]);
    if (send !== false && receive !== false) return;
    // Each of them may wait for the other, or for another VM, for longer than there is anything to see.
    const isOver = (send !== false || receive !== false) && (await nothingMoreComes(trial));
    if (!isOver) lastWordsMs = Number.POSITIVE_INFINITY;
    else if (lastWordsMs === Number.POSITIVE_INFINITY) lastWordsMs = performance.now() + LAST_WORDS_MS;
    await delay(LOOK_MS);
  }
  if (performance.now() >= deadlineMs) trial.log.say("not settled in time");
}

/** What `godwit resolve --json` offers (docs/commands.md), as far as it is needed here. */
interface Advice {
  readonly can: readonly { readonly action: string; readonly needsIKnow: boolean }[];
}

interface Offer {
  readonly at: "source" | "destination";
  readonly id: string;
  readonly action: string;
  readonly needsIKnow: boolean;
}

const ATTEMPTS = 6;

/** The guest runs, or there is none any more. */
async function nothingMoreComes(trial: Trial): Promise<boolean> {
  const { source, destination } = await looks(trial);
  return source === "running" || destination === "running" || (source === "gone" && destination !== "stopped");
}

/** None runs: asks what can be done, and does it. Returns how it was done; undefined if nothing could be. */
async function resolved(trial: Trial): Promise<Outcome["by"] | undefined> {
  const tried = new Set<string>();
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const { source, destination } = await looks(trial);
    trial.log.say(`none runs; the source QEMU is ${source}, the destination QEMU ${destination}`);
    const offers = [...(await offersOf(trial, "source")), ...(await offersOf(trial, "destination"))];
    // A person vouches for what he sees.
    const hasSeen = ({ at }: Offer) => (at === "source" ? !trial.watch.hasRun(trial.destination) : source === "gone");
    const isNew = ({ at, action }: Offer) => !tried.has(`${at} ${action}`);
    const offer = offers.filter(isNew).find((one) => !one.needsIKnow || hasSeen(one));
    if (offer === undefined) return undefined;
    tried.add(`${offer.at} ${offer.action}`);
    const how = await take(trial, offer);
    if ((await whereItRuns(trial)) !== "nowhere") return how;
  }
  return undefined;
}

/** Does what is offered; returns what that was. */
async function take(trial: Trial, { at, id, action, needsIKnow }: Offer): Promise<Outcome["by"]> {
  const program = /^restart-(send|receive)$/.exec(action)?.[1] as "send" | "receive" | undefined;
  if (program !== undefined) {
    trial.startProgram(program);
    await settled(trial);
    return "a restart";
  }
  // The copy at the destination can never run then: part of what is vouched for.
  if (needsIKnow && at === "source") await trial.destination.quit();
  const vouching = needsIKnow ? ["--i-know"] : [];
  await trial.run(at, ["resolve", id, `--${action}`, ...vouching, "--qmp", trial[at].qmpPath]);
  return needsIKnow ? "vouched" : "resolve";
}

/** What can be done at an end, as its own `godwit resolve` says. */
async function offersOf(trial: Trial, at: "source" | "destination"): Promise<Offer[]> {
  if ((await looks(trial))[at] === "gone") return [];
  const { stdout } = await trial.run(at, ["status", "--json"]);
  const sessions = JSON.parse(stdout) as { readonly id: string; readonly settled: boolean }[];
  const offers: Offer[] = [];
  for (const { id, settled } of sessions) {
    if (settled) continue;
    const answer = await trial.run(at, ["resolve", id, "--json", "--qmp", trial[at].qmpPath]);
    const { can } = JSON.parse(answer.stdout) as Advice;
    // The program that is started again asks too.
    const isDone = (action: string) => ["none", "wait", "ask-destination"].includes(action);
    offers.push(...can.filter(({ action }) => !isDone(action)).map((one) => ({ ...one, at, id })));
  }
  return offers;
}

/** Nothing can run only where the QEMU that had the VM was killed, and the other had no whole copy of it. */
function assertLost({ plan: { fault }, watch, destination }: Trial, { source: at, destination: to }: Looks): void {
  const isKilled = (part: string) => fault.kind === "kill" && fault.part === part;
  if (isKilled("source QEMU") && at === "gone" && to !== "stopped") return;
  if (isKilled("destination QEMU") && to === "gone" && watch.hasRun(destination)) return;
  throw new Error(`none runs, and none can be made to: the source QEMU is ${at}, the destination QEMU ${to}`);
}
