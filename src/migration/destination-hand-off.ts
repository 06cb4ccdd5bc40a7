import { GodwitError, messageOf } from "../errors.ts";
import type { Journal } from "../store/journal.ts";
import type { MessageOf } from "../wire/messages.ts";
import type { DestinationLink } from "./destination-link.ts";
import type { DestinationVm } from "./destination-vm.ts";
import type { EventListener } from "./events.ts";
import {
  DESTINATION_START,
  type DestinationAction,
  type DestinationEnd,
  type DestinationEvent,
  type DestinationState,
  stepDestination,
} from "./hand-off/destination.ts";
import { noteStep, Runner } from "./hand-off/runner.ts";
import type { SessionState, Step } from "./hand-off/steps.ts";
import { MAX_BACK_OFF_MS, RETRY_TIMEOUT_MS } from "./link.ts";

/**
 * A source that was never told LOADED can't have handed over: it is waited for only as long as one needs that dials, so that it hears
 * that we have given up, and does not go on dialling.
 */
export const FAREWELL_MS = MAX_BACK_OFF_MS + RETRY_TIMEOUT_MS;

export interface DestinationHandOffParts {
  readonly link: DestinationLink;
  /** Absent where nothing is kept on this host. */
  readonly journal: Journal | undefined;
  readonly vm: Pick<DestinationVm, "run" | "giveUp">;
  /** LOADED was said by an earlier process. */
  readonly hasSaidLoaded?: boolean;
  /** Bytes that the destination QEMU has taken. */
  readonly rawBytes: () => number;
  readonly onEvent: EventListener;
  /** It is not to go on as it was: what is under way for it need not be waited for. */
  readonly onDecided: (reason: unknown) => void;
}

/** How the hand-off has ended, and why where it did not end well. */
export interface DestinationOutcome {
  readonly end: DestinationEnd;
  readonly reason: unknown;
  /** In words, where the VM is. */
  readonly whereabouts: string;
}

type Told = DestinationEvent & { readonly generation?: number };

/** Runs the destination's machine of the hand-off: tells it what happens, and does what it says. */
export class DestinationHandOff {
  readonly ended: Promise<DestinationOutcome>;
  readonly #parts: DestinationHandOffParts;
  readonly #runner: Runner<DestinationState, Told, DestinationAction>;
  readonly #outcome = Promise.withResolvers<DestinationOutcome>();
  /** Of the connection that the machine knows of: what it wants to say is not for a later one. */
  #generation: number;
  #reason: unknown;
  #whereabouts = "";
  #loadMs: number | null = null;
  #resumeMs: number | null = null;
  #hasSaidLoaded: boolean;

