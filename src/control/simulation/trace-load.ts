/** The load that a trace's rounds show: what is written all the time, what now and then, and how busily in each round. */
import { ITERATION_MS } from "../qemu.ts";
import type { RoundSample } from "../samples.ts";
import { type PageClass, pagesOf } from "./scenario.ts";
import { constant, cycle, type Steps, sequence } from "./steps.ts";

/** Working sets that are tried, as multiples of the most that was dirty at once. */
const WORKING_SETS = Array.from({ length: 120 }, (_, i) => 1.005 * 1.03 ** i);
/** Hot sets that are tried, as shares of the least that was dirtied in a round. */
const HOT_SETS = [0, 0.3, 0.6, 0.8, 0.9, 0.95, 0.99];
/** Writes to each hot page in the shortest round: it is all but sure to be dirtied. */
const HOT_WRITES = 3;
/** A round whose load was this many times less than the others' was one without. */
const LEAST_ACTIVITY = 1e-3;
const MOST_ACTIVITY = 1e4;
const ACTIVITY_STEPS = 40;
/** A hot set is there if it misses the rounds by so much less: rounds of one and the same load differ by about this. */
const CLEAR_SHARE = 0.1;
/** Rounds shorter than QEMU's own looks do not tell of a load: guests write in bursts of some ms, and no sync is timed better. */
const TELLING_MS = ITERATION_MS;
/** A round that was missed by less was as busy as the others: two sets are not all that a guest writes to. */
const SAME_SHARE = 0.05;

/** A load is steady if for all but this share of the time it is within so many times its usual activity. */
const UNEVEN_SHARE = 0.05;
const EVEN_TIMES = 1.25;

/** The load that rounds show. */
export interface Load {
  classes: PageClass[];
  activity: Steps;
  /** It did not come and go. */
  isSteady: boolean;
}

/** What a round tells of the load. */
export type LoadRound = Pick<RoundSample, "round" | "durationMs" | "leftPages" | "dirtiedPages" | "throttlePercent">;

/**
 * Two sets of pages, hot and cold, both written at random, and an activity for each round by which as many pages are dirtied as were. Of
 * the sets that fit, those for which the load changed least from round to round.
 *
 * @param all the bulk round first
 */
export function loadOf(all: readonly LoadRound[], memoryPages: number, wireBytesPerPage: number): Load {
  const rounds = all.filter(({ round, durationMs }) => round === 0 || durationMs >= TELLING_MS);
  const most = Math.max(1, ...rounds.map((round) => round.dirtiedPages + waitingOf(round)));
  const least = Math.min(...rounds.map((round) => round.dirtiedPages));
  const shortestMs = Math.min(...rounds.map(guestMsOf));
  const fits = HOT_SETS.map((share) => fitOf(rounds, share * least, most, memoryPages));
  // A hot set is there only if the rounds are clearly not those of a cold one alone.
  const best = fits.reduce((best, fit) => (fit.spread < best.spread - CLEAR_SHARE ** 2 * rounds.length ? fit : best));
  const alike = { pattern: "random", form: "literal", wireBytesPerPage } as const;
  const classes = [
    { ...alike, pages: best.cold, writesPerSecond: best.writesPerSecond },
    { ...alike, pages: best.hot, writesPerSecond: (HOT_WRITES * best.hot * 1000) / shortestMs },
  ].filter(({ pages }) => pages > 0);
  const [bulk, ...later] = rounds.map((round) => ({ ms: round.durationMs, value: activityIn(round, classes) }));
  const activity =
    later.length === 0 ? constant(bulk!.value) : sequence(constant(bulk!.value), bulk!.ms, cycle(...later));
  const unevenMs = later.reduce((sum, { ms, value }) => (isEven(value) ? sum : sum + ms), 0);
  const laterMs = later.reduce((sum, { ms }) => sum + ms, 0);
  return { classes, activity, isSteady: later.length > 1 && unevenMs <= UNEVEN_SHARE * laterMs };
}

function isEven(activity: number): boolean {
  return activity > 0 && Math.abs(Math.log(activity)) < Math.log(EVEN_TIMES);
}

interface Fit {
  hot: number;
  cold: number;
  writesPerSecond: number;
  /** Of the logarithms of the rounds' writes, as squares. */
  spread: number;
}

/** The cold set that fits best beside a hot one. */
function fitOf(rounds: readonly LoadRound[], hot: number, most: number, memoryPages: number): Fit {
  let best: Fit = { hot, cold: most, writesPerSecond: 1, spread: Number.POSITIVE_INFINITY };
  for (const factor of WORKING_SETS) {
    const cold = Math.min(memoryPages, most * factor) - hot;
    if (cold + hot <= most) continue;
    const logs = rounds.map((round) => Math.log(coldWrites(round, hot, cold)));
    const mean = logs.reduce((sum, log) => sum + log, 0) / logs.length;
    const spread = logs.reduce((sum, log) => sum + (log - mean) ** 2, 0);
    if (spread < best.spread) best = { hot, cold, writesPerSecond: Math.exp(mean), spread };
  }
  return best;
}

/** What was waiting already when the round's sync came can't be found again. What is left of the bulk round is not of the working set. */
export function waitingOf({ round, leftPages }: Pick<LoadRound, "round" | "leftPages">): number {
  return round === 0 ? 0 : leftPages;
}

function guestMsOf({ durationMs, throttlePercent }: LoadRound): number {
  return durationMs * Math.max(0.01, 1 - throttlePercent / 100);
}

/** Writes per second to the cold set for what was dirtied beyond the hot one. */
function coldWrites(round: LoadRound, hot: number, cold: number): number {
  const free = 1 - waitingOf(round) / (hot + cold);
  const share = Math.min(0.9999, Math.max(1e-6, (round.dirtiedPages - hot * free) / (cold * free)));
  return (-Math.log1p(-share) * cold * 1000) / guestMsOf(round);
}

/** By how much the writes of all sets have to be multiplied to dirty in the round what was dirtied. */
function activityIn(round: LoadRound, classes: readonly PageClass[]): number {
  const pages = pagesOf(classes);
  const free = 1 - waitingOf(round) / pages;
  const seconds = guestMsOf(round) / 1000;
  const dirtiedAt = (activity: number) =>
    classes.reduce((sum, one) => {
      const exposure = (one.writesPerSecond * activity * seconds) / one.pages;
      return sum - one.pages * free * Math.expm1(-exposure);
    }, 0);
  let [low, high] = [LEAST_ACTIVITY, MOST_ACTIVITY];
  if (Math.abs(dirtiedAt(1) - round.dirtiedPages) <= SAME_SHARE * round.dirtiedPages) return 1;
  if (dirtiedAt(low) >= round.dirtiedPages) return 0;
  for (let step = 0; step < ACTIVITY_STEPS; step++) {
    const middle = Math.sqrt(low * high);
    if (dirtiedAt(middle) < round.dirtiedPages) low = middle;
    else high = middle;
  }
  return low;
}
