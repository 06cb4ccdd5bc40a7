import { GodwitError, messageOf } from "../errors.ts";
import type { Journal } from "../store/journal.ts";
import type { MessageOf } from "../wire/messages.ts";
import type { Downtime } from "./downtime.ts";
import type { EventListener } from "./events.ts";
import { noteStep, Runner } from "./hand-off/runner.ts";
import {
  SOURCE_START,
  type SourceAction,
  type SourceEnd,
  type SourceEvent,
  type SourceState,
  stepSource,
} from "./hand-off/source.ts";
import type { JournalAction, SessionState, Step } from "./hand-off/steps.ts";
import { PeerAborted } from "./outcome.ts";
import type { SourceLink } from "./source-link.ts";

/** How long the destination has to say that the VM runs, after COMMIT, on a connection that is up. */
const RUNNING_TIMEOUT_MS = 60_000;
/**
 * For how long the connection may be away while the guest is stopped and not handed over: it is down meanwhile, which costs more than
 * the migration. Then it goes on here.
 */
const STOPPED_AWAY_MS = 30_000;

export interface SourceHandOffParts {
  readonly link: SourceLink;
  /** Absent where nothing is kept on this host. */
  readonly journal: Journal | undefined;
  /** Whether the guest is to run wherever the VM ends up. */
  readonly guestRuns: () => boolean;
  /** See SourceVm.giveBack. */
  readonly giveBack: () => Promise<void>;
  readonly downtime: Downtime;
  /** When the last byte was read from the source QEMU (performance.now). */
  readonly lastReadMs: () => number;
  /** For how long the connection may be away while the guest runs, or the VM is handed over. */
  readonly reconnectForMs: number;
  /** When the command was started (performance.now). */
  readonly startMs: number;
  readonly onEvent: EventListener;
  /** It is not to go on as it was: what is under way for it need not be waited for. */
  readonly onDecided: (reason: unknown) => void;
}

/** How the hand-off has ended, and why where it did not end well. */
export interface SourceOutcome {
  readonly end: SourceEnd;
  readonly reason: unknown;
  /** In words, where the VM is. */
  readonly whereabouts: string;
}

/** With the connection on which it came about. */
type Told = SourceEvent & { readonly generation?: number };

/** Runs the source's machine of the hand-off: tells it what happens, and does what it says. */
export class SourceHandOff {
  readonly ended: Promise<SourceOutcome>;
  readonly #parts: SourceHandOffParts;
  readonly #runner: Runner<SourceState, Told, SourceAction>;
  readonly #outcome = Promise.withResolvers<SourceOutcome>();
  /** Of the connection that the machine knows of: what it wants to say is not for a later one. */
  #generation: number;
  #reason: unknown;
  #whereabouts = "the VM stays here";
  #hasSwitchedOver = false;
  #hasCommitted = false;
  #answerTimer: NodeJS.Timeout | undefined;

