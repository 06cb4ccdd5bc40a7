/**
 * The source's part of the hand-off as a pure machine: docs/hand-off.md. The program runs it, and
 * test/unit/hand-off-explorer.test.ts explores it together with the destination's.
 */
import type { JournalAction, NotJournalled, SessionState, Step } from "./steps.ts";

export type SourcePhase = "streaming" | "committed" | "giving-back" | "ended";

/** How the source's part has ended. */
export type SourceEnd =
  /** The VM is at the destination. */
  | "completed"
  /** The VM is here, as before; or, if giving it back has failed, here and stopped. */
  | "aborted"
  /** Stopped here, and perhaps at the destination: the session stays open. */
  | "in-doubt"
  /** The source QEMU has ended, and the VM was not handed over. */
  | "lost";

export interface SourceState {
  readonly phase: SourcePhase;
  /** A connection is up, greeted by both ends. */
  readonly isLinked: boolean;
  /** The migration has stopped the guest (or it was paused before): SWITCHOVER is to be said on every connection. */
  readonly isStopped: boolean;
  /** QEMU is in `postmigrate`: it will never let the guest go on by itself. */
  readonly isComplete: boolean;
  readonly hasQemu: boolean;
  /** LOADED was heard on this connection. */
  readonly isLoaded: boolean;
  /** A person wants the VM back that was handed over: the destination is asked to give up. */
  readonly wantsBack: boolean;
}

export type SourceEvent =
  /** The other end has welcomed us; it is so far. */
  | { readonly type: "link-up"; readonly there: SessionState }
  | { readonly type: "link-down" }
  /** No connection came about for as long as may be waited, or the destination has forgotten the session. */
  | { readonly type: "link-given-up" }
  | { readonly type: "heard"; readonly message: "LOADED" | "RUNNING" | "ABORT" }
  | { readonly type: "guest-stopped" | "qemu-complete" | "qemu-gone" }
  /** Anything that makes the migration impossible; a person who cancels. */
  | { readonly type: "failed" | "cancelled" }
  | { readonly type: "given-back" }
  | { readonly type: "not-given-back"; readonly isQemuGone: boolean }
  | NotJournalled;

export type SourceAction =
  | JournalAction
  | { readonly do: "send"; readonly message: "SWITCHOVER" | "COMMIT" | "ABORT" | "SETTLED" }
  /** End QEMU's migration if it still runs, and let the guest go on if it ran. Answered by given-back or not-given-back. */
  | { readonly do: "give-back" }
  | { readonly do: "end"; readonly end: SourceEnd };

type SourceStep = Step<SourceState, SourceAction>;

export const SOURCE_START: SourceState = {
  phase: "streaming",
  isLinked: true,
  isStopped: false,
  isComplete: false,
  hasQemu: true,
  isLoaded: false,
  wantsBack: false,
};

/** The source QEMU as a restarted `send` finds it. */
export type FoundSource = "running" | "stopped" | "gone";

/**
 * What a restarted `send` begins with, from what its journal says and how it finds the source QEMU; undefined when it is for a
 * person to find out.
 *
 * @param wantsBack a person wants the VM back that was handed over
 */
export function restartSource(journalled: SessionState, found: FoundSource, wantsBack = false): SourceStep | undefined {
  const state = { ...SOURCE_START, isLinked: false, hasQemu: found !== "gone", wantsBack };
  switch (journalled) {
    case "streaming":
    case "aborted":
      return found === "gone" ? lose(state) : giveBack(state);
    case "committed":
      // Somebody has let it go on: then COMMIT must not be said again, and what the destination does is not known.
      if (found === "running") return undefined;
      return { state: { ...state, phase: "committed", isStopped: true, isComplete: true }, actions: [] };
    default:
      return undefined;
  }
}

/** What the source does when something happens. */
export function stepSource(state: SourceState, event: SourceEvent): SourceStep {
  if (event.type === "not-journalled") return onNotJournalled(state, event.record);
  if (state.phase === "ended") return stay(state);
  switch (event.type) {
    case "link-up":
      return onLinkUp({ ...state, isLinked: true, isLoaded: false }, event.there);
    case "link-down":
      return stay({ ...state, isLinked: false, isLoaded: false });
    case "guest-stopped":
      return onGuestStopped(state);
    case "qemu-complete":
      return commitIfReady({ ...state, isComplete: true });
    case "qemu-gone":
      return onQemuGone({ ...state, hasQemu: false });
    case "heard":
      return onHeard(state, event.message);
    case "cancelled":
      // Without a QEMU here the VM lives on at the destination or nowhere.
      return state.phase === "streaming" && state.hasQemu ? giveBack(state) : stay(state);
    case "failed":
      return state.phase === "streaming" ? giveBack(state) : stay(state);
    case "link-given-up":
      if (state.phase === "streaming") return giveBack(state);
      return state.phase === "committed" ? end(state, "in-doubt") : stay(state);
    case "given-back":
      return end(state, "aborted", [{ do: "journal", state: "aborted", isSettled: true }]);
    case "not-given-back":
      if (event.isQemuGone) return lose({ ...state, hasQemu: false });
      return end(state, "aborted", [{ do: "journal", state: "aborted" }]);
  }
}

