/** Looks at everything that can happen in the world of the hand-off. */
import { type Advice, adviseOn, type Found } from "../../../src/migration/resolve/advice.ts";
import type { JournalRole } from "../../../src/store/journal-format.ts";
import { keyOf, type Machines, movesOf, START, type World } from "./hand-off-world.ts";

export interface Exploration {
  readonly states: number;
  readonly moves: number;
  /** What broke a rule, and the shortest way there. */
  readonly counterexample: { readonly rule: string; readonly trace: readonly string[] } | null;
}

interface Node {
  readonly world: World;
  readonly key: string;
  readonly from: number;
  readonly by: string;
  /** Where it leads without any fault. */
  readonly next: number[];
}

/** Breadth first, so that a counterexample is as short as can be. */
export function explore(machines: Machines, { withJournalFaults = true, withAdvice = true } = {}): Exploration {
  const known = new Map<string, number>();
  const nodes: Node[] = [];
  let moves = 0;
  const visit = (world: World, from: number, by: string): number => {
    const key = keyOf(world, nodes[from]);
    const seen = known.get(key);
    if (seen !== undefined) return seen;
    known.set(key, nodes.length);
    nodes.push({ world, key, from, by, next: [] });
    return nodes.length - 1;
  };
  visit(START, -1, "");
  const found = (rule: string, at: number): Exploration => ({
    states: nodes.length,
    moves,
    counterexample: { rule, trace: traceTo(nodes, at) },
  });
  for (let at = 0; at < nodes.length; at++) {
    const node = nodes[at]!;
    const rule = brokenRule(node.world) ?? (withAdvice ? wrongAdvice(node.world) : undefined);
    if (rule !== undefined) return found(rule, at);
    for (const move of movesOf(node.world, machines)) {
      if (!withJournalFaults && move.name.includes("can't journal")) continue;
      moves++;
      const next = visit(move.world, at, move.name);
      if (!move.isFault) node.next.push(next);
    }
  }
  const stuck = findStuck(nodes);
  if (stuck !== undefined) return found("a settled end is reached when faults stop", stuck);
  return { states: nodes.length, moves, counterexample: null };
}

/** What must hold always; undefined if it does. */
function brokenRule(world: World): string | undefined {
  const { sourceQemu, destinationQemu, hasMoved, isVmDead, sourceJournal, destinationJournal } = world;
  if (sourceQemu === "running" && destinationQemu === "running") return "never two running";
  if (sourceQemu === "running" && hasMoved) return "a VM that has run at the destination never goes on at the source";
  const canRun = sourceQemu !== "gone" || destinationQemu === "held" || destinationQemu === "running";
  if (!canRun && !isVmDead) return "never none that runs or can be made to run";
  // What `godwit resolve` says of an end by its journal alone.
  const isHandedOver = sourceJournal.state === "committed" || sourceJournal.state === "running";
  if (!isHandedOver && hasMoved) return "the source's journal: not handed over, so it never ran there";
  if (sourceJournal.state === "running" && !hasMoved) return "the source's journal: running there";
  const mayRun = destinationJournal.state === "committed" || destinationJournal.state === "running";
  if (!mayRun && hasMoved) return "the destination's journal: not committed, so it never ran";
  if (destinationJournal.state === "running" && !hasMoved) return "the destination's journal: it has run";
  if (destinationJournal.state === "aborted" && destinationQemu !== "gone")
    return "the destination's journal: QEMU is gone";
  return undefined;
}

