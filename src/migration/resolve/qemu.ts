import { GodwitError, messageOf } from "../../errors.ts";
import { isLive, migrationProgress, waitForMigrationStatus } from "../../qemu/migrate.ts";
import { hasEnded, isSameProcess, readProcess } from "../../qemu/process.ts";
import { QmpClient } from "../../qemu/qmp.ts";
import type { JournalHeader } from "../../store/journal-format.ts";
import type { Found } from "./advice.ts";

/** States from which a migration does not go on. */
const ENDED = ["none", "completed", "failed", "cancelled"] as const;
const CANCEL_TIMEOUT_MS = 30_000;

/** This end's QEMU, as it was found. */
export interface FoundQemu extends Disposable {
  readonly found: Found;
  /** Whether it is certainly that of the session: where processes can't be told apart, a VM of the same name and UUID is taken for it. */
  readonly isCertain: boolean;
  /** Why it is unknown; null if it is not. */
  readonly problem: string | null;
  /** Its monitor; undefined where it is gone or unknown. */
  readonly qmp: QmpClient | undefined;
}

/** Looks for the QEMU of a journal. @param qmpPath where its monitor is now, if it is not where the journal says. Never throws */
export async function findQemu(header: JournalHeader, qmpPath = header.qmpPath): Promise<FoundQemu> {
  let qmp: QmpClient | undefined;
  try {
    qmp = await QmpClient.connect(qmpPath);
    const now = await readProcess(qmp);
    const isCertain = isSameProcess(header.qemu, now);
    const isAlike = (header.qemu === null || now === null) && (await isSameVm(qmp, header));
    if (isCertain || isAlike) return foundAs(await stateOf(qmp, header.role), null, qmp, isCertain);
    qmp.close();
    return await withoutMonitor(header, `another QEMU than the session's answers at ${qmpPath}`);
  } catch (error) {
    qmp?.close();
    return await withoutMonitor(header, messageOf(error));
  }
}

/** A process that has ended is gone for sure; all else leaves room for doubt. */
async function withoutMonitor({ qemu }: JournalHeader, problem: string): Promise<FoundQemu> {
  const isGone = qemu !== null && (await hasEnded(qemu).catch(() => false));
  return isGone ? foundAs("gone", null) : foundAs("unknown", problem);
}

function foundAs(found: Found, problem: string | null, qmp?: QmpClient, isCertain = true): FoundQemu {
  return { found, isCertain, problem, qmp, [Symbol.dispose]: () => qmp?.close() };
}

async function isSameVm(qmp: QmpClient, { vm }: JournalHeader): Promise<boolean> {
  const [{ name = null }, { UUID }] = await Promise.all([qmp.execute("query-name"), qmp.execute("query-uuid")]);
  return name === vm.name && UUID === vm.uuid;
}

async function stateOf(qmp: QmpClient, role: JournalHeader["role"]): Promise<Found> {
  const { status } = await qmp.execute("query-status");
  if (isLive(status)) return "running";
  if (role !== "destination") return "stopped";
  if (status === "inmigrate") return "unloaded";
  return (await migrationProgress(qmp)).status === "completed" ? "held" : "unloaded";
}

/** @throws GodwitError MIGRATION_NOT_RESUMED when the guest does not run after it */
export async function letRun(qmp: QmpClient): Promise<void> {
  try {
    await qmp.execute("cont");
    const { status } = await qmp.execute("query-status");
    if (!isLive(status)) throw new Error(`it is in the state ${status}`);
  } catch (cause) {
    const message = `QEMU does not let the guest go on: ${messageOf(cause)}`;
    throw new GodwitError("MIGRATION_NOT_RESUMED", message, {}, { cause });
  }
}

/**
 * Ends a migration that may still run, and lets the guest go on if it ran.
 *
 * @throws GodwitError MIGRATION_NOT_RESUMED, and what `execute` throws
 */
export async function giveBack(qmp: QmpClient, guestRuns: boolean): Promise<void> {
  const { status } = await migrationProgress(qmp);
  if (!ENDED.some((ended) => ended === status)) {
    await qmp.execute("migrate_cancel");
    await waitForMigrationStatus(qmp, ENDED, { timeoutMs: CANCEL_TIMEOUT_MS });
  }
  const { status: runState } = await qmp.execute("query-status");
  if (guestRuns && !isLive(runState)) await letRun(qmp);
}
