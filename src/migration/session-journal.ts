import type { VmFacts } from "../qemu/facts.ts";
import { readProcess } from "../qemu/process.ts";
import type { QmpClient } from "../qemu/qmp.ts";
import type { Journal } from "../store/journal.ts";
import type { JournalHeader } from "../store/journal-format.ts";
import { SessionStore } from "../store/session-store.ts";
import { PROGRAM } from "./greeting.ts";

/** What a journal says of its session. */
export interface SessionNotes extends Pick<JournalHeader, "session" | "role" | "peer" | "guestRuns" | "secret"> {
  readonly vm: VmFacts;
  readonly qmp: QmpClient;
}

/**
 * Begins the journal of an end of a session, in the state `streaming`: to be done before its QEMU is touched.
 *
 * @param stateDir undefined: nothing is kept on this host, and a program that is started again knows nothing
 * @throws GodwitError STORE_STATE_DIR, STORE_FULL, STORE_NOT_WRITABLE
 */
export async function beginJournal(stateDir: string | undefined, notes: SessionNotes): Promise<Journal | undefined> {
  if (stateDir === undefined) return undefined;
  const { vm, qmp, ...header } = notes;
  const sessions = await SessionStore.open(stateDir);
  const { name, uuid } = vm;
  const process = await readProcess(qmp);
  const whole = { ...header, program: PROGRAM, vm: { name, uuid }, qmpPath: qmp.path, qemu: process };
  const journal = await sessions.create(whole);
  await journal.note({ state: "streaming" });
  return journal;
}
