import { join } from "node:path";
import type { VmFacts } from "../qemu/facts.ts";
import { readProcess } from "../qemu/process.ts";
import type { QmpClient } from "../qemu/qmp.ts";
import { Journal } from "../store/journal.ts";
import { JOURNAL_FORMAT, JOURNAL_VERSION, type JournalHeader } from "../store/journal-format.ts";
import { openStateFolder } from "../store/state-dir.ts";
import { PROGRAM } from "./greeting.ts";

/** What a journal says of its session. */
export interface SessionNotes {
  readonly session: string;
  readonly role: JournalHeader["role"];
  readonly peer: string | null;
  readonly vm: Pick<VmFacts, "name" | "uuid">;
  readonly qmp: QmpClient;
  readonly qmpPath: string;
  readonly guestRuns: boolean;
  /** The session's tag key. */
  readonly secret: string | null;
}

/** The name of a session's folder. */
export function sessionFolderName(session: string, role: JournalHeader["role"]): string {
  return `${session}.${role}`;
}

/**
 * Begins the journal of an end of a session, in the state `streaming`: to be done before its QEMU is touched.
 *
 * @param stateDir undefined: nothing is kept on this host, and a restarted program knows nothing
 * @throws GodwitError STORE_STATE_DIR, STORE_FULL, STORE_NOT_WRITABLE
 */
export async function beginJournal(stateDir: string | undefined, notes: SessionNotes): Promise<Journal | undefined> {
  if (stateDir === undefined) return undefined;
  const { session, role, peer, vm, qmp, qmpPath, guestRuns, secret } = notes;
  const sessions = await openStateFolder(stateDir, "sessions");
  const journal = await Journal.create(join(sessions, sessionFolderName(session, role)), {
    format: JOURNAL_FORMAT,
    version: JOURNAL_VERSION,
    session,
    role,
    atMs: Date.now(),
    program: PROGRAM,
    peer,
    vm: { name: vm.name, uuid: vm.uuid },
    qmpPath,
    qemu: await readProcess(qmp),
    guestRuns,
    secret,
  });
  await journal.note({ state: "streaming" });
  return journal;
}