  constructor(
    parts: SourceHandOffParts,
    begin: Step<SourceState, SourceAction> = { state: SOURCE_START, actions: [] },
  ) {
    this.#parts = parts;
    this.#generation = parts.link.generation;
    this.ended = this.#outcome.promise;
    this.#runner = new Runner<SourceState, Told, SourceAction>(
      begin,
      (state, event) => {
        if (event.type === "link-up") this.#generation = event.generation!;
        return stepSource(state, event);
      },
      (action) => this.#perform(action),
    );
  }

  get isCommitted(): boolean {
    return this.#runner.state.phase === "committed";
  }

  /** WELCOME has come on a later connection. */
  linkUp(there: SessionState, generation: number): void {
    this.#runner.tell({ type: "link-up", there, generation });
  }

  linkDown(): void {
    clearTimeout(this.#answerTimer);
    this.#runner.tell({ type: "link-down" });
  }

  linkGivenUp(reason: unknown): void {
    this.#because(reason);
    this.#runner.tell({ type: "link-given-up" });
  }

  /** The guest is stopped, maybe for the switch-over: from here on an absence of the link is downtime. */
  hurry(isStopped: boolean): void {
    const { link, reconnectForMs } = this.#parts;
    link.hurry(isStopped);
    if (!this.#hasCommitted)
      link.reconnectForMs = isStopped ? Math.min(reconnectForMs, STOPPED_AWAY_MS) : reconnectForMs;
  }

  /** The migration has stopped the guest, or it was paused before. */
  guestStopped(): void {
    this.#runner.tell({ type: "guest-stopped" });
  }

  /** QEMU is done, and will never let the guest go on by itself. */
  qemuComplete(): void {
    this.#runner.tell({ type: "qemu-complete" });
  }

  qemuGone(reason: unknown): void {
    if (!this.#runner.state.isComplete) this.#because(reason);
    this.#runner.tell({ type: "qemu-gone" });
  }

  failed(reason: unknown): void {
    if (!this.isCommitted) this.#because(reason);
    this.#runner.tell({ type: "failed" });
  }

  cancelled(reason: unknown): void {
    this.#because(reason);
    this.#runner.tell({ type: "cancelled" });
  }

  heard(message: MessageOf<"LOADED" | "RUNNING" | "ABORT">): void {
    const { downtime, lastReadMs, link, onEvent } = this.#parts;
    if (message.type === "LOADED" && !this.#hasCommitted) {
      downtime.loaded(message.loadMs, lastReadMs());
      onEvent({ event: "loaded", loadMs: message.loadMs });
    }
    if (message.type === "RUNNING") {
      downtime.running(message.resumeMs, link.minRttMs ?? 0);
      onEvent({ event: "running", resumeMs: message.resumeMs, isPaused: !this.#parts.guestRuns() });
    }
    if (message.type === "ABORT") this.#because(new PeerAborted(message.code, message.message));
    this.#runner.tell({ type: "heard", message: message.type });
  }

  async #perform(action: SourceAction): Promise<SourceEvent | undefined> {
    switch (action.do) {
      case "journal":
        return noteStep(this.#parts.journal, this.#recordOf(action), (error) =>
          this.#onNotJournalled(action.state, error),
        );
      case "send":
        this.#say(action.message);
        return undefined;
      case "give-back":
        return this.#giveBack();
      case "end":
        return this.#end(action.end);
    }
  }

  /** With COMMIT's word to whoever says it again: QEMU does not tell any more whether a user has paused the guest. */
  #recordOf(action: JournalAction): JournalAction {
    return action.state === "committed" ? { ...action, run: this.#parts.guestRuns() } : action;
  }

  #say(message: "SWITCHOVER" | "COMMIT" | "ABORT" | "SETTLED"): void {
    if (message === "SWITCHOVER") this.#switchedOver();
    if (message === "COMMIT") this.#committed();
    const { link } = this.#parts;
    if (link.generation !== this.#generation) return;
    if (message === "COMMIT") link.send({ type: message, run: this.#parts.guestRuns() });
    else if (message === "ABORT") link.send({ type: message, ...wordsFor(this.#reason) });
    else link.send({ type: message });
    // The destination closes the connection when it has heard this: that is no loss.
    if (message === "SETTLED") link.end();
  }

  #switchedOver(): void {
    if (this.#hasSwitchedOver) return;
    this.#hasSwitchedOver = true;
    this.#parts.onEvent({ event: "switchover", elapsedMs: performance.now() - this.#parts.startMs });
  }

  #committed(): void {
    const { link, reconnectForMs, onEvent } = this.#parts;
    if (!this.#hasCommitted) onEvent({ event: "committed" });
    this.#hasCommitted = true;
    link.reconnectForMs = reconnectForMs;
    clearTimeout(this.#answerTimer);
    this.#answerTimer = setTimeout(() => {
      const message = `the destination did not say within ${RUNNING_TIMEOUT_MS / 1000} s that the VM runs`;
      this.linkGivenUp(new GodwitError("MIGRATION_TIMEOUT", message));
    }, RUNNING_TIMEOUT_MS);
  }

  async #giveBack(): Promise<SourceEvent> {
    this.#parts.onDecided(this.#reason);
    const { giveBack, guestRuns } = this.#parts;
    try {
      await giveBack();
      this.#whereabouts = guestRuns() ? "the VM keeps running here" : "the VM stays paused here, as it was";
      return { type: "given-back" };
    } catch (error) {
      this.#whereabouts = `the VM is here, but it is not sure that it runs: ${messageOf(error)}`;
      return { type: "not-given-back", isQemuGone: error instanceof GodwitError && error.code === "QMP_CLOSED" };
    }
  }

  #end(end: SourceEnd): undefined {
    clearTimeout(this.#answerTimer);
    if (end === "in-doubt") this.#whereabouts = "the VM is stopped here, and may run at the destination";
    if (end === "lost") this.#whereabouts = "it took the VM with it, and the destination did not take over";
    this.#parts.onDecided(this.#reason);
    this.#outcome.resolve({ end, reason: this.#reason, whereabouts: this.#whereabouts });
    return undefined;
  }

  /** The first reason is the one that counts. */
  #because(reason: unknown): void {
    this.#reason ??= reason;
  }

  #onNotJournalled(state: SessionState, error: unknown): void {
    if (state === "committed") this.#because(error);
    this.#parts.onEvent({
      event: "warning",
      message: `it could not be noted that the session is ${state}: ${messageOf(error)}`,
    });
  }
}

function wordsFor(reason: unknown): { code: string; message: string } {
  return { code: reason instanceof GodwitError ? reason.code : "MIGRATION_FAILED", message: messageOf(reason) };
}
