/** Settings of a QEMU that are changed for a while: noted in a journal before, so that a program that is killed leaves no trace for long. */

import { randomBytes } from "node:crypto";
import { GodwitError, messageOf } from "../errors.ts";
import type { VmFacts } from "../qemu/facts.ts";
import { setCapabilities, waitForMigrationStatus } from "../qemu/migrate.ts";
import { isSameProcess, readProcess } from "../qemu/process.ts";
import type { QmpClient } from "../qemu/qmp.ts";
import type { Journal } from "../store/journal.ts";
import type { QemuSettings } from "../store/journal-format.ts";
import type { SessionStore } from "../store/session-store.ts";
import { PROGRAM } from "./greeting.ts";
import { unreadOf } from "./unreadable-journals.ts";

/** A migration whose program was killed fails as soon as QEMU sees that its socket is closed. */
const FAIL_TIMEOUT_MS = 5000;

export interface SettingsNotes extends AsyncDisposable {
  /** Notes settings before they are changed, or null once they are back. @throws GodwitError STORE_FULL, STORE_NOT_WRITABLE */
  readonly note: (settings: QemuSettings | null) => Promise<void>;
}

/**
 * A journal of what a program that moves no VM changes in a QEMU. It is gone when that is put back.
 *
 * @throws GodwitError STORE_FULL, STORE_NOT_WRITABLE; what `execute` throws
 */
export async function noteSettingsOf(
  qmp: QmpClient,
  { name, uuid }: VmFacts,
  sessions: SessionStore,
): Promise<SettingsNotes> {
  const journal = await sessions.create({
    session: randomBytes(16).toString("hex"),
    role: "settings",
    program: PROGRAM,
    peer: null,
    vm: { name, uuid },
    qmpPath: qmp.path,
    qemu: await readProcess(qmp),
    guestRuns: true,
    secret: null,
  });
  return {
    note: (settings) => journal.noteSettings(settings),
    [Symbol.asyncDispose]: () => (journal.content.settings === null ? journal.discard() : journal.close()),
  };
}

/**
 * Puts back the settings of this QEMU that programs which are gone have left changed: those that move no VM, and sessions that are
 * settled. Sessions that are open are left to whoever settles them.
 *
 * @param warn is told, in one line, of each that could not be put back, or not be read; that harms no VM
 * @throws what `execute` throws when QEMU is gone
 */
export async function putBackLeftSettings(
  qmp: QmpClient,
  sessions: SessionStore,
  warn: (message: string) => void,
): Promise<void> {
  const here = await readProcess(qmp);
  const listed = await sessions.list();
  for (const { session, problem } of unreadOf(listed, "settings", here)) {
    const what = `what an earlier godwit has changed of QEMU's migration settings can't be read (${problem.message})`;
    warn(
      `${what}: should it be this QEMU, they are not as they were before; see godwit status, session ${session.slice(0, 8)}`,
    );
  }
  for (const { session, role, content, pid } of listed) {
    if (content === null || content.settings === null || pid !== null) continue;
    if (role !== "settings" && !content.isSettled) continue;
    if (!isSameProcess(content.header.qemu, here)) continue;
    try {
      const journal = await sessions.take(session, role);
      try {
        await putBack(qmp, journal);
      } finally {
        await (role === "settings" && journal.content.settings === null ? journal.discard() : journal.close());
      }
    } catch (error) {
      if (error instanceof GodwitError && error.code === "QMP_CLOSED") throw error;
      warn(`QEMU's migration settings are not as they were before an earlier godwit: ${messageOf(error)}`);
    }
  }
}

/**
 * Sets QEMU to what a journal says that it was set to, and notes that.
 *
 * @throws GodwitError QMP_TIMEOUT while a migration is under way; QMP_COMMAND_FAILED, STORE_FULL, STORE_NOT_WRITABLE
 */
export async function putBack(qmp: QmpClient, journal: Journal): Promise<void> {
  const { settings } = journal.content;
  if (settings === null) return;
  await waitForMigrationStatus(qmp, ["none", "completed", "failed", "cancelled"], { timeoutMs: FAIL_TIMEOUT_MS });
  if (Object.keys(settings.parameters).length > 0) await qmp.execute("migrate-set-parameters", settings.parameters);
  await setCapabilities(qmp, settings.capabilities);
  await journal.noteSettings(null);
}
