/** How many pages a guest dirties in a given time, and where rounds of pre-copy lead. docs/control-loop.md has the formulas. */
import type { Estimate } from "./downtime.ts";
import { fitLine, type Line } from "./regression.ts";
import type { RoundSample } from "./samples.ts";
import { waitingOf } from "./simulation/trace-load.ts";

/** A round as the model sees it. */
export interface DirtyPoint {
  /** For so long the guest could write: the round's length, less the CPU time that a throttle took. */
  guestMs: number;
  /** Distinct pages that it dirtied meanwhile. */
  pages: number;
}

/** A round counts half as much as the one after the next. */
const HALF_LIFE_ROUNDS = 2;
/** Older rounds say nothing about the load of today. */
const MAX_POINTS = 12;
/** D bends: rounds of other lengths than NEAR times the last one are left out once there are MIN_NEAR of its length. */
const NEAR = 3;
const MIN_NEAR = 3;
/** With two rounds only, what a prediction may be off for a length that is e times one of theirs. */
const UNKNOWN_SHARE = 0.25;
/** The fixed point is found when a further round would change its length by less. */
const SAME_SHARE = 1e-4;
const MAX_STEPS = 200;
/** All is dirtied at once: in a twentieth of the round. */
const MAX_BEND = 20;
const BEND_STEPS = 30;
/** A curve that bends less is a line. */
const LINEAR = 1e-3;

/** D(T), the writable working set as a function of the time: fitted to the rounds so far, recent ones weigh more. */
export class WorkingSetModel {
  readonly #memoryPages: number;
  readonly #points: DirtyPoint[] = [];
  /** The most of the working set that was dirty after a round's sync. */
  #workingPages = 0;
  /** Those that the line is fitted to. */
  #used: readonly DirtyPoint[] = [];
  #line: Line = fitLine([{ x: 0, y: 0, weight: 1 }]);

  /** @param memoryPages no guest dirties more than it has */
  constructor(memoryPages: number) {
    this.#memoryPages = memoryPages;
  }

