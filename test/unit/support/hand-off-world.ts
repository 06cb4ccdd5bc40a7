/**
 * A world for the two machines of the hand-off: two QEMUs, two programs with their journals, a link, and everything that can happen
 * to them. It holds no rule of the hand-off itself: those are the machines', which it is given.
 */
import {
  DESTINATION_START,
  type DestinationAction,
  type DestinationEvent,
  type DestinationState,
  restartDestination,
  stepDestination,
} from "../../../src/migration/hand-off/destination.ts";
import {
  restartSource,
  SOURCE_START,
  type SourceAction,
  type SourceEvent,
  type SourceState,
  stepSource,
} from "../../../src/migration/hand-off/source.ts";
import type { JournalAction, SessionState } from "../../../src/migration/hand-off/steps.ts";

export const MACHINES = { stepSource, restartSource, stepDestination, restartDestination };
export type Machines = typeof MACHINES;

interface Journal {
  readonly state: SessionState;
  readonly isSettled: boolean;
  readonly run: boolean;
}

/** A program: dead, or in a state of its machine with what it has yet to do. */
interface Program<S, A, E> {
  readonly state: S;
  readonly todo: readonly A[];
  /** The answer to the last action, which comes before anything else. */
  readonly answer: E | null;
  /** It knows that its connection is gone only once it has taken what had arrived. */
  readonly hasEnded: string | null;
}

type SourceQemu = "running" | "switched-over" | "postmigrate" | "gone";
type DestinationQemu = "loading" | "held" | "running" | "gone";

export interface World {
  readonly source: Program<SourceState, SourceAction, SourceEvent> | null;
  readonly destination: Program<DestinationState, DestinationAction, DestinationEvent> | null;
  readonly sourceJournal: Journal;
  readonly destinationJournal: Journal;
  readonly sourceQemu: SourceQemu;
  readonly destinationQemu: DestinationQemu;
  /** Whether the source QEMU's migration is still on, so that it may let the guest go on by itself. */
  readonly isMigrating: boolean;
  /** What is on the way; WELCOME begins what the destination says on a connection. */
  readonly toDestination: readonly string[];
  readonly toSource: readonly string[];
  /** A connection carries what is sent. */
  readonly isUp: boolean;
  /** The guest has run at the destination. */
  readonly hasMoved: boolean;
  /** COMMIT stands in the source's journal though writing it was said to have failed. */
  readonly hasDoubtfulCommit: boolean;
  /** The QEMU ended to which the VM belonged, so that it is gone as by any such fault. */
  readonly isVmDead: boolean;
}

const JOURNAL: Journal = { state: "streaming", isSettled: false, run: false };

export const START: World = {
  source: { state: SOURCE_START, todo: [], answer: null, hasEnded: null },
  destination: { state: DESTINATION_START, todo: [], answer: null, hasEnded: null },
  sourceJournal: JOURNAL,
  destinationJournal: JOURNAL,
  sourceQemu: "running",
  destinationQemu: "loading",
  isMigrating: true,
  toDestination: [],
  toSource: [],
  isUp: true,
  hasMoved: false,
  hasDoubtfulCommit: false,
  isVmDead: false,
};

export interface Move {
  readonly name: string;
  /** A fault, a person, or a clock that has run out: what need not happen. */
  readonly isFault: boolean;
  readonly world: World;
}

/** All that can happen next. */
export function movesOf(world: World, machines: Machines): Move[] {
  const moves: Move[] = [];
  const add = (name: string, next: World, isFault = false) => moves.push({ name, isFault, world: next });
  sourceMoves(world, machines, add);
  destinationMoves(world, machines, add);
  qemuMoves(world, add);
  linkMoves(world, machines, add);
  return moves;
}

type Add = (name: string, next: World, isFault?: boolean) => void;

