// The rules of docs/hand-off.md, checked in everything that can happen: each order of messages, losses of the link, crashes and
// restarts of either program between any two of its actions, deaths of either QEMU, journals that can't be written, persons.
import { expect, test } from "vitest";
import { explore } from "./support/hand-off-exploration.ts";
import { MACHINES, type Machines } from "./support/hand-off-world.ts";

const TIMEOUT_MS = 180_000;

test("never two running, never none that can be made to run, and an end is always reached", {
  timeout: TIMEOUT_MS,
}, () => {
  const { states, moves, counterexample } = explore(MACHINES);
  console.log(`hand-off: ${states} states, ${moves} moves`);
  expect(counterexample).toBeNull();
  expect(states).toBeGreaterThan(100_000);
});

/** Machines with one rule broken, and the rule of the whole that is broken with it. */
const mutants: Record<string, { readonly machines: Partial<Machines>; readonly broken: string }> = {
  "COMMIT is said before it is journalled": {
    broken: "the source's journal: not handed over, so it never ran there",
    machines: {
      stepSource: (state, event) => {
        const { state: next, actions } = MACHINES.stepSource(state, event);
        const isCommit = actions.some((action) => action.do === "journal" && action.state === "committed");
        return { state: next, actions: isCommit ? actions.toReversed() : actions };
      },
    },
  },
  "the source goes on by itself when the link is lost after COMMIT": {
    broken: "never two running",
    machines: {
      stepSource: (state, event) =>
        event.type === "link-given-up" && state.phase === "committed"
          ? { state: { ...state, phase: "giving-back" }, actions: [{ do: "give-back" }] }
          : MACHINES.stepSource(state, event),
    },
  },
  "the source forgets that it has committed when it is restarted": {
    broken: "never two running",
    machines: {
      restartSource: (journalled, found) =>
        MACHINES.restartSource(journalled === "committed" ? "streaming" : journalled, found),
    },
  },
  "the destination runs the VM before it has journalled COMMIT": {
    broken: "the destination's journal: not committed, so it never ran",
    machines: {
      stepDestination: (state, event) => {
        const { state: next, actions } = MACHINES.stepDestination(state, event);
        return {
          state: next,
          actions: actions.some(({ do: what }) => what === "run") ? actions.toReversed() : actions,
        };
      },
    },
  },
  "the destination says that it has given up before its QEMU is gone": {
    broken: "the destination's journal: QEMU is gone",
    machines: {
      stepDestination: (state, event) => {
        const step = MACHINES.stepDestination(state, event);
        if (!step.actions.some(({ do: what }) => what === "end-qemu")) return step;
        return {
          ...step,
          actions: [{ do: "journal", state: "aborted" }, { do: "send", message: "ABORT" }, ...step.actions],
        };
      },
    },
  },
  "the destination ends a loaded copy when nobody calls for long": {
    broken: "never none that runs or can be made to run",
    machines: {
      stepDestination: (state, event) =>
        event.type === "link-given-up" && state.phase === "loaded"
          ? { state: { ...state, phase: "giving-up" }, actions: [{ do: "end-qemu" }] }
          : MACHINES.stepDestination(state, event),
    },
  },
  "the destination does not say RUNNING again": {
    broken: "a settled end is reached when faults stop",
    machines: {
      stepDestination: (state, event) => {
        const isAgain = event.type === "heard" && event.message === "COMMIT" && state.phase === "running";
        return isAgain ? { state, actions: [] } : MACHINES.stepDestination(state, event);
      },
    },
  },
  "a restarted receive does not know that what has run here was loaded": {
    broken: "a settled end is reached when faults stop",
    machines: {
      restartDestination: (journalled, found, run) => {
        const step = MACHINES.restartDestination(journalled, found, run);
        if (step === undefined || journalled !== "running") return step;
        return { ...step, state: { ...step.state, isLoaded: found === "running" } };
      },
    },
  },
  "a restarted receive takes a QEMU for unused that runs the VM": {
    broken: "never none that runs or can be made to run",
    machines: {
      restartDestination: (journalled, found, run) =>
        found === "running"
          ? MACHINES.restartDestination("streaming", found, run)
          : MACHINES.restartDestination(journalled, found, run),
    },
  },
};

for (const [name, { machines, broken }] of Object.entries(mutants)) {
  test(`it would be noticed: ${name}`, { timeout: TIMEOUT_MS }, () => {
    const { counterexample } = explore({ ...MACHINES, ...machines }, { withJournalFaults: false, withAdvice: false });
    expect(counterexample?.rule).toBe(broken);
    expect(counterexample?.trace.length).toBeGreaterThan(1);
  });
}
