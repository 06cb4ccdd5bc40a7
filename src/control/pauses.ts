/** Whether a load has paused in a round, as far as two rounds show it, and how it may go on. */
import { meanOfDecay } from "./arithmetic.ts";
import type { RoundSample } from "./samples.ts";
import { constant, cycle, type Steps, sequence } from "./simulation/steps.ts";

/** A page that was written before it was sent is known to be unchanged so often at most, else the sender has forgotten it: 0.7 to 0.85 in the lab. */
export const MOST_KNOWN = 0.8;
/** The bulk round goes through the memory in order, which leaves fewer unchanged than were sent at random: so many times. */
const BULK_TIMES = 1.25;
/** A load has paused where no more than this share of the pages have changed that would have under a steady one. */
const PAUSED_SHARE = 0.9;

/**
 * The share of the pages of `round` that are as they were sent in the round `before`, if the guest writes to `workingPages` at random and
 * at an even pace: they were written before they were sent, and neither after that nor in `round` until they were sent again.
 */
export function unchangedOf(before: RoundSample, round: RoundSample, workingPages: number): number {
  const found = Math.min(0.9999, before.dirtiedPages / workingPages);
  if (found <= 0) return 0;
  const writes = -Math.log1p(-found);
  const sent = before.round === 0 ? 1 : Math.min(1, before.pages / workingPages);
  const early = meanOfDecay(writes) - Math.exp(-writes);
  const writesNow = (writes * round.durationMs) / before.durationMs;
  return ((sent * early) / found) * meanOfDecay(writesNow);
}

/** How many of those pages of `round` were known to be unchanged and went as `same`. */
export function knownShareOf(before: RoundSample, round: RoundSample, workingPages: number): number {
  const unchanged = unchangedOf(before, round, workingPages);
  return unchanged > 0 ? Math.min(MOST_KNOWN, ((before.round === 0 ? BULK_TIMES : 1) * sameOf(round)) / unchanged) : 0;
}

/** Whether `round` found many more pages unchanged than an even pace explains. */
export function hasPaused(before: RoundSample, round: RoundSample, workingPages: number): boolean {
  const expected = MOST_KNOWN * unchangedOf(before, round, workingPages);
  return 1 - sameOf(round) < PAUSED_SHARE * (1 - expected);
}

/** A load that has paused within `seenMs` pauses again within as long, for half of that: no more is known of it. */
export function pauses(seenMs: number, random: () => number): Steps {
  const phases = cycle({ ms: seenMs / 2, value: 0 }, { ms: seenMs / 2, value: 1 });
  return sequence(constant(1), seenMs * random(), phases);
}

/** The share of a round's pages that went as `same`. */
function sameOf({ pages, pagesByForm }: RoundSample): number {
  return (pagesByForm.same ?? 0) / Math.max(1, pages - (pagesByForm.zero ?? 0));
}
