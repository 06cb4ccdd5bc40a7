import type { LimitSetting } from "../control/policy.ts";
import { MAX_PERCENT } from "../control/throttle.ts";
import { GodwitError } from "../errors.ts";
import type { MigrationParameters, QmpEvent } from "../qemu/commands.ts";
import {
  assertCanBeSource,
  isLive,
  isStoppedOtherwise,
  type MigrationStatus,
  migrationCapabilities,
  migrationProgress,
  setCapabilities,
  waitForMigrationStatus,
} from "../qemu/migrate.ts";
import { assertPlainStream, PLAIN_STREAM } from "../qemu/plain-stream.ts";
import type { QmpClient } from "../qemu/qmp.ts";
import type { QemuSettings } from "../store/journal-format.ts";

/** States from which a migration does not go on. */
const ENDED: readonly MigrationStatus[] = ["none", "completed", "failed", "cancelled"];
/** QEMU cancels by shutting its socket; it takes longer only while it saves the state of a large device. */
const CANCEL_TIMEOUT_MS = 30_000;

/** What `start`, `setLimit` and `setThrottle` may change. */
const CHANGED_PARAMETERS = [
  "max-bandwidth",
  "downtime-limit",
  "avail-switchover-bandwidth",
  "throttle-trigger-threshold",
  "cpu-throttle-initial",
  "cpu-throttle-increment",
  "cpu-throttle-tailslow",
  "max-cpu-throttle",
] as const satisfies readonly (keyof MigrationParameters)[];

/** Least of what QEMU takes for its throttle: as good as none. */
const LEAST_PERCENT = 1;

/** What QEMU is set to for a migration, beside what every one needs. */
export interface SourceSetup {
  readonly limit: LimitSetting;
  /** Raw bytes per second at most; null: no limit. */
  readonly maxBytesPerSecond?: number | null;
  /** Those that are to be otherwise than for `send`, where QEMU has them. */
  readonly capabilities?: Readonly<Record<string, boolean>>;
  /** Is told QEMU's settings before any is changed, all that may be changed; and null once they are back. */
  readonly noteSettings?: (settings: QemuSettings | null) => Promise<void>;
  /** Allows for `setThrottle`: QEMU throttles the guest by itself, so it is held to next to nothing until it is asked for. */
  readonly canThrottle?: boolean;
}

/** The source QEMU during a migration: what is asked of it, and the way back. */
export class SourceVm {
  readonly #qmp: QmpClient;
  /** Whether the guest is to run wherever the VM ends up. */
  #guestRuns: boolean;
  /** Whether `migrate` was given to QEMU. */
  #hasStarted = false;
  /** Set when the guest stops while the migration runs: whether that was the switch-over. */
  #stop: Promise<boolean> | undefined;
  /** Somebody has given QEMU `migrate_cancel`. */
  #isCancelled = false;
  #undoCapabilities: Record<string, boolean> = {};
  #undoParameters: MigrationParameters = {};
  /** As they were before the migration. */
  #parameters: MigrationParameters;
  #noteSettings: SourceSetup["noteSettings"];

  private constructor(qmp: QmpClient, guestRuns: boolean, parameters: MigrationParameters) {
    this.#qmp = qmp;
    this.#guestRuns = guestRuns;
    this.#parameters = parameters;
  }

  /**
   * @throws GodwitError QMP_WRONG_STATE when the VM can't be migrated now, QMP_CAPABILITY or QMP_PARAMETER when QEMU is set to a way that
   * we can't carry
   */
  static async open(qmp: QmpClient): Promise<SourceVm> {
    const runState = await assertCanBeSource(qmp);
    await assertPlainStream(qmp);
    return new SourceVm(qmp, isLive(runState), await qmp.execute("query-migrate-parameters"));
  }

  get guestRuns(): boolean {
    return this.#guestRuns;
  }

  /** Whether QEMU can be told its bandwidth at switch-over (since 8.2), which makes its threshold exact. */
  get hasSwitchoverBandwidth(): boolean {
    return this.#parameters["avail-switchover-bandwidth"] !== undefined;
  }

