import { messageOf } from "../errors.ts";
import { readFacts, type VmFacts } from "../qemu/facts.ts";
import { QmpClient } from "../qemu/qmp.ts";
import { SessionStore } from "../store/session-store.ts";
import { errorEvent } from "./advice.ts";
import { keepCheckpoint } from "./checkpoint-keep.ts";
import { CpuMeter } from "./costs.ts";
import type { KeptCheckpoint, SourceSummary, Status } from "./events.ts";
import { putBackLeftSettings } from "./left-settings.ts";
import { RECONNECT_FOR_MS } from "./link.ts";
import { Cancelled, Failure } from "./outcome.ts";
import { settleLeft } from "./settle-source.ts";
import { settledStatus } from "./settled-status.ts";
import type { SourceOutcome } from "./source-hand-off.ts";
import type { SourceOptions } from "./source-options.ts";
import { SourceSession } from "./source-session.ts";
import { sourceSummary } from "./source-summary.ts";

/**
 * Moves the VM of a QEMU to the `receive` that listens at `to`.
 *
 * The order of the hand-off is docs/hand-off.md. Until COMMIT is noted, whatever goes wrong lets the guest go on here; after it, the
 * guest never resumes here but on the destination's word that it has given up. Never throws: how it ended is in the summary,
 * which is also the last event; an `error` event stands before it where it did not end well.
 */
export async function migrateToPeer(options: SourceOptions): Promise<SourceSummary> {
  return new SourceMigration(options).run();
}

/** The road of a migration: what an earlier one has left, the session, and what is to be done once the VM has left. */
class SourceMigration {
  readonly #options: SourceOptions;
  readonly #failure = new Failure();
  readonly #startMs = performance.now();
  readonly #cpu = new CpuMeter();
  readonly #session: SourceSession;
  /** When it was settled where the VM is: what is kept of the disks for the next time is no part of the migration. */
  #endMs: number | undefined;
  #qmp: QmpClient | undefined;
  /** Of a VM that an earlier migration has moved. */
  #leftFacts: VmFacts | undefined;

  constructor(options: SourceOptions) {
    this.#options = options;
    this.#session = new SourceSession(options, this.#failure, this.#startMs);
  }

  async run(): Promise<SourceSummary> {
    const { signal } = this.#options;
    const onAbort = () => this.#session.cancel(new Cancelled(messageOf(signal?.reason)));
    signal?.addEventListener("abort", onAbort);
    let status: Status;
    try {
      if (signal?.aborted) onAbort();
      this.#qmp = await this.#failure.or(QmpClient.connect(this.#options.qmpPath));
      status = (await this.#settleLeft(this.#qmp)) ?? (await this.#settle(await this.#session.run(this.#qmp)));
    } catch (error) {
      status = await this.#refuse(error);
    } finally {
      signal?.removeEventListener("abort", onAbort);
      this.#stopClocks();
      await this.#session.end();
    }
    await this.#session.closeDisks(status !== "completed");
    const migration = this.#summary(status);
    await this.#session.summaryParts.rounds?.close(migration);
    const summary = { ...migration, checkpoint: status === "completed" ? await this.#afterwards() : null };
    this.#qmp?.close();
    this.#options.onEvent(summary);
    return summary;
  }

  /** What an earlier `send` of this VM has left. @returns how that has ended, where there is nothing here to be migrated any more */
  async #settleLeft(qmp: QmpClient): Promise<Status | undefined> {
    const { stateDir, security, to, reconnectForMs = RECONNECT_FOR_MS, signal, onEvent } = this.#options;
    if (stateDir === undefined) return undefined;
    const left = await settleLeft(qmp, { stateDir, security, to, reconnectForMs, signal, onEvent });
    if (left !== null && left.end !== "aborted") {
      const whereabouts = left.end === "completed" ? "the VM is at the destination" : left.whereabouts;
      this.#warn(`an earlier migration of this VM was open; ${whereabouts}`);
      if (left.end === "completed") this.#leftFacts = await readFacts(qmp);
      else this.#report(left.reason, whereabouts, true);
      return left.end === "completed" ? "completed" : "in-doubt";
    }
    if (left !== null) this.#warn(`an earlier migration of this VM was open, and has ended; ${left.whereabouts}`);
    await putBackLeftSettings(qmp, await SessionStore.open(stateDir), (message) => this.#warn(message));
    return undefined;
  }

  /** What is left to do once it is known where the VM is. */
  async #settle(outcome: SourceOutcome): Promise<Status> {
    if (outcome.end === "completed") await this.#tidy().catch((error) => this.#warnOfRemains(error));
    // Else what we have told the peer might be lost with the connection.
    else if (outcome.end !== "in-doubt") await this.#session.goodbye();
    return settledStatus(outcome, "source", this.#options.onEvent);
  }

  async #tidy(): Promise<void> {
    await this.#session.restoreSettings();
    this.#stopClocks();
    await this.#session.closeDisks(false);
  }

  /** Nothing was touched: the destination is told, if it has answered. */
  async #refuse(error: unknown): Promise<Status> {
    const unchanged = "nothing was changed, the VM is as it was";
    await this.#session.refuse(error);
    if (!(error instanceof Cancelled)) this.#report(error, unchanged);
    else this.#options.onEvent({ event: "cancelled", vm: unchanged });
    return error instanceof Cancelled ? "cancelled" : "refused";
  }

  /** What is left to do with the source QEMU once the VM is at the destination. None of it counts as part of the migration. */
  async #afterwards(): Promise<KeptCheckpoint | null> {
    const { keepCheckpoint: place, quit, signal, onEvent } = this.#options;
    const [qmp, vm] = [this.#qmp!, this.#facts!];
    const checkpoint = place === undefined ? null : await keepCheckpoint({ qmp, vm, place, signal, onEvent });
    if (quit) await qmp.execute("quit").catch((error) => this.#warnOfRemains(error));
    return checkpoint;
  }

  get #facts(): VmFacts | undefined {
    return this.#session.facts ?? this.#leftFacts;
  }

  #stopClocks(): void {
    this.#endMs ??= performance.now();
    this.#cpu.stop();
  }

  #warnOfRemains(error: unknown): void {
    this.#warn(`the VM runs at the destination, but here: ${messageOf(error)}`);
  }

  #warn(message: string): void {
    this.#options.onEvent({ event: "warning", message });
  }

  #report(error: unknown, vm: string, isInDoubt = false): void {
    this.#options.onEvent(errorEvent(error, vm, "source", isInDoubt));
  }

  #summary(status: Status): SourceSummary {
    return sourceSummary(status, {
      ...this.#session.summaryParts,
      policy: this.#options.policy,
      totalMs: (this.#endMs ?? performance.now()) - this.#startMs,
      memoryBytes: this.#facts?.memoryBytes ?? 0,
      cpu: this.#cpu,
    });
  }
}