function onLinkUp(state: SourceState, there: SessionState): SourceStep {
  if (state.phase === "giving-back") return { state, actions: SAY_ABORT };
  // What is run there already, or can't run here, is not taken back.
  const wantsBack = state.wantsBack && state.hasQemu && there !== "committed" && there !== "running";
  const words: SourceAction[] = state.isStopped ? [{ do: "send", message: "SWITCHOVER" }] : [];
  return { state: { ...state, wantsBack }, actions: wantsBack ? [{ do: "send", message: "ABORT" }] : words };
}

function onGuestStopped(state: SourceState): SourceStep {
  if (state.phase !== "streaming" || state.isStopped) return stay(state);
  return {
    state: { ...state, isStopped: true },
    actions: state.isLinked ? [{ do: "send", message: "SWITCHOVER" }] : [],
  };
}

/** A QEMU that was done has left all that the destination needs; what is lost with it is the way back. */
function onQemuGone(state: SourceState): SourceStep {
  return state.phase === "streaming" && !state.isComplete ? giveBack(state) : stay(state);
}

function onHeard(state: SourceState, message: "LOADED" | "RUNNING" | "ABORT"): SourceStep {
  if (state.phase === "giving-back") return stay(state);
  switch (message) {
    case "LOADED":
      if (state.wantsBack) return stay(state);
      if (state.phase === "committed") return { state: { ...state, isLoaded: true }, actions: [COMMIT] };
      return commitIfReady({ ...state, isLoaded: true });
    case "RUNNING":
      return end(state, "completed", [{ do: "journal", state: "running", isSettled: true }, SETTLED]);
    case "ABORT":
      if (state.phase === "streaming" && state.hasQemu) return giveBack(state);
      if (!state.hasQemu) return end(state, "lost", [LOST, SETTLED]);
      return {
        state: { ...state, phase: "giving-back" },
        actions: [{ do: "journal", state: "aborted" }, SETTLED, { do: "give-back" }],
      };
  }
}

/** The journal comes first: from this record on the guest is not resumed here but on the destination's word. */
function commitIfReady(state: SourceState): SourceStep {
  if (state.phase !== "streaming" || !(state.isComplete && state.isLoaded && state.isLinked)) return stay(state);
  return { state: { ...state, phase: "committed" }, actions: [{ do: "journal", state: "committed" }, COMMIT] };
}

/** A step that can't be noted is not taken, where there is another one; else a restarted program will find out once more. */
function onNotJournalled(state: SourceState, { state: step }: JournalAction): SourceStep {
  switch (step) {
    case "committed": // COMMIT has not left.
      return giveBack(state);
    case "aborted":
      return state.phase === "ended" ? end(state, "aborted") : { state, actions: [SETTLED, { do: "give-back" }] };
    case "running":
      return end(state, "completed", [SETTLED]);
    default:
      return end(state, "lost");
  }
}

/** Before COMMIT: the VM stays here, whatever becomes of the other end. */
function giveBack(state: SourceState): SourceStep {
  if (!state.hasQemu) return lose(state);
  const words = state.isLinked ? SAY_ABORT : [];
  return { state: { ...state, phase: "giving-back" }, actions: [...words, { do: "give-back" }] };
}

/** The destination is told only where its copy can't be the last one: what it has loaded a person may want to run. */
function lose(state: SourceState): SourceStep {
  const isUseless = state.isLinked && !state.isStopped;
  return end(state, "lost", [...(isUseless ? SAY_ABORT : []), LOST]);
}

function end(state: SourceState, how: SourceEnd, actions: readonly SourceAction[] = []): SourceStep {
  return { state: { ...state, phase: "ended" }, actions: [...actions, { do: "end", end: how }] };
}

function stay(state: SourceState): SourceStep {
  return { state, actions: [] };
}

const COMMIT: SourceAction = { do: "send", message: "COMMIT" };
const SETTLED: SourceAction = { do: "send", message: "SETTLED" };
const LOST: SourceAction = { do: "journal", state: "lost", isSettled: true };
/** No answer is waited for. */
const SAY_ABORT: readonly SourceAction[] = [{ do: "send", message: "ABORT" }, SETTLED];
