import { setTimeout as delay } from "node:timers/promises";
import { GodwitError } from "../errors.ts";
import {
  assertCanBeDestination,
  holdAfterLoad,
  migrationProgress,
  setCapabilities,
  waitForMigrationStatus,
} from "../qemu/migrate.ts";
import { assertPlainStream, PLAIN_STREAM } from "../qemu/plain-stream.ts";
import type { QmpClient } from "../qemu/qmp.ts";
import { isRefusal } from "../qemu/qmp-errors.ts";

/** QEMU ends within milliseconds of `quit`, but writes back what its disks' caches hold first. */
const QUIT_TIMEOUT_MS = 30_000;

/** The destination QEMU during a migration. */
export class DestinationVm {
  readonly #qmp: QmpClient;
  #hasStarted = false;
  #starting: Promise<void> | undefined;
  #isGivenUp = false;
  #undoCapabilities: Record<string, boolean> = {};

  private constructor(qmp: QmpClient) {
    this.#qmp = qmp;
  }

  /**
   * @throws GodwitError QMP_WRONG_STATE when it does not wait for a migration, QMP_CAPABILITY or QMP_PARAMETER when it waits for another
   * kind
   */
  static async open(qmp: QmpClient): Promise<DestinationVm> {
    await assertCanBeDestination(qmp);
    await assertPlainStream(qmp);
    return new DestinationVm(qmp);
  }

  /** One that an earlier process has told to take a migration. */
  static left(qmp: QmpClient): DestinationVm {
    const vm = new DestinationVm(qmp);
    vm.#hasStarted = true;
    return vm;
  }

  /** Whether it was told to take a migration: then it can only go on to run this VM or be ended. */
  get hasStarted(): boolean {
    return this.#hasStarted;
  }

  /**
   * Lets QEMU listen for the stream on a unix socket.
   *
   * `stop` in the state `inmigrate` means: do not run when loaded (QEMU monitor/qmp-cmds.c, qmp_stop). A user who forgot -S is
   * so kept from two running machines. late-block-activate leaves the disks to the source until `cont`.
   *
   * @throws GodwitError QMP_WRONG_STATE when somebody else has made it take a VM, or run one, since it was opened; what `execute` throws
   */
  start(socketPath: string): Promise<void> {
    this.#starting = this.#start(`unix:${socketPath}`);
    return this.#starting;
  }

  async #start(uri: string): Promise<void> {
    await this.assertWaits();
    const wanted = { ...PLAIN_STREAM, events: true, "late-block-activate": true };
    this.#undoCapabilities = await setCapabilities(this.#qmp, wanted);
    await holdAfterLoad(this.#qmp);
    if (this.#isGivenUp) throw new GodwitError("MIGRATION_CANCELLED", "the migration was given up");
    this.#hasStarted = true; // also where the answer is lost
    try {
      await this.#qmp.executeAny("migrate-incoming", { uri, "exit-on-error": false });
    } catch (error) {
      if (!isRefusal(error)) throw error;
      await this.#qmp.execute("migrate-incoming", { uri }).catch((error) => {
        this.#hasStarted = !isRefusal(error);
        throw error;
      });
    }
  }

  /** @throws GodwitError QMP_WRONG_STATE when it does not wait for a migration any more */
  async assertWaits(): Promise<void> {
    await assertCanBeDestination(this.#qmp);
  }

  /**
   * Waits until QEMU has loaded the VM and holds it paused.
   *
   * @throws GodwitError MIGRATION_DESTINATION_FAILED when it refuses the stream
   */
  async loaded(signal: AbortSignal): Promise<void> {
    const status = await waitForMigrationStatus(this.#qmp, ["completed", "failed"], { signal });
    if (status !== "completed") {
      const { errorDesc } = await migrationProgress(this.#qmp);
      const reason = errorDesc ?? "it gave no reason";
      throw new GodwitError("MIGRATION_DESTINATION_FAILED", `the destination QEMU refused the stream: ${reason}`, {
        status,
      });
    }
    // `completed` is set a moment before QEMU leaves the state `inmigrate` (process_incoming_migration_bh).
    for (;;) {
      const { status: runState } = await this.#qmp.execute("query-status");
      if (runState !== "inmigrate") return;
      await delay(1, undefined, { signal });
    }
  }

  /**
   * Lets the guest run here.
   *
   * @returns how long QEMU took, in milliseconds
   * @throws GodwitError MIGRATION_DESTINATION_NOT_RUNNING when QEMU says that it does not: the guest has not run. After any
   * other error it may have run.
   */
  async run(): Promise<number> {
    const startMs = performance.now();
    try {
      await this.#qmp.execute("cont");
      return performance.now() - startMs;
    } catch (cause) {
      if (!isRefusal(cause)) throw cause;
      const why = cause.message;
      throw new GodwitError(
        "MIGRATION_DESTINATION_NOT_RUNNING",
        `the destination QEMU does not run the VM: ${why}`,
        {},
        { cause },
      );
    }
  }

  /** Puts back what was changed in QEMU's settings; it is not told whether that has worked, as the VM is well either way. */
  async restoreSettings(): Promise<void> {
    if (Object.keys(this.#undoCapabilities).length === 0) return;
    await setCapabilities(this.#qmp, this.#undoCapabilities).catch(() => {});
    this.#undoCapabilities = {};
  }

  /**
   * Ends QEMU, so that its copy of the VM can never run. Not one that was never told to take it: what that has is not ours.
   *
   * @throws GodwitError MIGRATION_DESTINATION_STAYS when it does not end
   */
  async giveUp(): Promise<void> {
    this.#isGivenUp = true;
    if (!this.#hasStarted) await this.#starting?.catch(() => {});
    if (!this.#hasStarted) return;
    const closed = this.#qmp.closed.then(() => true);
    await this.#qmp.execute("quit").catch(() => {});
    const timeout = new AbortController();
    const isGone = await Promise.race([closed, delay(QUIT_TIMEOUT_MS, false, { signal: timeout.signal, ref: true })]);
    timeout.abort();
    if (!isGone) throw new GodwitError("MIGRATION_DESTINATION_STAYS", "the destination QEMU does not end", {});
  }
}
