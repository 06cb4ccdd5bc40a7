import type { EarlierMigration, Estimate } from "../downtime.ts";
import type { DirtyWindow } from "./dirty-curve.ts";
import type { MemorySample } from "./page-costs.ts";

/** What was measured, and what is known from before. */
export interface Findings {
  readonly memoryBytes: number;
  readonly hasSwitchoverBandwidth: boolean;
  /** What the link carries: the middle, and the interval of what it will be on average. */
  readonly goodputBytesPerSecond: Estimate;
  readonly roundTripMs: Estimate;
  readonly windows: readonly DirtyWindow[];
  readonly sample: MemorySample;
  /** Whether pages on disks are known, not known though they may be referred to, or not to be referred to. */
  readonly disks: "indexed" | "unknown" | "unused";
  /** That compress. */
  readonly threads: number;
  readonly earlier: readonly EarlierMigration[];
}