function sourceMoves(world: World, machines: Machines, add: Add): void {
  const { source, sourceQemu, sourceJournal } = world;
  if (source === null) {
    if (sourceJournal.isSettled) return;
    const found = sourceQemu === "running" || sourceQemu === "gone" ? sourceQemu : "stopped";
    const step = machines.restartSource(sourceJournal.state, found);
    const back = machines.restartSource(sourceJournal.state, found, true);
    if (back && sourceJournal.state === "committed")
      add(
        "godwit resolve --resume-source",
        { ...world, source: { state: back.state, todo: back.actions, answer: null, hasEnded: null } },
        true,
      );
    if (step)
      add("send restarts", {
        ...world,
        source: { state: step.state, todo: step.actions, answer: null, hasEnded: null },
      });
    return;
  }
  if (source.hasEnded !== null) {
    if (source.hasEnded === "in-doubt" || !sourceJournal.isSettled) {
      add("the ended send is gone", cutOff({ ...world, source: null }));
    }
    return;
  }
  add("send is killed", sourceDies(world), true);
  const step = (event: SourceEvent): World => {
    const { state, actions } = machines.stepSource(source.state, event);
    return { ...world, source: { state, todo: actions, answer: null, hasEnded: null } };
  };
  if (source.todo.length > 0) return doSource(world, add);
  if (source.answer !== null) return add(`source: ${source.answer.type}`, step(source.answer));
  const { state } = source;
  const [message, ...rest] = world.toSource;
  if (message !== undefined) {
    const event: SourceEvent = message.startsWith("WELCOME ")
      ? { type: "link-up", there: message.slice("WELCOME ".length) as SessionState }
      : { type: "heard", message: message as "LOADED" | "RUNNING" | "ABORT" };
    add(`source gets ${message}`, { ...step(event), toSource: rest });
  } else if (!world.isUp && state.isLinked) add("source: link-down", step({ type: "link-down" }));
  if (!state.isLinked && !world.isUp) add("source: link-given-up", step({ type: "link-given-up" }));
  if ((sourceQemu === "switched-over" || sourceQemu === "postmigrate") && !state.isStopped)
    add("source: guest-stopped", step({ type: "guest-stopped" }));
  if (sourceQemu === "postmigrate" && !state.isComplete) add("source: qemu-complete", step({ type: "qemu-complete" }));
  if (sourceQemu === "gone" && state.hasQemu) add("source: qemu-gone", step({ type: "qemu-gone" }));
  // QEMU fails the migration, by itself or because somebody cancels it there.
  if (!world.isMigrating && state.phase === "streaming" && !state.isComplete && sourceQemu === "running")
    add("source: failed", step({ type: "failed" }));
  add("source: failed", step({ type: "failed" }), true);
  add("source: cancelled", step({ type: "cancelled" }), true);
}

/** The program is gone, and its QEMU's migration with its socket. */
function sourceDies(world: World): World {
  return cutOff({ ...world, source: null });
}

function doSource(world: World, add: Add): void {
  const source = world.source!;
  const action = source.todo[0]!;
  const todo = source.todo.slice(1);
  const next: World = { ...world, source: { ...source, todo } };
  switch (action.do) {
    case "journal":
      add(`source journals ${action.state}`, { ...next, sourceJournal: noted(world.sourceJournal, action) });
      for (const mayStand of [false, true]) {
        const journal = mayStand ? noted(world.sourceJournal, action) : world.sourceJournal;
        const answer = { type: "not-journalled", record: action } as const;
        const hasDoubtfulCommit = world.hasDoubtfulCommit || (mayStand && action.state === "committed");
        const program = { ...source, todo: [], answer };
        const failed = { ...world, sourceJournal: journal, source: program, hasDoubtfulCommit };
        add(`source can't journal ${action.state}${mayStand ? ", but it stands there" : ""}`, failed, true);
      }
      break;
    case "send":
      add(`source says ${action.message}`, {
        ...next,
        toDestination: said(world, world.toDestination, action.message),
      });
      break;
    case "give-back": {
      if (world.sourceQemu === "gone") {
        const answer = { type: "not-given-back", isQemuGone: true } as const;
        return add("source QEMU is gone", { ...next, source: { ...source, todo, answer } });
      }
      const answer = { type: "given-back" } as const;
      const runs = { ...next, sourceQemu: "running", isMigrating: false, source: { ...source, todo, answer } } as const;
      add("source lets the guest go on", runs);
      break;
    }
    case "end":
      add(`send ends: ${action.end}`, cutOff({ ...next, source: { ...source, todo: [], hasEnded: action.end } }));
  }
}

