/**
 * Who owns a VM by what one end of its session has noted, and what a person may do about it. Pure: the rules are the machines' of the
 * hand-off, which the explorer checks.
 */
import type { JournalRole } from "../../store/journal-format.ts";
import { type FoundDestination, restartDestination } from "../hand-off/destination.ts";
import { type FoundSource, restartSource } from "../hand-off/source.ts";
import type { SessionState } from "../hand-off/steps.ts";

export type Owner = "source" | "destination" | "unknown";
export type Action =
  | "resume-source"
  /** Resumes it once the destination has said that it does not run the VM, and has ended its copy. */
  | "ask-destination"
  | "run-destination"
  | "restart-send"
  | "restart-receive"
  /** Notes that nothing is left to do at this end. */
  | "close"
  | "wait"
  | "none";

/** What `godwit resolve` does itself, when it is asked to. */
export type Deed = Extract<Action, "resume-source" | "run-destination" | "close">;

/** How this end's QEMU was found. "unknown": it can't be asked, or may be another one than the session's. */
export type Found = FoundSource | FoundDestination | "unknown";

/** One end of a session, as far as the advice depends on it. */
export interface SessionEnd {
  readonly role: JournalRole;
  /** Null: nothing was done yet. */
  readonly state: SessionState | null;
  readonly isSettled: boolean;
  /** What COMMIT said. */
  readonly run: boolean;
  /** The godwit that is at it. */
  readonly pid: number | null;
  readonly found: Found;
  /** Whether the QEMU that was found is certainly that of the session; it counts only where one was found. */
  readonly isCertain: boolean;
  /** Settings of QEMU are to be put back. */
  readonly hasSettings: boolean;
}

export interface Option {
  readonly action: Action;
  /** A person has to vouch for what can't be known from here. */
  readonly needsIKnow: boolean;
  /** What it does; where a person must vouch, for what. */
  readonly text: string;
}

export interface Advice {
  readonly owner: Owner;
  /** In plain words, one sentence. */
  readonly why: string;
  readonly can: readonly Option[];
}

/** Who owns the VM, by the journal alone. */
export function ownerOf({ role, state }: Pick<SessionEnd, "role" | "state">): Owner {
  switch (state) {
    case null:
    case "streaming":
    case "aborted":
      return "source";
    case "running":
      return "destination";
    case "committed":
      return role === "destination" ? "destination" : "unknown";
    default:
      return "unknown";
  }
}

/** What is to be said of an end, and what can be done there. */
export function adviseOn(end: SessionEnd): Advice {
  const owner = ownerOf(end);
  if (end.pid !== null) {
    const program = end.role === "settings" ? "checkpoint save" : end.role === "source" ? "send" : "receive";
    const when = end.role === "settings" ? "by itself" : "once the other end answers";
    const text = `godwit ${program} (process ${end.pid}) is at it, and settles it ${when}`;
    return { owner, why: whyOf(end), can: [option("wait", text)] };
  }
  if (end.isSettled) return { owner, why: whyOf(end), can: [option("none", "it is settled: there is nothing to do")] };
  if (end.role === "settings") return adviseOnSettings(end);
  if (end.found === "unknown") return { owner, why: whyOf(end), can: [option("none", UNKNOWN)] };
  const advice = end.role === "source" ? adviseSource(end, end.found) : adviseDestination(end, end.found);
  if (end.isCertain) return advice;
  // `send` goes on with the sessions of its very QEMU only.
  const can = advice.can.filter(({ action }) => action !== "restart-send" && action !== "ask-destination");
  return { ...advice, can: can.map(vouchedFor) };
}

/** What is done to a QEMU that may be another one needs a person who knows. */
function vouchedFor(can: Option): Option {
  if (can.action !== "resume-source" && can.action !== "run-destination") return can;
  const which = "vouch that the QEMU which answers is the one of this session";
  return { ...can, needsIKnow: true, text: `${can.text}${can.needsIKnow ? "; and " : ": "}${which}` };
}

