/** QEMU's migration commands, with the ways of QEMU that their schema does not tell. */

import { setTimeout as delay } from "node:timers/promises";
import { GodwitError } from "../errors.ts";
import type { MigrationInfo, MigrationStatus, RunState } from "./commands.ts";
import type { QmpClient, WaitOptions } from "./qmp.ts";
import { seconds } from "./qmp-errors.ts";

export type { MigrationStatus, RunState } from "./commands.ts";

/** Only for a QEMU whose `events` capability is off; with it on, events are faster. */
const STATUS_POLL_MS = 250;
const BITS_PER_MEGABIT = 1_000_000;

const IDLE_STATUSES: ReadonlySet<MigrationStatus> = new Set(["none", "completed", "failed", "cancelled"]);

/** QEMU's view of a migration. Counters are 0 and times null where QEMU does not tell them yet. */
export interface MigrationProgress {
  readonly status: MigrationStatus;
  readonly ramRemainingBytes: number;
  readonly ramTransferredBytes: number;
  readonly ramTotalBytes: number;
  readonly dirtySyncCount: number;
  readonly dirtyPagesRatePagesPerSecond: number;
  readonly pageSizeBytes: number;
  readonly normalPages: number;
  readonly zeroPages: number;
  /** Sent so far in whatever form, a page that was sent twice counting twice. */
  readonly sentPages: number;
  /** By which the guest's CPUs are throttled; 0 if they are not. */
  readonly throttlePercent: number;
  /** QEMU's own measure of what it writes into its migration socket. */
  readonly bytesPerSecond: number;
  readonly expectedDowntimeMs: number | null;
  readonly downtimeMs: number | null;
  readonly totalTimeMs: number | null;
  readonly setupTimeMs: number | null;
  readonly errorDesc: string | null;
}

/**
 * Asks how the migration stands. QEMU sets the status `completed` a moment before it counts `totalTimeMs` and
 * `downtimeMs`: a total of 0 then is not yet known (migration_completion and after it migration_calculate_complete,
 * migration/migration.c).
 */
export async function migrationProgress(qmp: QmpClient): Promise<MigrationProgress> {
  const info = await qmp.execute("query-migrate");
  const ram = info.ram;
  return {
    status: statusOf(info),
    ramRemainingBytes: ram?.remaining ?? 0,
    ramTransferredBytes: ram?.transferred ?? 0,
    ramTotalBytes: ram?.total ?? 0,
    dirtySyncCount: ram?.["dirty-sync-count"] ?? 0,
    dirtyPagesRatePagesPerSecond: ram?.["dirty-pages-rate"] ?? 0,
    pageSizeBytes: ram?.["page-size"] ?? 0,
    normalPages: ram?.normal ?? 0,
    zeroPages: ram?.duplicate ?? 0,
    sentPages:
      (ram?.normal ?? 0) + (ram?.duplicate ?? 0) + (info["xbzrle-cache"]?.pages ?? 0) + (info.compression?.pages ?? 0),
    throttlePercent: info["cpu-throttle-percentage"] ?? 0,
    bytesPerSecond: ((ram?.mbps ?? 0) * BITS_PER_MEGABIT) / 8,
    expectedDowntimeMs: info["expected-downtime"] ?? null,
    downtimeMs: info.downtime ?? null,
    totalTimeMs: info["total-time"] ?? null,
    setupTimeMs: info["setup-time"] ?? null,
    errorDesc: info["error-desc"] ?? null,
  };
}

/** The migration capabilities that this QEMU has, and which are on. */
export async function migrationCapabilities(qmp: QmpClient): Promise<Map<string, boolean>> {
  const entries = await qmp.execute("query-migrate-capabilities");
  return new Map(entries.map(({ capability, state }) => [capability, state]));
}

/**
 * Sets those of the wanted capabilities that this QEMU has and that stand otherwise. Returns what they were before:
 * given to this function again, that undoes the change.
 */
export async function setCapabilities(
  qmp: QmpClient,
  wanted: Readonly<Record<string, boolean>>,
): Promise<Record<string, boolean>> {
  const present = await migrationCapabilities(qmp);
  const changes = Object.entries(wanted).filter(([name, state]) => present.has(name) && present.get(name) !== state);
  if (changes.length > 0) {
    const capabilities = changes.map(([capability, state]) => ({ capability, state }));
    await qmp.execute("migrate-set-capabilities", { capabilities });
  }
  return Object.fromEntries(changes.map(([name, state]) => [name, !state]));
}

/**
 * Waits until the migration has one of `statuses`, and returns which. A migration that ends otherwise is not noticed:
 * list `failed` and `cancelled` too where that matters. The promise may be left alone if the command that should cause
 * the change fails.
 *
 * @throws QMP_TIMEOUT, QMP_CLOSED, or the signal's reason
 */