  /**
   * Starts the migration to a unix socket.
   *
   * QEMU's own rate limit is taken off unless it is asked for: it would count raw bytes, where the limit that a user means is of
   * wire bytes.
   */
  async start(socketPath: string, setup: SourceSetup): Promise<void> {
    // The last two would make QEMU wait for what nobody says: `migrate-continue`, and a destination with that capability.
    const usual = { events: true, "return-path": true, "pause-before-switchover": false, "switchover-ack": false };
    const throttle = setup.canThrottle ? { "auto-converge": true } : {};
    const wanted = { ...PLAIN_STREAM, ...usual, ...throttle, ...setup.capabilities };
    this.#parameters = await this.#qmp.execute("query-migrate-parameters");
    if (setup.noteSettings !== undefined) {
      const capabilities = await migrationCapabilities(this.#qmp);
      const are = Object.keys(wanted).flatMap((name) =>
        capabilities.has(name) ? [[name, capabilities.get(name)!]] : [],
      );
      const may = CHANGED_PARAMETERS.flatMap((name) =>
        name in this.#parameters ? [[name, this.#parameters[name]!]] : [],
      );
      await setup.noteSettings({ capabilities: Object.fromEntries(are), parameters: Object.fromEntries(may) });
      this.#noteSettings = setup.noteSettings;
    }
    this.#undoCapabilities = await setCapabilities(this.#qmp, wanted);
    await this.#set({
      "max-bandwidth": setup.maxBytesPerSecond ?? 0,
      ...limitParameters(setup.limit),
      ...(setup.canThrottle && throttleParameters(LEAST_PERCENT)),
    });
    this.#hasStarted = true;
    await this.#qmp.execute("migrate", { uri: `unix:${socketPath}` });
  }

  /**
   * Is told of every event of the source QEMU.
   *
   * @returns undefined unless the guest has stopped; then whether it was the migration that stopped it, or a user or the guest itself.
   * QEMU's event does not say, so it is asked; it answers only when it has saved its state, so whoever is in a hurry must not wait.
   */
  onEvent(event: QmpEvent): Promise<boolean> | undefined {
    if (event.name === "MIGRATION" && event.data.status === "cancelling") this.#isCancelled = true;
    if (event.name === "RESUME") {
      this.#guestRuns = true;
      this.#stop = undefined;
    }
    if (event.name !== "STOP" || !this.#guestRuns) return undefined;
    const stop = this.#qmp.execute("query-status").then(({ status }) => {
      // It runs again: a user has let it go on at once. The answer may be older than that.
      if (this.#stop !== stop || isLive(status)) return false;
      if (isStoppedOtherwise(status)) this.#guestRuns = false;
      return this.#guestRuns;
    });
    this.#stop = stop;
    stop.catch(() => {});
    return stop;
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
      // A cancelled one has an error too, of the socket that QEMU has shut for it, and may even count as failed.
      const isCancelled = this.#isCancelled || status === "cancelled";
      const reason = isCancelled ? "it was cancelled by someone else" : (errorDesc ?? "it gave no reason");
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
    if (isLive(status)) return;
    try {
      await this.#qmp.execute("cont");
      const after = await this.#qmp.execute("query-status");
      if (isLive(after.status)) return;
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

  /** Sets what QEMU switches over by; it counts from QEMU's next look at its speed, at most 100 ms later. */
  async setLimit(limit: LimitSetting): Promise<void> {
    await this.#set(limitParameters(limit));
  }

  /**
   * Throttles the guest's CPUs, as the migration was started with `canThrottle`. QEMU does so at a sync, at least a second after the
   * one before, and takes it back when the migration ends in whatever way (migration_iteration_finish, migration/migration.c).
   */
  async setThrottle(percent: number): Promise<void> {
    await this.#set(throttleParameters(Math.max(LEAST_PERCENT, Math.min(MAX_PERCENT, Math.round(percent)))));
  }

  /** Sets those that this QEMU has, and remembers what they were. */
  async #set(parameters: MigrationParameters): Promise<void> {
    const known = Object.entries(parameters).filter(([name]) => Object.hasOwn(this.#parameters, name));
    const before = known.map(([name]) => [name, this.#parameters[name as keyof MigrationParameters]]);
    this.#undoParameters = { ...this.#undoParameters, ...Object.fromEntries(before) };
    await this.#qmp.execute("migrate-set-parameters", Object.fromEntries(known));
  }

  /** Puts back what was changed in QEMU's settings. */
  async restoreSettings(): Promise<void> {
    if (Object.keys(this.#undoParameters).length > 0) {
      await this.#qmp.execute("migrate-set-parameters", this.#undoParameters);
    }
    this.#undoParameters = {};
    await setCapabilities(this.#qmp, this.#undoCapabilities);
    this.#undoCapabilities = {};
    await this.#noteSettings?.(null);
    this.#noteSettings = undefined;
  }
}

function limitParameters({ downtimeLimitMs, bandwidthBytesPerSecond }: LimitSetting): MigrationParameters {
  return { "downtime-limit": downtimeLimitMs, "avail-switchover-bandwidth": bandwidthBytesPerSecond ?? 0 };
}

/**
 * QEMU throttles at the second sync in a row at which the guest had dirtied more than a share of what was sent, first to one value,
 * then in steps up to another (migration_trigger_throttle and mig_throttle_guest_down, migration/ram.c). So that it goes to `percent`
 * at once, both values are that, a step is more than enough, and the least share suffices.
 */
function throttleParameters(percent: number): MigrationParameters {
  return {
    "throttle-trigger-threshold": 1,
    "cpu-throttle-initial": percent,
    "cpu-throttle-increment": MAX_PERCENT,
    "cpu-throttle-tailslow": false,
    "max-cpu-throttle": percent,
  };
}