function destinationMoves(world: World, machines: Machines, add: Add): void {
  const { destination, destinationQemu, destinationJournal } = world;
  if (destination === null) {
    // A `receive` answers for sessions of its journal that are over, too.
    if (destinationJournal.isSettled && world.sourceJournal.isSettled) return;
    const found = destinationQemu === "loading" ? "unloaded" : destinationQemu;
    const step = machines.restartDestination(destinationJournal.state, found, destinationJournal.run);
    if (step) {
      const program = { state: step.state, todo: step.actions, answer: null, hasEnded: null };
      add("receive restarts", { ...world, destination: program });
    }
    return;
  }
  if (destination.hasEnded !== null) {
    if (!(destinationJournal.isSettled && world.sourceJournal.isSettled))
      add("the ended receive is gone", cutOff({ ...world, destination: null }));
    return;
  }
  add("receive is killed", cutOff({ ...world, destination: null }), true);
  const step = (event: DestinationEvent): World => {
    const { state, actions } = machines.stepDestination(destination.state, event);
    return { ...world, destination: { state, todo: actions, answer: null, hasEnded: null } };
  };
  if (destination.todo.length > 0) return doDestination(world, add);
  if (destination.answer !== null) return add(`destination: ${destination.answer.type}`, step(destination.answer));
  const { state } = destination;
  const [message, ...rest] = world.toDestination;
  if (message !== undefined) {
    const event = { type: "heard", message, run: true } as DestinationEvent;
    add(`destination gets ${message}`, { ...step(event), toDestination: rest });
  } else if (!world.isUp && state.isLinked) add("destination: link-down", step({ type: "link-down" }));
  if (!state.isLinked && !world.isUp) add("destination: link-given-up", step({ type: "link-given-up" }));
  if (destinationQemu === "held" && !state.isLoaded) add("destination: qemu-loaded", step({ type: "qemu-loaded" }));
  if (destinationQemu === "gone") {
    const next = step({ type: "qemu-gone" });
    if (next.destination!.state !== state) add("destination: qemu-gone", next);
  }
  add("destination: failed", step({ type: "failed" }), true);
  add("destination: cancelled", step({ type: "cancelled" }), true);
}

function doDestination(world: World, add: Add): void {
  const destination = world.destination!;
  const action = destination.todo[0]!;
  const todo = destination.todo.slice(1);
  const next: World = { ...world, destination: { ...destination, todo } };
  /** Not to take it over then loses it: two faults at once, of which the destination knows one. */
  const isLastCopy = world.sourceQemu === "gone";
  const answered = (type: "ran" | "not-run" | "maybe-run" | "qemu-ended" | "qemu-stays"): World => ({
    ...next,
    destination: { ...destination, todo, answer: { type } },
  });
  switch (action.do) {
    case "journal":
      add(`destination journals ${action.state}`, {
        ...next,
        destinationJournal: noted(world.destinationJournal, action),
      });
      for (const mayStand of [false, true]) {
        const journal = mayStand ? noted(world.destinationJournal, action) : world.destinationJournal;
        const answer = { type: "not-journalled", record: action } as const;
        const isVmDead = world.isVmDead || (action.state === "committed" && isLastCopy);
        const program = { ...destination, todo: [], answer };
        const failed = { ...world, destinationJournal: journal, destination: program, isVmDead };
        add(`destination can't journal ${action.state}${mayStand ? ", but it stands there" : ""}`, failed, true);
      }
      break;
    case "send":
      add(`destination says ${action.message}`, { ...next, toSource: said(world, world.toSource, action.message) });
      break;
    case "run": {
      if (world.destinationQemu === "gone") {
        add("destination QEMU was gone before `cont`", answered("not-run"));
        return;
      }
      const ran = { ...answered("ran"), destinationQemu: "running", hasMoved: true } as const;
      add("destination lets the guest run", ran);
      const isVmDead = world.isVmDead || isLastCopy;
      add("destination QEMU refuses `cont`", { ...answered("not-run"), isVmDead }, true);
      add("destination QEMU does not answer `cont`", answered("maybe-run"), true);
      add(
        "destination QEMU runs, and does not answer",
        { ...ran, ...{ destination: answered("maybe-run").destination } },
        true,
      );
      break;
    }
    case "end-qemu":
      add("destination ends its QEMU", { ...answered("qemu-ended"), destinationQemu: "gone" });
      if (world.destinationQemu !== "gone") add("destination QEMU does not end", answered("qemu-stays"), true);
      break;
    case "end":
      add(
        `receive ends: ${action.end}`,
        cutOff({ ...next, destination: { ...destination, todo: [], hasEnded: action.end } }),
      );
  }
}