export function waitForMigrationStatus(
  qmp: QmpClient,
  statuses: readonly MigrationStatus[],
  { timeoutMs, signal }: WaitOptions = {},
): Promise<MigrationStatus> {
  const settled = new AbortController();
  const ended = signal ? AbortSignal.any([signal, settled.signal]) : settled.signal;
  const isWanted = (status: MigrationStatus) => statuses.includes(status);

  const byEvent = async (): Promise<MigrationStatus> => {
    const event = await qmp.waitForEvent("MIGRATION", ({ data }) => isWanted(data.status), { signal: ended });
    return event.data.status;
  };
  const byQuestion = async (): Promise<MigrationStatus> => {
    for (;;) {
      const status = statusOf(await qmp.execute("query-migrate"));
      if (isWanted(status)) return status;
      await delay(STATUS_POLL_MS, undefined, { signal: ended });
    }
  };
  const timeOut = async (limitMs: number): Promise<never> => {
    await delay(limitMs, undefined, { signal: ended });
    const message = `the migration did not become ${statuses.join(" or ")} within ${seconds(limitMs)}`;
    throw new GodwitError("QMP_TIMEOUT", message, { path: qmp.path, statuses, timeoutMs: limitMs });
  };

  // The event is waited for before the first question is asked, so that no change falls between them.
  const racers = [byEvent(), byQuestion()];
  if (timeoutMs !== undefined) racers.push(timeOut(timeoutMs));
  const status = Promise.race(racers).finally(() => settled.abort());
  status.catch(() => {});
  return status;
}

/**
 * Why a VM cannot leave from a run state: migrate_prepare (migration/migration.c) refuses the first two; from the others
 * there is no way to finish-migrate (runstate_transitions_def, system/runstate.c).
 */
const NO_SOURCE: Partial<Record<RunState, string>> = {
  inmigrate: "it waits for an incoming migration itself; is this the QMP socket of the destination",
  postmigrate: "it was migrated already; look for the VM where it went",
  "finish-migrate": "another migration of it is just ending; wait for that",
  "restore-vm": "it is loading a snapshot; wait for that",
  "save-vm": "it is saving a snapshot; wait for that",
  colo: "it is half of a COLO pair; end that first",
};

/**
 * Whether the guest runs, or sleeps (S3) until something wakes it up, which nothing can while it is stopped (runstate_is_live,
 * system/runstate.c). `running` of query-status leaves the second out.
 */
export function isLive(status: RunState): boolean {
  return status === "running" || status === "suspended";
}

/** States of a guest that no migration has stopped, and none lets go on. */
const STOPPED_OTHERWISE: ReadonlySet<RunState> = new Set([
  "paused",
  ...(["shutdown", "guest-panicked", "io-error", "internal-error", "watchdog", "debug"] as const),
  "prelaunch", // one of these after a reset
]);

/**
 * Whether the guest was stopped by something else than a migration: a user has paused it, or it has shut itself down (`-no-shutdown`),
 * panicked, met an error of its disk and the like. At the destination QEMU has it as it stood at the source, and it is not run.
 */
export function isStoppedOtherwise(status: RunState): boolean {
  return STOPPED_OTHERWISE.has(status);
}

/**
 * Returns the run state of a VM that may be migrated now.
 *
 * @throws QMP_WRONG_STATE if its state forbids that, a migration is under way, or a device blocks migration
 */
export async function assertCanBeSource(qmp: QmpClient): Promise<RunState> {
  const [{ status }, info] = await Promise.all([qmp.execute("query-status"), qmp.execute("query-migrate")]);
  const migrationStatus = statusOf(info);
  const blocked = info["blocked-reasons"]?.[0];
  let why = NO_SOURCE[status];
  if (!why && !IDLE_STATUSES.has(migrationStatus)) why = "another migration of it is under way; end that first";
  if (!why && blocked) why = blocked;
  if (why) throw wrongState(`QEMU cannot migrate this VM: ${why}`, qmp, status, migrationStatus);
  return status;
}

/**
 * Checks that a QEMU waits for a migration that nobody has begun.
 *
 * @throws QMP_WRONG_STATE if it does not
 */
export async function assertCanBeDestination(qmp: QmpClient): Promise<void> {
  const [{ status }, info] = await Promise.all([qmp.execute("query-status"), qmp.execute("query-migrate")]);
  const migrationStatus = statusOf(info);
  const fail = (why: string) => wrongState(`QEMU cannot receive a VM: ${why}`, qmp, status, migrationStatus);
  if (status !== "inmigrate") throw fail(`it is ${status}; start it with -incoming defer -S`);
  // In QEMU 7.2 the address is the only sign that it listens; in 10.0 its status is setup as well.
  if (info["socket-address"] || migrationStatus !== "none") {
    throw fail("an incoming migration of it has begun already; start it anew with -incoming defer -S");
  }
}

/**
 * Makes a destination stay paused once it has loaded the VM, also if it was started without `-S`: while QEMU waits for a
 * migration, `stop` clears its autostart flag (qmp_stop, monitor/qmp-cmds.c), which no query shows.
 */
export async function holdAfterLoad(qmp: QmpClient): Promise<void> {
  await qmp.execute("stop");
}

function statusOf(info: MigrationInfo): MigrationStatus {
  return info.status ?? "none";
}

function wrongState(
  message: string,
  qmp: QmpClient,
  runState: RunState,
  migrationStatus: MigrationStatus,
): GodwitError {
  return new GodwitError("QMP_WRONG_STATE", message, { path: qmp.path, runState, migrationStatus });
}
