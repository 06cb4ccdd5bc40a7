import { PAGE_FORMAT } from "../compact/limits.ts";
import { GodwitError, messageOf } from "../errors.ts";
import { readFacts, type VmFacts } from "../qemu/facts.ts";
import { isLive, isStoppedOtherwise } from "../qemu/migrate.ts";
import { isSameProcess, readProcess } from "../qemu/process.ts";
import type { QmpClient } from "../qemu/qmp.ts";
import type { Journal } from "../store/journal.ts";
import { SessionStore } from "../store/session-store.ts";
import { type Address, formatAddress, parseAddress } from "../wire/address.ts";
import type { Message } from "../wire/messages.ts";
import { connect, type Security } from "../wire/transport.ts";
import { Downtime } from "./downtime.ts";
import type { EventListener } from "./events.ts";
import { PROGRAM } from "./greeting.ts";
import { restartSource, type SourceState } from "./hand-off/source.ts";
import { putBack } from "./left-settings.ts";
import { giveBack } from "./resolve/qemu.ts";
import { SourceHandOff, type SourceOutcome } from "./source-hand-off.ts";
import { SourceLink } from "./source-link.ts";
import { assertRead } from "./unreadable-journals.ts";

/** To tell a destination that the VM has stayed here: it would find out by itself, but later. */
const TELL_MS = 5_000;
/** The destination knows of the first connection at least. */
const FIRST_GENERATION = 2;

export interface SettleOptions {
  readonly stateDir: string;
  readonly security: Security;
  /** Where the destination listens now; default: where it was. */
  readonly to?: Address | undefined;
  /** For how long it is tried to reach the destination of a VM that was handed over. */
  readonly reconnectForMs: number;
  /** A person wants the VM back: the destination is asked to give up, if it does not run the VM. */
  readonly wantsBack?: boolean;
  /** Aborted by a person who does not want to wait for the destination: it stays in doubt. */
  readonly signal?: AbortSignal | undefined;
  readonly onEvent: EventListener;
}

/**
 * Settles the migration of this very QEMU that a `send` which is gone has left open: gives the guest back where the VM was not handed over;
 * else asks the destination.
 *
 * @returns how it ended; null where none is open
 * @throws GodwitError STORE_BUSY when a `send` is at it; MIGRATION_UNSETTLED when only a person can know; STORE_JOURNAL_*; what `execute` throws
 */
export async function settleLeft(qmp: QmpClient, options: SettleOptions): Promise<SourceOutcome | null> {
  const store = await SessionStore.open(options.stateDir);
  const here = await readProcess(qmp);
  const sessions = await store.list();
  assertRead(sessions, "source", here, (message) => options.onEvent({ event: "warning", message }));
  const left = sessions.find(
    ({ role, content }) =>
      role === "source" && content !== null && !content.isSettled && isSameProcess(content.header.qemu, here),
  );
  if (left === undefined) return null;
  const journal = await store.take(left.session, "source");
  try {
    return await new LeftSession(qmp, journal, await readFacts(qmp), options).settle();
  } finally {
    await journal.close();
  }
}

/** A session whose `send` is gone, with its stream. */
class LeftSession {
  readonly #qmp: QmpClient;
  readonly #journal: Journal;
  readonly #facts: VmFacts;
  readonly #options: SettleOptions;
  readonly #link: SourceLink;
  readonly #reached = Promise.withResolvers<void>();
  #handOff: SourceHandOff | undefined;