/** What `godwit resolve` offers, wherever no program is at an end. Offers that need no one to vouch must be right whatever is elsewhere. */
function wrongAdvice(world: World): string | undefined {
  const { source, destination, sourceQemu, destinationQemu, hasMoved, isVmDead } = world;
  const atSource = source === null ? offers("source", world.sourceJournal, foundSource(world)) : undefined;
  const found = destinationQemu === "loading" ? "unloaded" : destinationQemu;
  const atDestination = destination === null ? offers("destination", world.destinationJournal, found) : undefined;
  if (atSource?.safe.has("resume-source") && hasMoved) return "resolve never offers to resume a VM that has moved";
  const mayRun = ["committed", "running"].includes(world.destinationJournal.state) && destinationQemu !== "gone";
  if (atSource?.safe.has("resume-source") && mayRun)
    return "resolve never offers to resume what the destination may run";
  if (atDestination?.safe.has("run-destination") && sourceQemu === "running")
    return "resolve never offers to run what runs at the source";
  const runs = sourceQemu === "running" || destinationQemu === "running";
  if (atSource === undefined || atDestination === undefined || runs || isVmDead) return undefined;
  if (atSource.any || atDestination.any) return undefined;
  return "where none runs, resolve offers something";
}

function foundSource({ sourceQemu }: World): Found {
  return sourceQemu === "running" || sourceQemu === "gone" ? sourceQemu : "stopped";
}

const known = new Map<string, { readonly safe: ReadonlySet<string>; readonly any: boolean }>();

function offers(role: JournalRole, { state, isSettled, run }: World["sourceJournal"], found: Found) {
  const key = `${role} ${state} ${isSettled} ${run} ${found}`;
  let made = known.get(key);
  if (made === undefined) {
    const { can }: Advice = adviseOn({
      ...{ role, state, isSettled, run, pid: null, found, isCertain: true, hasSettings: false },
    });
    const safe = new Set(can.filter(({ needsIKnow }) => !needsIKnow).map(({ action }) => action as string));
    made = { safe, any: can.some(({ action }) => action !== "none") };
    known.set(key, made);
  }
  return made;
}

/** The VM runs at one place, and the source knows of it; also where it has died there since. */
function isGood({ sourceQemu, destinationQemu, sourceJournal, hasMoved, isVmDead }: World): boolean {
  if (hasMoved && sourceQemu !== "gone") return sourceJournal.isSettled && sourceJournal.state === "running";
  if (isVmDead) return true;
  if (destinationQemu === "running") return sourceJournal.isSettled && sourceJournal.state === "running";
  return sourceQemu === "running" && sourceJournal.isSettled && sourceJournal.state === "aborted";
}

/** What no program can know, and a person must find out; a copy is there all the same. */
function needsPerson({ sourceQemu, destinationQemu, sourceJournal, destinationJournal }: World): boolean {
  // The destination QEMU died: before or after the guest ran there?
  if (destinationJournal.state === "committed" && destinationQemu === "gone") return true;
  // COMMIT stands in the journal though writing it failed, and the guest was let go on.
  if (sourceJournal.state === "committed" && sourceQemu === "running") return true;
  // The source QEMU died once the destination held a copy: is it as new as what the disks hold?
  return sourceQemu === "gone" && destinationQemu === "held";
}

/** A state from which no ordinary way leads to a good one. */
function findStuck(nodes: readonly Node[]): number | undefined {
  const reverse: number[][] = nodes.map(() => []);
  for (const [at, { next }] of nodes.entries()) for (const to of next) reverse[to]!.push(at);
  const reaches = new Uint8Array(nodes.length);
  const queue = nodes.flatMap(({ world }, at) => (isGood(world) || needsPerson(world) ? [at] : []));
  for (const at of queue) reaches[at] = 1;
  for (let at = queue.pop(); at !== undefined; at = queue.pop()) {
    for (const before of reverse[at]!) {
      if (reaches[before]) continue;
      reaches[before] = 1;
      queue.push(before);
    }
  }
  const stuck = reaches.indexOf(0);
  return stuck < 0 ? undefined : stuck;
}

function traceTo(nodes: readonly Node[], end: number): string[] {
  const trace: string[] = [];
  for (let at = end; at > 0; at = nodes[at]!.from) trace.unshift(nodes[at]!.by);
  return trace;
}
