/**
 * The destination's part of the hand-off as a pure machine: docs/hand-off.md. The program runs it, and
 * test/unit/hand-off-explorer.test.ts explores it together with the source's.
 */
import type { JournalAction, NotJournalled, SessionState, Step } from "./steps.ts";

export type DestinationPhase = "streaming" | "loaded" | "committed" | "running" | "giving-up" | "aborted" | "ended";

/** How the destination's part has ended. */
export type DestinationEnd =
  /** The VM is here. */
  | "completed"
  /** It is not, and never will be: our QEMU is gone. */
  | "aborted"
  /** A copy is held here, and the source may have handed it over or not; or it is not known whether it ran. */
  | "in-doubt";

export interface DestinationState {
  readonly phase: DestinationPhase;
  /** A connection is up, greeted by both ends. */
  readonly isLinked: boolean;
  /** Our QEMU has loaded the VM and holds it. */
  readonly isLoaded: boolean;
  /** SWITCHOVER was heard on this connection. */
  readonly isSwitchedOver: boolean;
  /** COMMIT was heard on this connection. */
  readonly isCommitted: boolean;
  /** The source needs no answer any more. */
  readonly isSettled: boolean;
}

export type DestinationEvent =
  | { readonly type: "link-up" | "link-down" }
  /** No connection came for as long as is waited. */
  | { readonly type: "link-given-up" }
  | { readonly type: "heard"; readonly message: "SWITCHOVER" | "ABORT" | "SETTLED" }
  | { readonly type: "heard"; readonly message: "COMMIT"; readonly run: boolean }
  | { readonly type: "qemu-loaded" | "qemu-gone" }
  /** Anything that makes the migration impossible; a person who cancels. */
  | { readonly type: "failed" | "cancelled" }
  /** What came of `run`: the VM runs; QEMU says that it does not, and it has not; nobody knows. */
  | { readonly type: "ran" | "not-run" | "maybe-run" }
  /** What came of `end-qemu`. */
  | { readonly type: "qemu-ended" | "qemu-stays" }
  | NotJournalled;

export type DestinationAction =
  | JournalAction
  | { readonly do: "send"; readonly message: "LOADED" | "RUNNING" | "ABORT" }
  /** Let the guest run, unless `run` is false. Answered by ran, not-run or maybe-run. */
  | { readonly do: "run"; readonly run: boolean }
  /** End our QEMU. Answered by qemu-ended, when it is certainly gone, or qemu-stays. */
  | { readonly do: "end-qemu" }
  | { readonly do: "end"; readonly end: DestinationEnd };

type DestinationStep = Step<DestinationState, DestinationAction>;

export const DESTINATION_START: DestinationState = {
  phase: "streaming",
  isLinked: true,
  isLoaded: false,
  isSwitchedOver: false,
  isCommitted: false,
  isSettled: false,
};

/** The destination QEMU as a restarted `receive` finds it. */
export type FoundDestination =
  /** It runs the VM. */
  | "running"
  /** It has loaded the VM, and the guest does not run. */
  | "held"
  /** It has not loaded the VM, and its stream was lost with the program that fed it. */
  | "unloaded"
  | "gone";

/**
 * What a restarted `receive` begins with, from what its journal says and how it finds its QEMU; undefined when it is for a person
 * to find out.
 *
 * @param run what COMMIT said, if it was journalled
 */
export function restartDestination(
  journalled: SessionState,
  found: FoundDestination,
  run: boolean,
): DestinationStep | undefined {
  const isLoaded = found === "held" || found === "running";
  const state = { ...DESTINATION_START, isLinked: false, isLoaded };
  switch (journalled) {
    case "streaming":
      return found === "gone" ? abort(state) : giveUp(state);
    case "loaded":
      if (found === "gone") return abort(state);
      // Only COMMIT or a person can have let it run.
      return found === "running" ? onRan(state) : { state: { ...state, phase: "loaded" }, actions: [] };
    case "committed":
      if (found === "running") return onRan(state);
      return found === "held" ? runIt(state, run) : undefined;
    case "running": // It was loaded, whatever has become of it since.
      return { state: { ...state, phase: "running", isLoaded: true }, actions: [] };
    case "aborted":
      return { state: { ...state, phase: "aborted" }, actions: [] };
    default:
      return undefined;
  }
}

/** What the destination does when something happens. */
export function stepDestination(state: DestinationState, event: DestinationEvent): DestinationStep {
  if (event.type === "not-journalled") return onNotJournalled(state, event.record);
  if (state.phase === "ended") return stay(state);
  switch (event.type) {
    case "link-up": {
      const next = { ...state, isLinked: true, isSwitchedOver: false, isCommitted: false };
      return { state: next, actions: state.phase === "aborted" ? [ABORT] : [] };
    }
    case "link-down":
      return stay({ ...state, isLinked: false, isSwitchedOver: false, isCommitted: false });
    case "link-given-up":
      return onGivenUp(state);
    case "heard":
      return onHeard(state, event);
    case "qemu-loaded":
      return sayLoadedIfSo({ ...state, isLoaded: true });
    case "qemu-gone":
      return state.phase === "streaming" || state.phase === "loaded" ? abort(state) : stay(state);
    case "failed":
      return state.phase === "streaming" ? giveUp(state) : stay(state);
    case "cancelled":
      return state.phase === "streaming" ? giveUp(state) : onGivenUp(state);
    case "ran":
      return onRan(state);
    case "not-run":
      return giveUp(state);
    case "maybe-run":
    case "qemu-stays":
      return end(state, "in-doubt");
    case "qemu-ended":
      return abort(state);
  }
}