const UNKNOWN =
  "see to it that this QEMU can be asked (--qmp names its monitor), or has certainly ended; then ask again";

function adviseSource(end: SessionEnd, found: Found): Advice {
  const owner = ownerOf(end);
  const why = whyOf(end);
  const state = end.state ?? "streaming";
  if (state === "committed") return { ...adviseCommittedSource(end, found), why };
  if (found === "gone") return { owner: "unknown", why, can: [option("none", LOST_HERE), CLOSE] };
  const step = restartSource(state, found as FoundSource);
  const isSafe = step?.actions.some(({ do: what }) => what === "give-back") ?? false;
  const text = found === "running" ? "closes the session: the guest runs here" : "lets the guest go on here";
  if (!isSafe) return { owner, why, can: [option("none", UNKNOWN)] };
  return { owner, why, can: [option("resume-source", text), TELL_AND_GO_ON] };
}

const TELL_AND_GO_ON = option("restart-send", "does the same, tells the destination, and begins the migration anew");
const LOST_HERE =
  "the source QEMU has ended with the VM: if the destination holds a whole copy, godwit resolve there says so; else start the VM again from its disk";

const ASKING = [
  option("restart-send", "asks the destination; goes on with the migration if it has given up"),
  option(
    "ask-destination",
    "asks the destination; if it does not run the VM, it ends its copy, and the guest goes on here",
  ),
];

function adviseCommittedSource(end: SessionEnd, found: Found): Omit<Advice, "why"> {
  if (found === "gone") {
    const look = option("none", "the VM is at the destination, or nowhere: look there");
    const close = option(
      "close",
      "closes the session here: vouch that it was found there, or that it is known to be lost",
      true,
    );
    return { owner: "destination", can: [look, close] };
  }
  if (found === "running") {
    const text =
      "closes the session, as the guest runs here already: vouch that it does not run at the destination, and never did";
    return { owner: "unknown", can: [option("resume-source", text, true)] };
  }
  const text =
    "lets the guest go on here: vouch that it does not run at the destination, never did, and never will (end the QEMU there)";
  return { owner: ownerOf(end), can: [...ASKING, option("resume-source", text, true)] };
}

function adviseDestination(end: SessionEnd, found: Found): Advice {
  const why = whyOf(end);
  const state = end.state ?? "streaming";
  const step = restartDestination(state, found as FoundDestination, end.run);
  const does = (what: string, noted?: SessionState) =>
    step?.actions.some(
      (action) => action.do === what && (noted === undefined || ("state" in action && action.state === noted)),
    );
  const tell = option("restart-receive", "waits for the source, and tells it");
  if (does("run"))
    return { owner: "destination", why, can: [option("run-destination", "lets the guest run here"), tell] };
  if (found === "running" && state === "running") return { owner: "destination", why, can: [TELL_IF_OPEN, CLOSE] };
  if (found === "running" && does("journal", "running")) {
    return { owner: "destination", why, can: [option("run-destination", "notes that the guest runs here"), tell] };
  }
  if (state === "running" && found === "held")
    return { owner: "destination", why, can: [option("run-destination", "lets the guest go on here"), tell] };
  if (state === "running" || state === "committed") {
    const close = state === "running" ? CLOSE : CLOSE_IF_KNOWN;
    const can = [option("none", GONE_THERE[state]), ...(found === "gone" ? [close] : [])];
    return { owner: state === "running" ? "destination" : "unknown", why, can };
  }
  if (found === "gone") return { owner: "source", why, can: [option("none", AT_SOURCE), CLOSE] };
  if (state === "aborted") return { owner: "source", why, can: [option("none", AT_SOURCE)] };
  return adviseOnCopy({ ...end, state }, found, why);
}

