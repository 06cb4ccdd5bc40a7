/** How fast a guest dirties its memory, as QEMU measures it by sampling pages (calc-dirty-rate, migration/dirtyrate.c). */

import { setTimeout as delay } from "node:timers/promises";
import { GodwitError } from "../errors.ts";
import type { QmpClient } from "./qmp.ts";
import { isRefusal } from "./qmp-errors.ts";

const MIB = 2 ** 20;
const GIB = 2 ** 30;
/** MIN_SAMPLE_PAGE_COUNT and MAX_SAMPLE_PAGE_COUNT (migration/dirtyrate.h). */
const MIN_SAMPLES_PER_GIB = 128;
const MAX_SAMPLES_PER_GIB = 16_384;
/** Samples of all the guest's memory: 256 MiB that QEMU hashes twice, in a thread of its own. */
const WANTED_SAMPLES = 65_536;
/** Beyond the window itself, for a QEMU that is busy, and for hashing the samples. */
const SLACK_MS = 10_000;
const POLL_MS = 20;

/** What was dirtied in one window. */
export interface DirtyRate {
  readonly windowMs: number;
  /** In MiB per second, cut off: the true figure of the samples is up to 1 more. */
  readonly mibPerSecond: number;
  /** Pages that were looked at. */
  readonly samples: number;
}

/** Whether this QEMU can measure in milliseconds, and else in whole seconds. */
export type DirtyRateUnit = "second" | "millisecond";

/**
 * Measures by sampling pages: nothing is write-protected, so the guest does not notice. A page counts as dirty if its content is
 * another at the end of the window.
 *
 * @param windowMs whole seconds with the unit "second"; from 50 ms on with the other
 * @throws GodwitError QMP_DIRTY_RATE when QEMU can't measure, or somebody else lets it measure just now; QMP_TIMEOUT; what `execute` throws;
 * or the signal's reason
 */
export async function measureDirtyRate(
  qmp: QmpClient,
  memoryBytes: number,
  windowMs: number,
  unit: DirtyRateUnit,
  signal?: AbortSignal,
): Promise<DirtyRate> {
  const samplesPerGib = samplesFor(memoryBytes);
  try {
    await qmp.execute("calc-dirty-rate", {
      "calc-time": unit === "second" ? Math.round(windowMs / 1000) : windowMs,
      // QEMUs before 8.2 do not know it, and count in seconds.
      ...(unit === "millisecond" && { "calc-time-unit": unit }),
      "sample-pages": samplesPerGib,
    });
  } catch (error) {
    throw dirtyRateError(qmp, error);
  }
  await delay(windowMs, undefined, { signal });
  const untilMs = performance.now() + SLACK_MS;
  for (;;) {
    const info = await qmp.execute("query-dirty-rate");
    const mibPerSecond = info["dirty-rate"];
    if (info.status === "measured" && mibPerSecond !== undefined && mibPerSecond >= 0) {
      return { windowMs, mibPerSecond, samples: Math.floor((memoryBytes / GIB) * samplesPerGib) };
    }
    if (performance.now() > untilMs) {
      const message = `QEMU did not measure the dirty rate within ${(windowMs + SLACK_MS) / 1000} s`;
      throw new GodwitError("QMP_TIMEOUT", message, { path: qmp.path, status: info.status });
    }
    await delay(POLL_MS, undefined, { signal });
  }
}

/** Asks for a shortest measurement in milliseconds: a QEMU before 8.2 refuses that. @throws as `measureDirtyRate` */
export async function dirtyRateUnit(qmp: QmpClient, memoryBytes: number, signal?: AbortSignal): Promise<DirtyRateUnit> {
  try {
    await measureDirtyRate(qmp, memoryBytes, 50, "millisecond", signal);
    return "millisecond";
  } catch (error) {
    const cause = error instanceof GodwitError ? error.details.desc : undefined;
    if (typeof cause === "string" && cause.includes("calc-time-unit")) return "second";
    throw error;
  }
}

/** A measurement as pages that were dirtied in its window. */
export interface DirtiedPages {
  readonly windowMs: number;
  readonly pages: number;
  /** Standard deviation of what the samples tell. */
  readonly deviationPages: number;
}

/**
 * What a measurement says of the guest: the middle of what it can stand for, as QEMU cuts off; and how well, as it saw some of the
 * pages only.
 */
export function dirtiedPagesOf({ windowMs, mibPerSecond, samples }: DirtyRate, memoryBytes: number): DirtiedPages {
  const memoryPages = memoryBytes / 4096;
  const unitPages = ((MIB / 4096) * windowMs) / 1000;
  const pages = Math.min(memoryPages, (mibPerSecond + 0.5) * unitPages);
  // At least one sample: of none that was dirty nothing more is known than that they are few.
  const share = Math.max(pages / memoryPages, 1 / samples);
  const bySamples = memoryPages * Math.sqrt((share * Math.max(0, 1 - share)) / samples);
  return { windowMs, pages, deviationPages: Math.hypot(bySamples, unitPages / Math.sqrt(12)) };
}

function samplesFor(memoryBytes: number): number {
  const perGib = Math.round(WANTED_SAMPLES / (memoryBytes / GIB));
  return Math.min(MAX_SAMPLES_PER_GIB, Math.max(MIN_SAMPLES_PER_GIB, perGib));
}

function dirtyRateError(qmp: QmpClient, error: unknown): unknown {
  if (!isRefusal(error)) return error;
  const { desc } = error.details;
  const message = `QEMU does not measure the dirty rate: ${typeof desc === "string" ? desc : error.message}`;
  return new GodwitError("QMP_DIRTY_RATE", message, { path: qmp.path, desc }, { cause: error });
}
