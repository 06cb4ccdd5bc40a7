import { GodwitError } from "../errors.ts";
import type { MigrationParameters, QmpEvent } from "../qemu/commands.ts";
import {
  assertCanBeSource,
  type MigrationStatus,
  migrationCapabilities,
  migrationProgress,
  setCapabilities,
  waitForMigrationStatus,
} from "../qemu/migrate.ts";
import type { QmpClient } from "../qemu/qmp.ts";

/** States from which a migration does not go on. */
const ENDED: readonly MigrationStatus[] = ["none", "completed", "failed", "cancelled"];
/** QEMU cancels by shutting its socket; it takes longer only while it saves the state of a large device. */
const CANCEL_TIMEOUT_MS = 30_000;
/** DEFAULT_MIGRATE_SET_DOWNTIME (QEMU migration/options.c), for a QEMU that does not tell. */
const QEMU_DOWNTIME_LIMIT_MS = 300;

/** Capabilities with which QEMU does not write one stream to one socket (QEMU qapi/migration.json, MigrationCapability). */
const OTHER_WAYS = ["multifd", "mapped-ram", "background-snapshot", "x-colo", "rdma-pin-all"];

/** The link's speed as QEMU is told it before it was measured: with it, a guest is not stopped for more than a few MiB. */
const UNKNOWN_LINK_BYTES_PER_SECOND = 64e6;
/** Speeds that differ by less than this factor are the same to QEMU's decision. */
const SAME_SPEED = 1.1;

/** The source QEMU during a migration: what is asked of it, and the way back. */
export class SourceVm {
  readonly #qmp: QmpClient;
  /** Whether the guest is to run wherever the VM ends up. */
  #guestRuns: boolean;
  /** Whether `migrate` was given to QEMU. */
  #hasStarted = false;
  /** Set when the guest stops while the migration runs: whether that was the switch-over. */
  #stop: Promise<boolean> | undefined;
  #undoCapabilities: Record<string, boolean> = {};
  #undoParameters: MigrationParameters = {};
  #toldBytesPerSecond = 0;

  private constructor(qmp: QmpClient, guestRuns: boolean) {
    this.#qmp = qmp;
    this.#guestRuns = guestRuns;
  }

  /** @throws GodwitError QMP_WRONG_STATE when the VM can't be migrated now, QMP_CAPABILITY when QEMU is set to a way that we can't carry */
  static async open(qmp: QmpClient): Promise<SourceVm> {
    const runState = await assertCanBeSource(qmp);
    const capabilities = await migrationCapabilities(qmp);
    const inTheWay = OTHER_WAYS.find((name) => capabilities.get(name));
    if (inTheWay !== undefined) {
      const message = `QEMU's migration capability ${inTheWay} is on, and godwit can't carry such a stream`;
      throw new GodwitError("QMP_CAPABILITY", message, { capability: inTheWay });
    }
    return new SourceVm(qmp, runState === "running");
  }

  get guestRuns(): boolean {
    return this.#guestRuns;
  }

  /**
   * Starts the migration to a unix socket, with the downtime-limit that `limitFor` makes of the one that QEMU has.
   *
   * QEMU's own rate limit is taken off: it would count raw bytes, where the limit that a user means is of wire bytes.
   *
   * @param capabilities those that are to be otherwise than for `send`, where QEMU has them
   */
  async start(
    socketPath: string,
    limitFor: (downtimeLimitMs: number) => number,
    capabilities: Readonly<Record<string, boolean>> = {},
  ): Promise<void> {
    // The last two would make QEMU wait for what nobody says: `migrate-continue`, and a destination with that capability.
    const usual = { events: true, "return-path": true, "pause-before-switchover": false, "switchover-ack": false };
    const wanted = { ...usual, ...capabilities };
    this.#undoCapabilities = await setCapabilities(this.#qmp, wanted);
    const parameters = await this.#qmp.execute("query-migrate-parameters");
    const { "max-bandwidth": bandwidth = 0, "downtime-limit": limitMs = QEMU_DOWNTIME_LIMIT_MS } = parameters;
    const switchoverBandwidth = parameters["avail-switchover-bandwidth"];
    this.#undoParameters = { "max-bandwidth": bandwidth, "downtime-limit": limitMs };
    if (switchoverBandwidth !== undefined) {
      this.#undoParameters = { ...this.#undoParameters, "avail-switchover-bandwidth": switchoverBandwidth };
      await this.tellLinkSpeed(UNKNOWN_LINK_BYTES_PER_SECOND);
    }
    await this.#qmp.execute("migrate-set-parameters", { "max-bandwidth": 0, "downtime-limit": limitFor(limitMs) });
    this.#hasStarted = true;
    await this.#qmp.execute("migrate", { uri: `unix:${socketPath}` });
  }

