/** The parts of the downtime, each predicted by itself. docs/control-loop.md has the formulas; docs/commands.md what a part is. */
import { MAX_DOWNTIME_LIMIT_MS } from "./qemu.ts";
import { PAGE_BYTES } from "./samples.ts";

/** What is expected, and the interval in which nine out of ten are. */
export interface Estimate {
  expected: number;
  low: number;
  high: number;
}

export const DOWNTIME_PARTS = ["residualMs", "transferMs", "loadMs", "handoffMs", "resumeMs"] as const;
export type DowntimePart = (typeof DOWNTIME_PARTS)[number];

/** What a migration came to. */
export type MeasuredParts = Readonly<Record<DowntimePart, number>>;

/** An earlier migration of the VM. */
export interface EarlierMigration {
  parts: MeasuredParts;
  roundTripMs: number;
}

export type PredictedParts = Readonly<Record<DowntimePart, Estimate>>;

/** Of each part so many round trips are the link's: half a one until the last byte is there, one for LOADED and COMMIT. */
const ROUND_TRIPS = { transferMs: 0.5, loadMs: 0, handoffMs: 1, resumeMs: 0 } as const;

/**
 * The parts that do not depend on what is left to send, without round trips, as they are expected before any was measured: about the medians of 60
 * lab migrations, and from the fastest of a quiet machine to what nine of ten were below on one with other work (docs/control-loop.md).
 */
const PRIOR: Readonly<Record<Exclude<DowntimePart, "residualMs">, Estimate>> = {
  // What waits in front of the link (BACKLOG_MS, src/wire/backlog.ts) and in buffers.
  transferMs: { expected: 10, low: 2, high: 40 },
  loadMs: { expected: 6, low: 1, high: 25 },
  handoffMs: { expected: 8, low: 2, high: 40 },
  resumeMs: { expected: 20, low: 10, high: 70 },
};
/** Saving the state of the devices, in QEMU. */
const DEVICE_MS: Estimate = { expected: 4, low: 0.5, high: 30 };
/** An ordinary VM's device state: a few hundred KiB, packed. */
export const DEVICE_BYTES = 128 * 1024;
/** Always let into the queue in front of the link (MIN_ALLOWANCE_BYTES, src/wire/backlog.ts): full, where the link is the bottleneck. */
const QUEUE_BYTES = 512 * 1024;
/** The prior counts as much as so many migrations. */
const PRIOR_WEIGHT = 1;
/** Half the width of a 90 % interval in standard deviations. */
const NORMAL_95 = 1.645;

/** What the residual part depends on. */
export interface Residual {
  /** For all pages that are left. */
  sendMs: Estimate;
  /** Of the link: at which the devices' state is sent. */
  goodputBytesPerSecond: number;
  roundTripMs: number;
  /** The queue in front of the link is full, if there is as much left to send. */
  isLinkBound: boolean;
}

/** Predicts the downtime of a VM by its parts, from what it came to before. */
export class DowntimeModel {
  readonly #parts: Readonly<Record<Exclude<DowntimePart, "residualMs">, Estimate>>;
  /** Of what is expected, as far as it was not measured. */
  readonly #priorShare: number;

  /** @param earlier the VM's earlier migrations, if there are any */
  constructor(earlier: readonly EarlierMigration[] = []) {
    const learned = (part: keyof typeof PRIOR) => {
      const own = earlier.map(({ parts, roundTripMs }) => Math.max(0, parts[part] - ROUND_TRIPS[part] * roundTripMs));
      return learn(PRIOR[part], own);
    };
    this.#priorShare = PRIOR_WEIGHT / (PRIOR_WEIGHT + earlier.length);
    this.#parts = {
      transferMs: learned("transferMs"),
      loadMs: learned("loadMs"),
      handoffMs: learned("handoffMs"),
      resumeMs: learned("resumeMs"),
    };
  }

  /** All parts but the pages: what a switch-over costs that has nothing left to send. */
  fixedMs(goodputBytesPerSecond: number, roundTripMs: number): Estimate {
    const sendMs = { expected: 0, low: 0, high: 0 };
    const none = { sendMs, goodputBytesPerSecond, roundTripMs, isLinkBound: false };
    return totalOf(this.predict(none));
  }

  predict({ sendMs, goodputBytesPerSecond, roundTripMs, isLinkBound }: Residual): PredictedParts {
    const linkMs = (bytes: number) => (bytes * 1000) / Math.max(goodputBytesPerSecond, 1);
    const sent = later(sendMs, linkMs(DEVICE_BYTES));
    const queuedMs = isLinkBound ? this.#priorShare * Math.min(linkMs(QUEUE_BYTES), sendMs.expected) : 0;
    const part = (name: keyof typeof PRIOR) => later(this.#parts[name], ROUND_TRIPS[name] * roundTripMs);
    return {
      residualMs: totalOf([sent, DEVICE_MS]),
      transferMs: later(part("transferMs"), queuedMs),
      loadMs: part("loadMs"),
      handoffMs: part("handoffMs"),
      resumeMs: part("resumeMs"),
    };
  }
}

/** The sum of estimates whose errors have nothing to do with each other. */
export function totalOf(parts: PredictedParts | readonly Estimate[]): Estimate {
  const estimates: readonly Estimate[] = Object.values(parts);
  const expected = estimates.reduce((sum, part) => sum + part.expected, 0);
  const below = Math.hypot(...estimates.map((part) => part.expected - part.low));
  const above = Math.hypot(...estimates.map((part) => part.high - part.expected));
  return { expected, low: Math.max(0, expected - below), high: expected + above };
}

export function bytesOf(pages: number): number {
  return pages * PAGE_BYTES;
}

function later({ expected, low, high }: Estimate, ms: number): Estimate {
  return { expected: expected + ms, low: low + ms, high: high + ms };
}

/** Moves the prior towards what was measured, and its interval likewise. */
function learn(prior: Estimate, measured: readonly number[]): Estimate {
  const count = measured.length;
  if (count === 0) return prior;
  // What a single migration saw may have been a link that stalled: beyond the prior's interval it takes two.
  const sorted = [...measured].sort((a, b) => a - b);
  const most = Math.min(MAX_DOWNTIME_LIMIT_MS, Math.max(prior.high, sorted.at(-2) ?? 0));
  const believed = sorted.map((ms) => Math.min(ms, most));
  const weight = count / (count + PRIOR_WEIGHT);
  const middle = (believed[Math.floor((count - 1) / 2)]! + believed[Math.floor(count / 2)]!) / 2;
  const expected = prior.expected + (middle - prior.expected) * weight;
  const spread = Math.sqrt(believed.reduce((sum, ms) => sum + (ms - middle) ** 2, 0) / Math.max(1, count - 1));
  const half = (priorHalf: number) => priorHalf * (1 - weight) + NORMAL_95 * spread * weight;
  // The next one may still be as those of any VM.
  const apart = (middle - prior.expected) * (1 - weight);
  return {
    expected,
    low: Math.max(0, expected - half(prior.expected - prior.low) - Math.max(0, apart)),
    high: expected + half(prior.high - prior.expected) + Math.max(0, -apart),
  };
}