function qemuMoves(world: World, add: Add): void {
  const { sourceQemu, destinationQemu, source, destination, isMigrating, hasMoved } = world;
  const hasReader = source !== null && source.hasEnded === null;
  if (sourceQemu === "running" && isMigrating && hasReader) {
    add("source QEMU stops the guest", { ...world, sourceQemu: "switched-over" });
  }
  if (sourceQemu === "switched-over" && isMigrating) {
    add("source QEMU is done", { ...world, sourceQemu: "postmigrate", isMigrating: false }, !hasReader);
    add(
      "source QEMU fails, and lets the guest go on",
      { ...world, sourceQemu: "running", isMigrating: false },
      hasReader,
    );
  }
  if (sourceQemu === "running" && isMigrating) {
    add("source QEMU fails", { ...world, isMigrating: false }, hasReader);
  }
  // All of the stream has come: also when the source QEMU has not heard so.
  if (
    destinationQemu === "loading" &&
    destination?.hasEnded === null &&
    ["switched-over", "postmigrate"].includes(sourceQemu)
  ) {
    add("destination QEMU has loaded", { ...world, destinationQemu: "held" });
  }
  if (sourceQemu !== "gone") {
    const isHandedOver = ["committed", "running"].includes(world.sourceJournal.state);
    const isRefused =
      destination?.state.phase === "giving-up" ||
      destination?.answer?.type === "not-journalled" ||
      destination?.answer?.type === "not-run";
    const isOwner =
      !isHandedOver ||
      world.hasDoubtfulCommit ||
      isRefused ||
      source?.state.wantsBack ||
      world.toDestination.includes("ABORT") ||
      destinationQemu === "gone";
    add(
      "source QEMU dies",
      { ...world, sourceQemu: "gone", isMigrating: false, isVmDead: world.isVmDead || isOwner === true },
      true,
    );
  }
  if (destinationQemu !== "gone") {
    const isLast = hasMoved || sourceQemu === "gone";
    add("destination QEMU dies", { ...world, destinationQemu: "gone", isVmDead: world.isVmDead || isLast }, true);
  }
}

function linkMoves(world: World, machines: Machines, add: Add): void {
  const { source, destination, isUp, toDestination, toSource } = world;
  if (isUp) {
    // Of what was on its way, any part may still arrive.
    for (let kept = 0; kept <= toDestination.length; kept++) {
      for (let heard = 0; heard <= toSource.length; heard++) {
        add(
          "the link breaks",
          { ...world, isUp: false, toDestination: toDestination.slice(0, kept), toSource: toSource.slice(0, heard) },
          true,
        );
      }
    }
    return;
  }
  const wantsLink = source !== null && source.hasEnded === null && !source.state.isLinked;
  const isIdle = wantsLink && source.todo.length === 0 && source.answer === null && toSource.length === 0;
  if (!isIdle || !["streaming", "committed"].includes(source.state.phase)) return;
  if (destination === null || destination.hasEnded !== null) return;
  if (destination.todo.length > 0 || destination.answer !== null) return;
  // The new connection supersedes the old one: what of that one was not read is not read any more.
  const down = destination.state.isLinked
    ? machines.stepDestination(destination.state, { type: "link-down" }).state
    : destination.state;
  const { state, actions } = machines.stepDestination(down, { type: "link-up" });
  add("the link comes up", {
    ...world,
    isUp: true,
    toDestination: [],
    toSource: [`WELCOME ${destination.state.phase}`],
    destination: { state, todo: actions, answer: null, hasEnded: null },
  });
}

function noted(journal: Journal, { state, run, isSettled }: JournalAction): Journal {
  return { state, run: run ?? journal.run, isSettled: isSettled ?? false };
}

/** What is sent into a broken connection is lost. */
function said(world: World, queue: readonly string[], message: string): readonly string[] {
  return world.isUp ? [...queue, message] : queue;
}

/** A program that ends closes its connection: what it has sent still arrives, what it has not read does not. */
function cutOff(world: World): World {
  return {
    ...world,
    isUp: false,
    toDestination: world.destination === null ? [] : world.toDestination,
    toSource: world.source === null ? [] : world.toSource,
  };
}

/**
 * The same for worlds that are the same, and no others: a character for each part.
 *
 * @param from the world of which this is the next, and its key: a move leaves most parts as they are
 */
export function keyOf(world: World, from?: { readonly world: World; readonly key: string }): string {
  const { sourceQemu, destinationQemu, isMigrating, isUp, hasMoved, hasDoubtfulCommit, isVmDead } = world;
  const flags = +isMigrating | (+isUp << 1) | (+hasMoved << 2) | (+hasDoubtfulCommit << 3) | (+isVmDead << 4);
  const codes = [flags, idOfText(sourceQemu), idOfText(destinationQemu)];
  for (const part of PARTS) {
    const isSame = from !== undefined && from.world[part] === world[part];
    codes.push(isSame ? from.key.charCodeAt(codes.length) : idOf(world[part]));
  }
  return String.fromCharCode(...codes);
}

const PARTS = ["source", "destination", "sourceJournal", "destinationJournal", "toDestination", "toSource"] as const;
const ids = new Map<string, number>();

function idOfText(text: string): number {
  let id = ids.get(text);
  if (id === undefined) {
    id = ids.size;
    ids.set(text, id);
  }
  return id;
}

function idOf(part: object | null): number {
  return part === null ? 0xffff : idOfText(textOf(part));
}

function textOf(part: object): string {
  let text = "";
  for (const value of Object.values(part)) {
    if (typeof value === "object" && value !== null) text += `(${textOf(value)})`;
    else text += `${value},`;
  }
  return text;
}
