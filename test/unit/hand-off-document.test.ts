// The tables of docs/hand-off.md are what the machines do.
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import {
  DESTINATION_START,
  type DestinationEvent,
  type DestinationState,
  restartDestination,
  stepDestination,
} from "../../src/migration/hand-off/destination.ts";
import {
  restartSource,
  SOURCE_START,
  type SourceEvent,
  type SourceState,
  stepSource,
} from "../../src/migration/hand-off/source.ts";
import type { JournalAction, SessionState } from "../../src/migration/hand-off/steps.ts";

const document = readFileSync(new URL("../../docs/hand-off.md", import.meta.url), "utf8");

/** Of either machine. */
interface Action {
  readonly do: string;
  readonly state?: string;
  readonly isSettled?: boolean;
  readonly message?: string;
  readonly end?: string;
}

interface Taken {
  readonly state: { readonly phase: string };
  readonly actions: readonly unknown[];
}

function text({ do: what, state, isSettled, message, end }: Action): string {
  switch (what) {
    case "journal":
      return `note \`${state}${isSettled ? ", settled" : ""}\``;
    case "send":
      return `say ${message}`;
    case "give-back":
      return "give the VM back";
    case "end-qemu":
      return "end QEMU";
    case "run":
      return "run the VM";
    default:
      return `end: ${end}`;
  }
}

function cells({ state, actions }: Taken): string {
  return `${state.phase} | ${(actions as Action[]).map(text).join(", ")}`;
}

/** What can happen, and the phases in which it can, where those are not all. */
type Events<E> = Readonly<Record<string, readonly [event: E, ...phases: string[]]>>;

/** A row for all that leads to the same; none for what is left out of account. */
function table<S extends { readonly phase: string }, E>(
  states: Readonly<Record<string, S>>,
  events: Events<E>,
  step: (state: S, event: E) => Taken,
): string {
  const rows = Object.entries(states).flatMap(([name, state]) => {
    const steps = Object.entries(events).flatMap(([eventName, [event, ...phases]]) => {
      const taken = step(state, event);
      const isNothing = taken.state.phase === state.phase && taken.actions.length === 0;
      return isNothing || (phases.length > 0 && !phases.includes(state.phase)) ? [] : [[eventName, cells(taken)]];
    });
    return grouped(steps).map(([what, then]) => `| ${name} | ${what} | ${then} |`);
  });
  return ["| state | what happens | then | what is done, in order |", "|---|---|---|---|", ...rows].join("\n");
}

function restartTable<F extends string>(
  journalled: readonly SessionState[],
  found: readonly F[],
  restart: (journalled: SessionState, found: F) => Taken | undefined,
): string {
  const rows = journalled.flatMap((state) => {
    const steps = found.map((one) => [one, cellsOf(restart(state, one))]);
    return grouped(steps).map(([one, then]) => `| \`${state}\` | ${one} | ${then} |`);
  });
  return ["| noted | QEMU is | then | what is done, in order |", "|---|---|---|---|", ...rows].join("\n");
}

function cellsOf(taken: Taken | undefined): string {
  return taken === undefined ? "a person decides | " : cells(taken);
}

/** Names with the same outcome together, in the order of their first. */
function grouped(steps: readonly (readonly string[])[]): [string, string][] {
  const names = new Map<string, string[]>();
  for (const [name, then] of steps) names.set(then!, [...(names.get(then!) ?? []), name!]);
  return Array.from(names, ([then, all]) => [all.join("; "), then]);
}