  /** Adds a round most of which was sent. What was waiting when its sync came can't be found again: as much of that was dirtied as of the rest of the working set. */
  addRound(round: RoundSample): void {
    const waitingPages = waitingOf(round);
    const dirtyPages = waitingPages + round.dirtiedPages;
    this.#workingPages = Math.max(this.#workingPages, dirtyPages);
    const free = 1 - waitingPages / Math.max(1, this.#workingPages);
    const pages = free > 0 ? round.dirtiedPages / free : 0;
    this.add({ guestMs: round.durationMs * (1 - round.throttlePercent / 100), pages });
  }

  add(point: DirtyPoint): void {
    this.#points.push(point);
    if (this.#points.length > MAX_POINTS) this.#points.shift();
    const newest = this.#points.length - 1;
    const near = this.#points.filter(({ guestMs }) => Math.abs(Math.log(guestMs / point.guestMs)) < Math.log(NEAR));
    this.#used = near.length >= MIN_NEAR ? near : this.#points;
    const weighted = this.#used.map((one) => ({
      x: one.guestMs,
      y: one.pages,
      weight: 0.5 ** ((newest - this.#points.indexOf(one)) / HALF_LIFE_ROUNDS),
    }));
    const line = fitLine(weighted);
    // More time never means fewer dirty pages: the load has changed, and the mean of the latest is all that is known.
    this.#line = line.slope >= 0 ? line : fitLine(weighted.map((point) => ({ ...point, x: 0 })));
  }

  get rounds(): number {
    return this.#points.length;
  }

  /** Distinct pages that are expected to be dirtied in `guestMs`. */
  pages(guestMs: number): number {
    return this.#bounded(this.#expected(guestMs), guestMs);
  }

  /** Like {@link pages}, with the interval in which nine out of ten rounds of this length are expected. */
  interval(guestMs: number): Estimate {
    const expected = this.pages(guestMs);
    // One round does not tell how soon in it they were dirtied: at the latest evenly, at worst all at once.
    if (this.#points.length === 1 && guestMs < this.#shortestMs) {
      const atOnce = this.#line.intercept * -Math.expm1((-MAX_BEND * guestMs) / this.#shortestMs);
      return { expected, low: expected, high: this.#bounded(atOnce, guestMs) };
    }
    const margin = this.#line.margin(guestMs) ?? expected * this.#unknown(guestMs);
    return {
      expected,
      low: this.#bounded(expected - margin, guestMs),
      high: this.#bounded(expected + margin, guestMs),
    };
  }

  /** The largest share by which the line misses one of the rounds; null before it could miss one. */
  get unsteadiness(): number | null {
    if (this.#used.length < 3) return null;
    return this.#used.reduce((most, { guestMs, pages }) => {
      const miss = Math.abs(this.pages(guestMs) - pages) / Math.max(1, pages);
      return Math.max(most, miss);
    }, 0);
  }

  /**
   * The round length that rounds lead to: what is dirtied in it takes as long to send.
   *
   * @param pagesPerMs sent
   * @param speed of the guest, 1 if it is not throttled
   * @param startMs the length of a round to start from
   */
  fixedPointMs(pagesPerMs: number, speed = 1, startMs = this.#memoryPages / pagesPerMs): number {
    let ms = startMs;
    for (let step = 0; step < MAX_STEPS; step++) {
      const nextMs = this.pages(ms * speed) / pagesPerMs;
      if (Math.abs(nextMs - ms) <= ms * SAME_SHARE) return nextMs;
      ms = nextMs;
    }
    return ms;
  }

  /**
   * What is left on average when QEMU looks for dirty pages all the time, instead of once in a round of `guestMs`: a page
   * was last sent between 0 and that long ago, so this is the mean of D over these ages.
   */
  rollingPages(guestMs: number): number {
    const bend = this.#bend(guestMs);
    const share = bend < LINEAR ? 0.5 : -1 / Math.expm1(-bend) - 1 / bend;
    return this.pages(guestMs) * share;
  }

  /**
   * Along the line where rounds were as long. Below the shortest one, where a line would not go through 0, along the curve of
   * a working set that is written at random, which goes through 0 and goes on from the line: D(S) (1 − e^(−x T/S)) / (1 − e^(−x)).
   */
  #expected(guestMs: number): number {
    if (this.#used.length === 0) return 0;
    const { intercept, slope } = this.#line;
    const shortestMs = this.#shortestMs;
    if (guestMs >= shortestMs) return intercept + slope * guestMs;
    const bend = this.#bend(shortestMs);
    const share = guestMs / shortestMs;
    return (intercept + slope * shortestMs) * (bend < LINEAR ? share : Math.expm1(-bend * share) / Math.expm1(-bend));
  }

  /** The x of that curve whose elasticity at its end, x / (e^x − 1), is that of D: 0 where no page was written twice. */
  #bend(guestMs: number): number {
    if (this.#points.length < 2) return 0;
    const { intercept, slope } = this.#line;
    const ms = Math.max(guestMs, this.#shortestMs);
    const pages = intercept + slope * ms;
    const elasticity = pages > 0 ? (slope * ms) / pages : 1;
    let [low, high] = [0, MAX_BEND];
    for (let step = 0; step < BEND_STEPS; step++) {
      const middle = (low + high) / 2;
      if (middle / Math.expm1(middle) > elasticity) low = middle;
      else high = middle;
    }
    return low;
  }

  get #shortestMs(): number {
    return this.#used.reduce((shortest, { guestMs }) => Math.min(shortest, guestMs), Number.POSITIVE_INFINITY);
  }

  /** Where there are too few rounds for a deviation, by how far their lengths are from this one. */
  #unknown(guestMs: number): number {
    const distances = this.#points.map((point) => Math.abs(Math.log(guestMs / point.guestMs)));
    return UNKNOWN_SHARE * Math.min(...distances, 1);
  }

  #bounded(pages: number, guestMs: number): number {
    if (guestMs <= 0) return 0;
    return Math.min(this.#memoryPages, Math.max(0, pages));
  }
}
