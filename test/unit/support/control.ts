import type { RoundSample, TickSample } from "../../../src/control/samples.ts";

/** A round of nothing in particular, but for what is given. */
export function aRound(given: Partial<RoundSample>): RoundSample {
  return {
    atMs: 0,
    round: 0,
    durationMs: 1000,
    pages: 0,
    distinctPages: 0,
    redirtiedPages: 0,
    leftPages: 0,
    dirtiedPages: 0,
    remainingBytes: 0,
    wireBytes: 0,
    pagesByForm: { literal: given.pages ?? 0 },
    wireBytesByForm: { literal: given.wireBytes ?? 0 },
    goodputBytesPerSecond: 1e6,
    roundTripMs: 1,
    restoreBytesPerSecond: null,
    throttlePercent: 0,
    ...given,
  };
}

/** Likewise. */
export function aTick(given: Partial<TickSample>): TickSample {
  return {
    atMs: 0,
    round: 0,
    remainingBytes: 1e9,
    dirtyRatePagesPerSecond: 0,
    qemuBytesPerSecond: 1e6,
    goodputBytesPerSecond: 1e6,
    wireBytes: 0,
    throttlePercent: 0,
    ...given,
  };
}