  constructor(
    parts: DestinationHandOffParts,
    begin: Step<DestinationState, DestinationAction> = { state: DESTINATION_START, actions: [] },
  ) {
    this.#parts = parts;
    this.#hasSaidLoaded = parts.hasSaidLoaded ?? false;
    this.#generation = parts.link.generation;
    this.ended = this.#outcome.promise;
    this.#runner = new Runner<DestinationState, Told, DestinationAction>(
      begin,
      (state, event) => {
        if (event.type === "link-up") this.#generation = event.generation!;
        return stepDestination(state, event);
      },
      (action) => this.#perform(action),
    );
  }

  /** Whether the VM is ours, and may run. */
  get isCommitted(): boolean {
    return ["committed", "running"].includes(this.#runner.state.phase);
  }
  /** How far it is, for WELCOME. */
  get sessionState(): Extract<SessionState, "streaming" | "loaded" | "committed" | "running" | "aborted"> {
    const { phase } = this.#runner.state;
    return phase === "giving-up" || phase === "ended" ? "streaming" : phase;
  }
  get loadMs(): number | null {
    return this.#loadMs;
  }
  get resumeMs(): number | null {
    return this.#resumeMs;
  }

  /** WELCOME was said on a later connection. */
  linkUp(generation: number): void {
    this.#runner.tell({ type: "link-up", generation });
  }

  linkDown(): void {
    this.#runner.tell({ type: "link-down" });
  }

  linkGivenUp(reason: unknown): void {
    if (!this.isCommitted) this.#because(reason);
    this.#runner.tell({ type: "link-given-up" });
  }

  heard(message: MessageOf<"SWITCHOVER" | "COMMIT" | "ABORT" | "SETTLED">): void {
    if (message.type === "ABORT")
      this.#because(new GodwitError("PEER_ABORTED", `the source gave up: ${message.message}`, { code: message.code }));
    if (message.type === "COMMIT") this.#runner.tell({ type: "heard", message: "COMMIT", run: message.run });
    else this.#runner.tell({ type: "heard", message: message.type });
  }

  /** Our QEMU has loaded the VM, `loadMs` after its last byte. */
  loaded(loadMs: number): void {
    this.#loadMs = loadMs;
    this.#runner.tell({ type: "qemu-loaded" });
  }

  qemuGone(reason: unknown): void {
    this.#because(reason);
    this.#runner.tell({ type: "qemu-gone" });
  }

  failed(reason: unknown): void {
    this.#because(reason);
    this.#runner.tell({ type: "failed" });
  }

  cancelled(reason: unknown): void {
    this.#because(reason);
    this.#runner.tell({ type: "cancelled" });
  }

  async #perform(action: DestinationAction): Promise<DestinationEvent | undefined> {
    switch (action.do) {
      case "journal":
        if (action.state === "aborted") this.#onAborted();
        return noteStep(this.#parts.journal, action, (error) => this.#onNotJournalled(action.state, error));
      case "send":
        this.#say(action.message);
        return undefined;
      case "run":
        return this.#run(action.run);
      case "end-qemu":
        return this.#endQemu();
      case "end":
        return this.#end(action.end);
    }
  }

  #say(message: "LOADED" | "RUNNING" | "ABORT"): void {
    const { link, rawBytes, onEvent } = this.#parts;
    if (message === "LOADED" && !this.#hasSaidLoaded) {
      this.#hasSaidLoaded = true;
      onEvent({ event: "loaded", loadMs: this.#loadMs ?? 0 });
    }
    if (link.generation !== this.#generation) return;
    if (message === "LOADED") link.send({ type: message, loadMs: this.#loadMs ?? 0, rawBytes: rawBytes() });
    else if (message === "RUNNING") link.send({ type: message, resumeMs: this.#resumeMs ?? 0 });
    else link.send({ type: message, ...wordsFor(this.#reason) });
  }

  async #run(run: boolean): Promise<DestinationEvent> {
    const { vm, onEvent, link } = this.#parts;
    onEvent({ event: "committed" });
    try {
      this.#resumeMs = run ? await vm.run() : 0;
    } catch (error) {
      this.#because(error);
      const hasNot = error instanceof GodwitError && error.code === "MIGRATION_DESTINATION_NOT_RUNNING";
      if (!hasNot) this.#whereabouts = "the VM is ours, and may have run here; the source keeps it stopped";
      return { type: hasNot ? "not-run" : "maybe-run" };
    }
    link.hurry(false);
    onEvent({ event: "running", resumeMs: this.#resumeMs, isPaused: !run });
    return { type: "ran" };
  }

  async #endQemu(): Promise<DestinationEvent> {
    this.#parts.onDecided(this.#reason);
    try {
      await this.#parts.vm.giveUp();
      this.#whereabouts = `the VM does not run here: the destination QEMU was ended; ${sourceOf(this.#reason)}`;
      return { type: "qemu-ended" };
    } catch (error) {
      this.#whereabouts = `the destination QEMU holds a copy of the VM and does not end: ${messageOf(error)}`;
      return { type: "qemu-stays" };
    }
  }

  #onAborted(): void {
    this.#whereabouts ||= "the VM does not run here; the source keeps it";
    const { link, onDecided } = this.#parts;
    onDecided(this.#reason);
    // It was because nobody came back: nobody is waited for to be told.
    if (link.isOver) this.#runner.tell({ type: "link-given-up" });
    else if (!this.#hasSaidLoaded) link.waitAtMost(FAREWELL_MS);
  }

  #end(end: DestinationEnd): undefined {
    if (end === "in-doubt")
      this.#whereabouts ||= "a copy of the VM is held here, and the source may have handed it over: see godwit resolve";
    this.#parts.onDecided(this.#reason);
    this.#outcome.resolve({ end, reason: this.#reason, whereabouts: this.#whereabouts });
    return undefined;
  }

  /** The first reason is the one that counts. */
  #because(reason: unknown): void {
    this.#reason ??= reason;
  }

  #onNotJournalled(state: SessionState, error: unknown): void {
    if (state === "loaded" || state === "committed") this.#because(error);
    const message = `it could not be noted that the session is ${state}: ${messageOf(error)}`;
    this.#parts.onEvent({ event: "warning", message });
  }
}

function wordsFor(reason: unknown): { code: string; message: string } {
  return { code: reason instanceof GodwitError ? reason.code : "MIGRATION_FAILED", message: messageOf(reason) };
}

/** What the source has of the VM, by why it was given up. */
function sourceOf(reason: unknown): string {
  const isGone = reason instanceof GodwitError && reason.details.code === "MIGRATION_SOURCE_GONE";
  return isGone ? "it does not run at the source either" : "the source keeps it";
}