/** As long as the journal is kept a source that asks later is answered all the same. */
const CLOSE = option("close", "closes the session: nothing is left to do at this end");
const CLOSE_IF_KNOWN = option(
  "close",
  "closes the session here: vouch that it is known whether the guest ran here, and that it has been seen to",
  true,
);
const TELL_IF_OPEN = option(
  "restart-receive",
  "only if the session is open at the source too: waits for the source, and tells it; else there is nothing to do",
);
const AT_SOURCE = "the VM is the source's: if it is stopped there, godwit resolve --resume-source there lets it go on";
const GONE_THERE = {
  running: "the VM has run here, and this QEMU has ended with it: start it again from its disk",
  committed:
    "the VM was handed over, and this QEMU has ended: whether the guest ran here only a person can find out, by its disks and log; if it did not, godwit resolve --resume-source --i-know at the source lets it go on",
} as const;

/** A copy that was never handed over, as far as was heard here. */
function adviseOnCopy(end: SessionEnd, found: Found, why: string): Advice {
  const wait = option("restart-receive", RESTART_WITH_COPY[end.state === "loaded" ? "loaded" : "streaming"]);
  if (found === "unloaded") return { owner: "source", why, can: [wait] };
  const vouch =
    "vouch that the source's guest does not run, and never will (its QEMU is gone, or its journal says that it has committed)";
  if (found === "running") {
    const text = `notes that the guest runs here, though it was not handed over: ${vouch}`;
    return { owner: "unknown", why, can: [option("run-destination", text, true)] };
  }
  const run = option("run-destination", `lets the guest run here: ${vouch}`, true);
  const can = end.state === "loaded" ? [wait, OF_NO_USE, run] : [wait, run];
  return { owner: end.state === "loaded" ? "unknown" : "source", why, can };
}

const OF_NO_USE = option("none", "once the guest runs at the source: end the QEMU here, as its copy is of no use then");
const RESTART_WITH_COPY = {
  loaded: "waits for the source to hand the VM over, or to take it back",
  streaming: "ends this QEMU: its copy of the VM is of no use",
} as const;

function adviseOnSettings({ hasSettings, found }: SessionEnd): Advice {
  const why = hasSettings
    ? "a godwit that was killed has left QEMU's migration settings as it needed them"
    : "a godwit was at this QEMU, and has left nothing";
  const text = "puts QEMU's settings back";
  const isThere = found === "running" || found === "stopped";
  if (hasSettings && isThere) return { owner: "source", why, can: [option("resume-source", text)] };
  const nothing = option("none", "there is nothing to do");
  return { owner: "source", why, can: found === "gone" ? [nothing, CLOSE] : [nothing] };
}

function whyOf({ role, state, isSettled, found, pid }: SessionEnd): string {
  const noted = WHY[role === "destination" ? "destination" : "source"][state ?? "streaming"];
  return isSettled || pid !== null ? noted : `${noted}; ${QEMU[found]}`;
}

const WHY: Readonly<Record<"source" | "destination", Readonly<Record<SessionState, string>>>> = {
  source: {
    streaming: "the VM was not handed over",
    loaded: "the VM was not handed over",
    committed: "the VM was handed over, and the destination has not answered",
    running: "the VM is at the destination, which has said so",
    aborted: "the VM stays here: the migration was given up",
    lost: "the source QEMU ended before the VM was handed over",
  },
  destination: {
    streaming: "the VM was not handed over, and its stream is not whole",
    loaded: "the whole VM is here, and it was not heard that the source handed it over",
    committed: "the source has handed the VM over",
    running: "the VM was handed over, and is here",
    aborted: "the VM stays at the source: the copy here is gone",
    lost: "the VM was not handed over",
  },
};

const QEMU: Readonly<Record<Found, string>> = {
  running: "the guest runs in the QEMU here",
  stopped: "the guest is stopped in the QEMU here",
  held: "the QEMU here holds it, stopped",
  unloaded: "the QEMU here has not loaded it",
  gone: "the QEMU here has ended",
  unknown: "how the QEMU here is can't be known",
};

function option(action: Action, text: string, needsIKnow = false): Option {
  return { action, needsIKnow, text };
}