/**
 * Nobody is waited for any more. A copy that was loaded is not ended: the source may have handed it over, and be gone by now.
 */
function onGivenUp(state: DestinationState): DestinationStep {
  switch (state.phase) {
    case "streaming":
      return giveUp(state);
    case "loaded":
      return end(state, "in-doubt");
    case "running":
      return end(state, "completed");
    case "aborted":
      return end(state, "aborted");
    default:
      return stay(state);
  }
}

function onHeard(state: DestinationState, event: Extract<DestinationEvent, { type: "heard" }>): DestinationStep {
  switch (event.message) {
    case "SWITCHOVER":
      return sayLoadedIfSo({ ...state, isSwitchedOver: true });
    case "COMMIT":
      return onCommit({ ...state, isCommitted: true }, event.run);
    case "ABORT":
      // After COMMIT the source says it only if a person there was mistaken: the VM is ours.
      return state.phase === "streaming" || state.phase === "loaded" ? giveUp(state) : stay(state);
    case "SETTLED":
      if (state.phase === "running")
        return end(state, "completed", [{ do: "journal", state: "running", isSettled: true }]);
      if (state.phase === "aborted")
        return end(state, "aborted", [{ do: "journal", state: "aborted", isSettled: true }]);
      return stay({ ...state, isSettled: state.phase === "giving-up" });
  }
}

/** LOADED is said once SWITCHOVER was heard; and again on every later connection, as long as the VM is or may be ours. */
function sayLoadedIfSo(state: DestinationState): DestinationStep {
  if (!(state.isLoaded && state.isSwitchedOver)) return stay(state);
  if (state.phase === "streaming") {
    return { state: { ...state, phase: "loaded" }, actions: [{ do: "journal", state: "loaded" }, LOADED] };
  }
  return { state, actions: state.phase === "loaded" || isOurs(state) ? [LOADED] : [] };
}

function onCommit(state: DestinationState, run: boolean): DestinationStep {
  if (state.phase === "loaded") return runIt(state, run, [{ do: "journal", state: "committed", run }]);
  return { state, actions: state.phase === "running" ? [RUNNING] : [] };
}

function isOurs({ phase }: DestinationState): boolean {
  return phase === "committed" || phase === "running";
}

function runIt(state: DestinationState, run: boolean, before: readonly DestinationAction[] = []): DestinationStep {
  return { state: { ...state, phase: "committed" }, actions: [...before, { do: "run", run }] };
}

function onRan(state: DestinationState): DestinationStep {
  const words = state.isCommitted ? [RUNNING] : [];
  return { state: { ...state, phase: "running" }, actions: [{ do: "journal", state: "running" }, ...words] };
}

/** Our copy of the VM must never run. */
function giveUp(state: DestinationState): DestinationStep {
  return { state: { ...state, phase: "giving-up" }, actions: [{ do: "end-qemu" }] };
}

/** Our QEMU is gone. */
function abort(state: DestinationState): DestinationStep {
  const record: DestinationAction = { do: "journal", state: "aborted", ...(state.isSettled && { isSettled: true }) };
  return saidAborted(state, [record]);
}

function saidAborted(state: DestinationState, before: readonly DestinationAction[] = []): DestinationStep {
  const actions = state.isLinked ? [...before, ABORT] : before;
  return state.isSettled ? end(state, "aborted", actions) : { state: { ...state, phase: "aborted" }, actions };
}

/** A step that can't be noted is not taken, where there is another one; else a restarted program will find out once more. */
function onNotJournalled(state: DestinationState, { state: step, isSettled }: JournalAction): DestinationStep {
  switch (step) {
    case "loaded": // LOADED was not said
    case "committed": // nor the guest run: the source will have it back.
      return giveUp(state);
    case "running":
      return isSettled ? end(state, "completed") : { state, actions: state.isCommitted ? [RUNNING] : [] };
    default:
      return state.phase === "ended" ? end(state, "aborted", state.isLinked ? [ABORT] : []) : saidAborted(state);
  }
}

function end(
  state: DestinationState,
  how: DestinationEnd,
  actions: readonly DestinationAction[] = [],
): DestinationStep {
  return { state: { ...state, phase: "ended" }, actions: [...actions, { do: "end", end: how }] };
}

function stay(state: DestinationState): DestinationStep {
  return { state, actions: [] };
}

const LOADED: DestinationAction = { do: "send", message: "LOADED" };
const RUNNING: DestinationAction = { do: "send", message: "RUNNING" };
const ABORT: DestinationAction = { do: "send", message: "ABORT" };
