import { isSameProcess, type QemuProcess } from "../qemu/process.ts";
import type { JournalRole } from "../store/journal-format.ts";
import type { ListedSession } from "../store/session-store.ts";

/** A journal that can't be read, and may be of the QEMU in question. */
type Unread = Extract<ListedSession, { content: null }> & {
  /** False: it does not tell whose it is. */
  readonly isCertain: boolean;
};

/** The journals of a role that can't be read, left by programs that are gone; without those that are certainly of another QEMU. */
export function unreadOf(sessions: readonly ListedSession[], role: JournalRole, here: QemuProcess | null): Unread[] {
  return sessions.flatMap((session) => {
    if (session.role !== role || session.content !== null || session.pid !== null) return [];
    const qemu = session.subject?.qemu ?? null;
    const isCertain = isSameProcess(qemu, here);
    return isCertain || qemu === null || here === null ? [{ ...session, isCertain }] : [];
  });
}

/**
 * Sees to it that no migration begins beside one that this QEMU may have behind it: who owns the VM is then not known.
 *
 * @param warn is told, in one line, of journals that do not tell whose they are
 * @throws GodwitError STORE_JOURNAL_* when a journal of this very QEMU can't be read
 */
export function assertRead(
  sessions: readonly ListedSession[],
  role: "source" | "destination",
  here: QemuProcess | null,
  warn: (message: string) => void,
): void {
  const unread = unreadOf(sessions, role, here);
  const own = unread.find(({ isCertain }) => isCertain);
  if (own !== undefined) throw own.problem;
  const [first, ...others] = unread;
  if (first === undefined) return;
  const more = others.length === 0 ? "" : `, and ${others.length} more`;
  const what = `what session ${first.session.slice(0, 8)} has noted can't be read${more} (${first.problem.message})`;
  warn(`${what}: should it be of this VM, look first whether that runs elsewhere; see godwit status`);
}
