/** The journals of a host: docs/journal-format.md. */
import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { GodwitError } from "../errors.ts";
import { holderOf } from "./folder-lock.ts";
import { type FoundJournal, Journal, readJournal } from "./journal.ts";
import { JOURNAL_FORMAT, JOURNAL_VERSION, type JournalHeader, type JournalRole } from "./journal-format.ts";
import { openStateFolder } from "./state-dir.ts";

const KEPT_MS = 30 * 24 * 3600 * 1000;
const KEPT_JOURNALS = 256;
const FOLDER_NAME = /^([0-9a-f]{32})\.(source|destination|settings)$/;

/** A session as one end has it. */
export type ListedSession = FoundJournal & {
  readonly session: string;
  readonly role: JournalRole;
  /** The process that is at it. */
  readonly pid: number | null;
};

/** The sessions of a state folder. */
export class SessionStore {
  readonly path: string;

  private constructor(path: string) {
    this.path = path;
  }

  /** @throws GodwitError STORE_STATE_DIR */
  static async open(stateDir: string): Promise<SessionStore> {
    return new SessionStore(await openStateFolder(stateDir, "sessions"));
  }

  /** Makes the journal of a new session. @throws GodwitError STORE_FULL, STORE_NOT_WRITABLE */
  async create(header: Omit<JournalHeader, "format" | "version" | "atMs">): Promise<Journal> {
    await this.#prune();
    const whole = { format: JOURNAL_FORMAT, version: JOURNAL_VERSION, atMs: Date.now(), ...header } as const;
    return Journal.create(this.#folderOf(header.session, header.role), whole);
  }

  /** Takes the journal of a session that no process is at. @throws GodwitError STORE_BUSY, STORE_JOURNAL_*, STORE_NOT_WRITABLE */
  take(session: string, role: JournalRole): Promise<Journal> {
    return Journal.take(this.#folderOf(session, role));
  }

  /** All sessions, those that changed last first. */
  async list(): Promise<ListedSession[]> {
    const sessions: ListedSession[] = [];
    for (const name of await readdir(this.path)) {
      const [, session, role] = FOLDER_NAME.exec(name) ?? [];
      const found = session === undefined ? null : await this.#look(session, role as JournalRole);
      if (found !== null) sessions.push(found);
    }
    return sessions.sort((a, b) => (b.content?.sinceMs ?? Infinity) - (a.content?.sinceMs ?? Infinity));
  }

  /**
   * The session whose id begins so; both ends' when both are of this host.
   *
   * @throws GodwitError STORE_SESSION_NONE, STORE_SESSION_AMBIGUOUS
   */
  async find(prefix: string): Promise<ListedSession[]> {
    const found = (await this.list()).filter(({ session }) => session.startsWith(prefix.toLowerCase()));
    if (found.length === 0 || prefix === "") {
      throw new GodwitError("STORE_SESSION_NONE", `there is no session ${prefix} in ${this.path}`, { prefix });
    }
    if (found.some(({ session }) => session !== found[0]!.session)) {
      throw new GodwitError("STORE_SESSION_AMBIGUOUS", `several sessions begin with ${prefix}`, { prefix });
    }
    return found;
  }

  async #look(session: string, role: JournalRole): Promise<ListedSession | null> {
    const folder = this.#folderOf(session, role);
    const pid = await holderOf(folder).catch(() => null);
    const journal = await readJournal(folder);
    return journal && { session, role, pid, ...journal };
  }

  #folderOf(session: string, role: JournalRole): string {
    return join(this.path, `${session}.${role}`);
  }

  /** What can't be removed stays, which harms nobody. */
  async #prune(): Promise<void> {
    const settled = (await this.list()).filter(({ content, pid }) => content?.isSettled && pid === null);
    const oldest = Date.now() - KEPT_MS;
    for (const [index, { session, role, content }] of settled.entries()) {
      if (index < KEPT_JOURNALS && content!.sinceMs > oldest) continue;
      await rm(this.#folderOf(session, role), { recursive: true, force: true }).catch(() => {});
    }
  }
}
