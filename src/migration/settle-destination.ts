/** Sessions that an earlier `receive` has left in the journal: docs/hand-off.md, "When a program is started again". */

import { resolve } from "node:path";
import { GodwitError } from "../errors.ts";
import { type QemuProcess, readProcess } from "../qemu/process.ts";
import { QmpClient } from "../qemu/qmp.ts";
import type { Journal } from "../store/journal.ts";
import type { JournalContent } from "../store/journal-format.ts";
import { SessionStore } from "../store/session-store.ts";
import type { Hello } from "../wire/messages.ts";
import { DestinationVm } from "./destination-vm.ts";
import type { EventListener } from "./events.ts";
import { type FoundDestination, restartDestination } from "./hand-off/destination.ts";
import { LeftSession } from "./left-session.ts";
import type { Peer } from "./peer.ts";
import { type FoundQemu, findQemu } from "./resolve/qemu.ts";
import { assertRead } from "./unreadable-journals.ts";

export interface LeftOptions {
  readonly qmpPath: string;
  /** What this host keeps; undefined: nothing, so nothing was left. */
  readonly stateDir?: string | undefined;
  /** For how long a source is waited for. */
  readonly reconnectForMs: number;
  readonly onEvent: EventListener;
}

/** What earlier processes have left to be settled or answered for. */
export class LeftSessions {
  readonly #options: LeftOptions;
  readonly #store: SessionStore | undefined;
  readonly #answered = new Map<string, LeftSession>();
  #current: LeftSession | undefined;

  private constructor(options: LeftOptions, store: SessionStore | undefined) {
    this.#options = options;
    this.#store = store;
  }

  /**
   * Looks for open sessions of the QEMU at `qmpPath`, and goes on with them as the machine of the hand-off says.
   *
   * @throws GodwitError STORE_STATE_DIR, STORE_BUSY, STORE_JOURNAL_*, STORE_NOT_WRITABLE
   */
  static async open(options: LeftOptions): Promise<LeftSessions> {
    const store = options.stateDir === undefined ? undefined : await SessionStore.open(options.stateDir);
    const left = new LeftSessions(options, store);
    const sessions = (await store?.list()) ?? [];
    if (sessions.some(({ problem }) => problem !== null)) {
      assertRead(sessions, "destination", await processAt(options.qmpPath), (message) => left.#warn(message));
    }
    for (const { session, role, content, pid } of sessions) {
      const isOpen = role === "destination" && content !== null && !content.isSettled && pid === null;
      if (isOpen && resolve(content.header.qmpPath) === resolve(options.qmpPath)) await left.#goOn(session);
    }
    return left;
  }

  /** The session that decides about our QEMU: until it has ended, no other VM can be taken. */
  get current(): LeftSession | undefined {
    return this.#current;
  }

  /** Takes a connection that is of a session that was left, or is over and known from the journal; else returns false. */
  async offer(peer: Peer, hello: Hello): Promise<boolean> {
    const known = this.#answered.get(hello.session) ?? (await this.#recall(hello));
    await known?.attach(peer, hello);
    return known !== undefined;
  }

  /** Waits for no source any more; what is noted stays. */
  async end(reason: unknown): Promise<void> {
    const sessions = [...this.#answered.values()];
    for (const session of sessions) session.cancel(reason);
    await Promise.all(sessions.map(({ ended }) => ended));
  }

  async #goOn(id: string): Promise<void> {
    const journal = await this.#store!.take(id, "destination");
    const { content } = journal;
    const qemu = await findQemu(content.header, this.#options.qmpPath);
    // What was loaded once can't be unloaded: then it is another QEMU, of a VM with the same name.
    const isAnother = qemu.found === "unloaded" && content.state !== "streaming";
    if (content.state === null || qemu.found === "unknown" || isAnother) {
      // Where nothing was noted, nothing was done.
      if (content.state === null) await journal.note({ state: "aborted", settled: true });
      else
        this.#warn(
          `session ${id} is open, and ${qemu.problem ?? "its QEMU was not found"}: see godwit resolve ${id.slice(0, 8)}`,
        );
      qemu[Symbol.dispose]();
      return journal.close();
    }
    const session = this.#restart(journal, content, qemu);
    if (session === undefined) return journal.close();
    // With its QEMU gone a session is only to be told of, beside whatever comes to a QEMU that has taken the place.
    if (qemu.found !== "gone" || !(await isAnswering(this.#options.qmpPath))) this.#current = session;
  }

  #restart(journal: Journal, content: JournalContent, { found, qmp }: FoundQemu): LeftSession | undefined {
    const { session } = content.header;
    const begin = restartDestination(content.state!, found as FoundDestination, content.run);
    if (begin === undefined) {
      const what = "its VM was handed over, and whether it ran in the QEMU that has ended is not known";
      this.#warn(`session ${session} is in doubt: ${what}; see godwit resolve ${session.slice(0, 8)}`);
      return undefined;
    }
    return this.#remember(journal, begin, qmp);
  }

  /** A session that is over: whoever asks is told what came of it. */
  async #recall({ session }: Hello): Promise<LeftSession | undefined> {
    const journal = await this.#store?.take(session, "destination").catch(() => undefined);
    if (journal === undefined) return undefined;
    const { state, run } = journal.content;
    const begin = state === "running" || state === "aborted" ? restartDestination(state, "gone", run) : undefined;
    if (begin !== undefined) return this.#remember(journal, begin, undefined);
    await journal.close();
    return undefined;
  }

  #remember(
    journal: Journal,
    begin: NonNullable<ReturnType<typeof restartDestination>>,
    qmp: QmpClient | undefined,
  ): LeftSession {
    const { reconnectForMs, onEvent } = this.#options;
    const vm = qmp === undefined ? GONE : DestinationVm.left(qmp);
    const session = new LeftSession({ journal, vm, qmp, reconnectForMs, onEvent }, begin);
    const id = journal.content.header.session;
    this.#answered.set(id, session);
    void session.ended.finally(() => this.#answered.delete(id));
    return session;
  }

  #warn(message: string): void {
    this.#options.onEvent({ event: "warning", message });
  }
}

/** The QEMU that answers at a monitor; null where none does, or it can't be told. */
async function processAt(qmpPath: string): Promise<QemuProcess | null> {
  try {
    using qmp = await QmpClient.connect(qmpPath);
    return await readProcess(qmp);
  } catch {
    return null;
  }
}

async function isAnswering(qmpPath: string): Promise<boolean> {
  return QmpClient.connect(qmpPath).then(
    (qmp) => {
      qmp.close();
      return true;
    },
    () => false,
  );
}

const GONE: Pick<DestinationVm, "run" | "giveUp"> = {
  run: async () => {
    throw new GodwitError("MIGRATION_DESTINATION_NOT_RUNNING", "the destination QEMU is gone");
  },
  giveUp: async () => {},
};
