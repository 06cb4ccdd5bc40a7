import { setTimeout as delay } from "node:timers/promises";
import { SwitchoverLimit } from "../control/switchover-limit.ts";
import { messageOf } from "../errors.ts";
import { type MigrationProgress, migrationProgress } from "../qemu/migrate.ts";
import type { QmpClient } from "../qemu/qmp.ts";
import type { EventListener } from "./events.ts";
import type { Peer } from "./peer.ts";
import { ProgressMeter } from "./progress.ts";
import type { StreamSender } from "./sender.ts";
import type { SourceOffers } from "./source-offers.ts";
import type { SourceVm } from "./source-vm.ts";

/** How often progress is reported. */
const PROGRESS_MS = 250;

export interface RoundsParts {
  readonly qmp: QmpClient;
  readonly vm: SourceVm;
  readonly peer: Peer;
  readonly sender: StreamSender;
  readonly offers: SourceOffers;
  readonly memoryBytes: number;
  readonly onEvent: EventListener;
}

/**
 * Follows the rounds of a migration while the guest runs: reports how it goes, tells QEMU how fast the link is, and moves its
 * downtime-limit. A QMP that is gone is noticed elsewhere, and what was not reported harms nobody.
 */
export class SourceRounds {
  readonly #parts: RoundsParts;
  readonly #meter: ProgressMeter;
  #limit: SwitchoverLimit | undefined;
  #isStopped = false;
  #hasEnded = false;

  constructor(parts: RoundsParts) {
    this.#parts = parts;
    this.#meter = new ProgressMeter(parts, parts.memoryBytes, parts.onEvent);
  }

  /** Rounds begun so far, the bulk round included. */
  get begun(): number {
    return this.#meter.rounds;
  }

  /** The downtime-limit to begin with, from that which QEMU has. */
  firstLimitMs(limitMs: number): number {
    this.#limit = new SwitchoverLimit(limitMs);
    return this.#limit.limitMs;
  }

  /** Reports progress until the source QEMU has ended the migration. */
  async until(completed: Promise<void>): Promise<void> {
    const ended = new AbortController();
    const report = async () => {
      for (;;) {
        await delay(PROGRESS_MS, undefined, { signal: ended.signal });
        await this.#onProgress(await migrationProgress(this.#parts.qmp));
      }
    };
    void report().catch(() => {});
    try {
      await completed;
    } finally {
      this.#hasEnded = true;
      ended.abort();
    }
  }

  /** QEMU has looked for dirty pages: a round ends, and what is left says whether another one would bring the end nearer. */
  onSync(): void {
    this.#meter.onSync();
    const look = async () => {
      const progress = await migrationProgress(this.#parts.qmp);
      if (this.#isStopped || this.#hasEnded) return;
      this.#onProgress(progress).catch(() => {});
      if (progress.dirtySyncCount > 1) this.#decide(progress.ramRemainingBytes);
    };
    look().catch(() => {});
  }

  /** The guest was stopped: most likely QEMU switches over. */
  onStop(): void {
    this.#isStopped = true;
  }

  /** It was a user who has stopped the guest: the migration goes on as before. */
  onUserStop(): void {
    this.#isStopped = false;
  }

  async #onProgress(progress: MigrationProgress): Promise<void> {
    if (this.#isStopped || this.#hasEnded) return;
    const { peer, sender, offers, vm } = this.#parts;
    this.#meter.report(progress);
    const { goodputBytesPerSecond } = peer.backlog;
    offers.tell({
      foundPages: sender.counts.diskPages,
      unsentShare: progress.ramTotalBytes > 0 ? progress.ramRemainingBytes / progress.ramTotalBytes : 1,
      linkBytesPerSecond: goodputBytesPerSecond,
    });
    if (goodputBytesPerSecond > 0) await vm.tellLinkSpeed(goodputBytesPerSecond);
  }

  #decide(remainingBytes: number): void {
    const decision = this.#limit?.onRound(remainingBytes);
    if (decision === undefined) return;
    const { vm, onEvent } = this.#parts;
    onEvent({ event: "limit", downtimeLimitMs: decision.limitMs, reason: decision.reason });
    vm.setDowntimeLimit(decision.limitMs).catch((error) =>
      onEvent({ event: "warning", message: `the limit was not set: ${messageOf(error)}` }),
    );
  }
}