  constructor(qmp: QmpClient, journal: Journal, facts: VmFacts, options: SettleOptions) {
    this.#qmp = qmp;
    this.#journal = journal;
    this.#facts = facts;
    this.#options = options;
    const { header } = journal.content;
    const to = options.to ?? parseAddress(header.peer!);
    this.#link = new SourceLink({
      session: header.session,
      firstGeneration: FIRST_GENERATION,
      address: formatAddress(to),
      connect: (limits) => connect({ ...to, security: options.security, ...limits }),
      hello: () => this.#hello(),
      handler: { onMessage: (message) => this.#onMessage(message) },
      reconnectForMs: options.reconnectForMs,
      onAttempt: (attempt) => options.onEvent({ event: "reconnecting", attempt }),
      onDown: () => this.#handOff?.linkDown(),
      onUp: ({ state = "streaming" }, { generation }) => {
        this.#handOff?.linkUp(state, generation);
        this.#reached.resolve();
      },
      onGaveUp: (error) => {
        this.#handOff?.linkGivenUp(error);
        this.#reached.reject(error);
      },
    });
    this.#reached.promise.catch(() => {});
  }

  async settle(): Promise<SourceOutcome> {
    const { state, header, run } = this.#journal.content;
    const { status } = await this.#qmp.execute("query-status");
    const guestRuns = run && !isStoppedOtherwise(status);
    const begin = restartSource(state ?? "streaming", isLive(status) ? "running" : "stopped", this.#options.wantsBack);
    if (begin === undefined) {
      const message = `the VM runs here, though an earlier migration has handed it over: see godwit resolve ${header.session.slice(0, 8)}`;
      throw new GodwitError("MIGRATION_UNSETTLED", message, { session: header.session });
    }
    const handOff = new SourceHandOff(
      {
        link: this.#link,
        journal: this.#journal,
        guestRuns: () => guestRuns,
        giveBack: () => giveBack(this.#qmp, guestRuns),
        downtime: new Downtime(),
        lastReadMs: () => performance.now(),
        reconnectForMs: this.#options.reconnectForMs,
        startMs: performance.now(),
        onEvent: this.#options.onEvent,
        onDecided: () => {},
      },
      begin,
    );
    this.#handOff = handOff;
    const outcome = await this.#ended(handOff, begin.state);
    await putBack(this.#qmp, this.#journal).catch((error) => this.#warn(messageOf(error)));
    return outcome;
  }

  async #ended(handOff: SourceHandOff, { phase }: SourceState): Promise<SourceOutcome> {
    if (phase !== "committed") {
      const outcome = await handOff.ended;
      await this.#tellThatItStays(outcome);
      return outcome;
    }
    const { signal } = this.#options;
    const stop = () => handOff.linkGivenUp(signal?.reason);
    signal?.addEventListener("abort", stop);
    try {
      this.#link.reopen();
      return await handOff.ended;
    } finally {
      signal?.removeEventListener("abort", stop);
      await this.#link.goodbye();
    }
  }

  /** A destination that waits for the rest of the stream, or for COMMIT, need not. That it can't be reached is no failure. */
  async #tellThatItStays({ whereabouts }: SourceOutcome): Promise<void> {
    try {
      this.#link.reconnectForMs = TELL_MS;
      this.#link.reopen();
      await this.#reached.promise;
      this.#link.send({
        type: "ABORT",
        code: "MIGRATION_SENDER_GONE",
        message: `its godwit send was killed; ${whereabouts}`,
      });
      this.#link.send({ type: "SETTLED" });
      await this.#link.goodbye();
    } catch {
      this.#link.destroy();
    }
  }

  #hello() {
    const nothing = { disks: [], checkpointPages: 0, cachePages: 0, returnOffset: 0, knownHashes: 0, features: [] };
    const { secret } = this.#journal.content.header;
    const own = { program: PROGRAM, pageFormat: PAGE_FORMAT, vm: this.#facts, tagKey: secret! };
    return { ...nothing, ...own, purpose: "settle" as const };
  }

  #onMessage(message: Message): void {
    if (message.type === "LOADED" || message.type === "RUNNING" || message.type === "ABORT")
      this.#handOff?.heard(message);
  }

  #warn(message: string): void {
    this.#options.onEvent({ event: "warning", message: `QEMU's migration settings are not as they were: ${message}` });
  }
}