  /**
   * Is told of every event of the source QEMU.
   *
   * @returns undefined unless the guest has stopped; then whether it was the migration that stopped it, or a user. QEMU's
   * event does not say, so it is asked; it answers only when it has saved its state, so whoever is in a hurry must not wait.
   */
  onEvent(event: QmpEvent): Promise<boolean> | undefined {
    if (event.name === "RESUME") this.#guestRuns = true;
    if (event.name !== "STOP" || !this.#guestRuns) return undefined;
    this.#stop = this.#qmp.execute("query-status").then(({ status }) => {
      if (status === "paused") this.#guestRuns = false;
      return status !== "paused";
    });
    this.#stop.catch(() => {});
    return this.#stop;
  }

  /**
   * Waits until QEMU has ended the migration well: it is then stopped for good, in `postmigrate`.
   *
   * @throws GodwitError MIGRATION_SOURCE_FAILED with QEMU's reason when it failed or was cancelled from elsewhere
   */
  async completed(signal: AbortSignal): Promise<void> {
    const status = await waitForMigrationStatus(this.#qmp, ["completed", "failed", "cancelled"], { signal });
    if (status !== "completed") {
      const { errorDesc } = await migrationProgress(this.#qmp);
      const reason = errorDesc ?? (status === "cancelled" ? "it was cancelled by someone else" : "it gave no reason");
      throw new GodwitError("MIGRATION_SOURCE_FAILED", `the source QEMU ended the migration: ${reason}`, { status });
    }
    await this.#stop;
  }

  /**
   * Makes the VM be at the source as it was before: cancels the migration if it still runs, and lets the guest go on if it
   * ran. Must not be called after COMMIT.
   *
   * @throws GodwitError MIGRATION_NOT_RESUMED when the guest does not run again
   */
  async giveBack(): Promise<void> {
    if (this.#hasStarted) {
      if (!ENDED.includes((await migrationProgress(this.#qmp)).status)) await this.#qmp.execute("migrate_cancel");
      await waitForMigrationStatus(this.#qmp, ENDED, { timeoutMs: CANCEL_TIMEOUT_MS });
    }
    await this.#stop?.catch(() => {});
    if (this.#guestRuns) await this.#resume();
    await this.restoreSettings();
  }

  async #resume(): Promise<void> {
    const { status } = await this.#qmp.execute("query-status");
    if (status === "running") return;
    try {
      await this.#qmp.execute("cont");
      const after = await this.#qmp.execute("query-status");
      if (after.running) return;
      throw new Error(`it is in the state ${after.status}`);
    } catch (cause) {
      const why = (cause as Error).message;
      throw new GodwitError(
        "MIGRATION_NOT_RESUMED",
        `the source QEMU does not let the guest go on: ${why}`,
        {},
        { cause },
      );
    }
  }

  /**
   * Tells QEMU how fast the link is, where it can be told (since 8.2). By itself it takes the speed at which we read its
   * socket for the link's: a stretch of zero pages then looks like 10 GB/s, and QEMU stops the guest far too early.
   */
  async tellLinkSpeed(bytesPerSecond: number): Promise<void> {
    if (this.#undoParameters["avail-switchover-bandwidth"] === undefined) return;
    const known = this.#toldBytesPerSecond;
    if (bytesPerSecond < known * SAME_SPEED && bytesPerSecond > known / SAME_SPEED) return;
    this.#toldBytesPerSecond = bytesPerSecond;
    await this.#qmp.execute("migrate-set-parameters", { "avail-switchover-bandwidth": Math.round(bytesPerSecond) });
  }

  /** Sets QEMU's downtime-limit; it counts from QEMU's next look at its speed, at most 100 ms later. */
  async setDowntimeLimit(limitMs: number): Promise<void> {
    await this.#qmp.execute("migrate-set-parameters", { "downtime-limit": limitMs });
  }

  /** Puts back what was changed in QEMU's settings. */
  async restoreSettings(): Promise<void> {
    if (Object.keys(this.#undoParameters).length > 0) {
      await this.#qmp.execute("migrate-set-parameters", this.#undoParameters);
    }
    this.#undoParameters = {};
    await setCapabilities(this.#qmp, this.#undoCapabilities);
    this.#undoCapabilities = {};
  }
}
