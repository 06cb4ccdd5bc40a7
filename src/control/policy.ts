/** What decides about the switch-over, and what it can decide. */
import type { Estimate, PredictedParts } from "./downtime.ts";
import { MAX_DOWNTIME_LIMIT_MS } from "./qemu.ts";
import type { MigrationFacts, RoundSample, TickSample } from "./samples.ts";

/** QEMU switches over when less than limit × bandwidth remains after a sync (migration_iteration_run, migration/migration.c). */
export interface LimitSetting {
  /** QEMU's `downtime-limit`. */
  downtimeLimitMs: number;
  /** QEMU's `avail-switchover-bandwidth`; null: QEMU takes the rate at which it wrote over its last 100 ms. */
  bandwidthBytesPerSecond: number | null;
}

/** A decision, with its reason in one plain sentence. */
export type Decision = { reason: string } & (
  | { kind: "go-on" }
  /** `predictedMs`: the downtime that it is expected to come to. */
  | { kind: "limit"; limit: LimitSetting; predictedMs?: Estimate }
  /** A limit that is expected to be met only when the load is low again. */
  | { kind: "wait"; limit: LimitSetting; untilMs: number; predictedMs?: Estimate }
  /** Of the guest's CPU time; 0 gives it all back. */
  | { kind: "throttle"; percent: number }
  /** At the next sync, whatever remains. */
  | { kind: "switch"; predictedMs?: Estimate }
  | { kind: "abort" }
);

/** What is expected if the migration goes on as it is decided now. */
export interface Forecast {
  /** Only if no more is left than is accepted now: that rounds shrink so far, or the load has a quiet moment, is hoped for. */
  isAtBest: boolean;
  downtimeMs: Estimate;
  downtimeParts: PredictedParts;
  /** From the start to the VM running at the destination; null until two rounds are through. */
  totalMs: Estimate | null;
}

/** What QEMU is set to before the migration starts. */
export interface StartSettings {
  limit: LimitSetting;
  /** QEMU's `max-bandwidth`, of raw bytes; null: none. */
  maxBytesPerSecond: number | null;
  /** QEMU's capability `auto-converge`. */
  autoConverge: boolean;
}

/**
 * Decides when a VM is switched over. A function of what it was told: no clock, no chance, no I/O of its own. One object decides
 * about one migration.
 */
export interface Policy {
  readonly name: string;
  /** How often it wants to look at the migration. */
  readonly tickMs: number;
  /** After what it was told last; undefined where it expects nothing. */
  readonly forecast?: Forecast | undefined;
  start(facts: MigrationFacts): StartSettings;
  /** A round has ended, and QEMU did not switch over. */
  onRound(round: RoundSample): Decision | undefined;
  onTick(tick: TickSample): Decision | undefined;
}

/**
 * The setting that makes QEMU switch over once at most `thresholdBytes` remain.
 *
 * @param bandwidthBytesPerSecond the link's speed as QEMU counts, for the limit to be about the downtime that it stands for
 * @param hasSwitchoverBandwidth else QEMU multiplies with its own estimate, and `bandwidthBytesPerSecond` should be that
 */
export function limitOf(
  thresholdBytes: number,
  bandwidthBytesPerSecond: number,
  hasSwitchoverBandwidth: boolean,
): LimitSetting {
  const bandwidth = Math.max(bandwidthBytesPerSecond, 1000);
  const exactMs = (thresholdBytes / bandwidth) * 1000;
  const downtimeLimitMs = Math.min(MAX_DOWNTIME_LIMIT_MS, Math.max(1, Math.ceil(exactMs)));
  if (!hasSwitchoverBandwidth) return { downtimeLimitMs, bandwidthBytesPerSecond: null };
  // QEMU reckons in whole bytes per ms (migration_update_counters), so the bandwidth is the one that makes the product exact.
  const bytesPerMs = Math.max(1, Math.ceil(thresholdBytes / downtimeLimitMs));
  return { downtimeLimitMs, bandwidthBytesPerSecond: bytesPerMs * 1000 };
}