const source = (changes: Partial<SourceState>): SourceState => ({ ...SOURCE_START, ...changes });
const stopped = { isStopped: true, isComplete: true };
const SOURCES = {
  "streaming, the guest runs": source({}),
  "streaming, the guest is stopped": source({ isStopped: true }),
  "streaming, QEMU is complete": source(stopped),
  "streaming, stopped, LOADED heard": source({ isStopped: true, isLoaded: true }),
  committed: source({ ...stopped, phase: "committed" }),
  "giving-back": source({ phase: "giving-back" }),
} as const;
const SOURCE_EVENTS: Events<SourceEvent> = {
  "a connection, also a later one": [{ type: "link-up", there: "streaming" }],
  "no connection for too long": [{ type: "link-given-up" }],
  "it fails": [{ type: "failed" }],
  "Ctrl-C": [{ type: "cancelled" }],
  "ABORT is heard": [{ type: "heard", message: "ABORT" }],
  "QEMU is gone": [{ type: "qemu-gone" }],
  "QEMU has stopped the guest": [{ type: "guest-stopped" }],
  "QEMU is complete": [{ type: "qemu-complete" }],
  "LOADED is heard": [{ type: "heard", message: "LOADED" }],
  "RUNNING is heard": [{ type: "heard", message: "RUNNING" }, "committed"],
  "the VM is as before": [{ type: "given-back" }, "giving-back"],
  "it could not be given back": [{ type: "not-given-back", isQemuGone: false }, "giving-back"],
};

const destination = (changes: Partial<DestinationState>): DestinationState => ({ ...DESTINATION_START, ...changes });
const loaded = { isLoaded: true, isSwitchedOver: true };
const DESTINATIONS = {
  streaming: destination({}),
  "streaming, SWITCHOVER heard": destination({ isSwitchedOver: true }),
  loaded: destination({ ...loaded, phase: "loaded" }),
  committed: destination({ ...loaded, phase: "committed", isCommitted: true }),
  running: destination({ ...loaded, phase: "running" }),
  "giving-up": destination({ phase: "giving-up" }),
  aborted: destination({ phase: "aborted" }),
} as const;
const DESTINATION_EVENTS: Events<DestinationEvent> = {
  "a connection, also a later one": [{ type: "link-up" }],
  "no connection for too long": [{ type: "link-given-up" }],
  "it fails": [{ type: "failed" }],
  "Ctrl-C": [{ type: "cancelled" }],
  "ABORT is heard": [{ type: "heard", message: "ABORT" }],
  "QEMU is gone": [{ type: "qemu-gone" }],
  "QEMU has loaded all": [{ type: "qemu-loaded" }, "streaming"],
  "SWITCHOVER is heard": [{ type: "heard", message: "SWITCHOVER" }],
  "COMMIT is heard": [{ type: "heard", message: "COMMIT", run: true }],
  "SETTLED is heard": [{ type: "heard", message: "SETTLED" }],
  "the VM runs": [{ type: "ran" }, "committed"],
  "QEMU can't run it": [{ type: "not-run" }, "committed"],
  "nobody knows whether it runs": [{ type: "maybe-run" }, "committed"],
  "QEMU was ended": [{ type: "qemu-ended" }, "giving-up"],
  "QEMU can't be ended": [{ type: "qemu-stays" }, "giving-up"],
};

const TABLES = {
  source: table(SOURCES, SOURCE_EVENTS, stepSource),
  destination: table(DESTINATIONS, DESTINATION_EVENTS, stepDestination),
  "restarted send": restartTable(["streaming", "committed", "aborted"], ["running", "stopped", "gone"], restartSource),
  "restarted receive": restartTable(
    ["streaming", "loaded", "committed", "running", "aborted"],
    ["running", "held", "unloaded", "gone"],
    (journalled, found) => restartDestination(journalled, found, true),
  ),
};

test.each(Object.entries(TABLES))("%s", (name, expected) => {
  const shown = new RegExp(`<!-- machine: ${name};[^\\n]*-->\\n\\n(.*?)\\n\\n`, "s").exec(document)?.[1];
  expect(shown).toBe(expected);
});

test("a record that can't be written changes the step, or nothing", () => {
  const cannot = (state: SessionState): { type: "not-journalled"; record: JournalAction } => ({
    type: "not-journalled",
    record: { do: "journal", state },
  });
  expect(stepSource(source({ ...stopped, phase: "committed" }), cannot("committed")).actions).toContainEqual({
    do: "give-back",
  });
  for (const state of ["loaded", "committed"] as const) {
    const taken = stepDestination(destination({ ...loaded, phase: state }), cannot(state));
    expect(taken.actions).toEqual([{ do: "end-qemu" }]);
  }
});
