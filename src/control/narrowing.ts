/** How the limit rises to the level of what was left, so that QEMU looks more and more often. */

/**
 * From this share of the level it rises to all of it, for so many rounds. QEMU looks as soon as what it knows of is below the limit, so
 * a higher limit makes it look more often, and that leaves less: down to a half.
 */
const FROM = 0.55;
export const NARROW_ROUNDS = 5;
/** A steady load has no valley that could be missed by rising at once. */
const STEADY_FROM = 0.8;
/** Past the level it goes on at this share of its pace: 2 % a round. */
const PAST_SHARE = 0.25;
/** Here QEMU looks as good as all the time, and no chance makes for so little left: for a steady load it rests while what is left falls. */
const REST = 0.85;

/** What was left at least, and when. */
interface Mark {
  ms: number;
  pages: number;
}

/** From the moment at which it was looked long enough for quieter moments. */
export class Narrowing {
  readonly #worth: number;
  #mark: Mark | undefined;
  #restedMs = 0;
  #hasRested = false;

  /** @param worth downtime that a wait of the same length is worth */
  constructor(worth: number) {
    this.#worth = worth;
  }

  /** Of `ms` since it began, those in which it rose. */
  risenMs(ms: number): number {
    return ms - this.#restedMs;
  }

  /**
   * What is accepted now, as a share of the level.
   *
   * @param ms since it began: not less than at the last call
   * @param roundMs the length of a round that rounds lead to
   * @param leastPages that were left at any sync so far
   */
  share(ms: number, roundMs: number, leastPages: number, pagesPerMs: number, isSteady: boolean): number {
    const from = isSteady ? STEADY_FROM : FROM;
    const pace = (1 - FROM) / (NARROW_ROUNDS * roundMs);
    const restMs = (REST - from) / pace;
    if (isSteady && !this.#hasRested && this.risenMs(ms) >= restMs) {
      this.#restedMs = ms - restMs;
      this.#mark ??= { ms, pages: leastPages };
      if (ms - this.#mark.ms >= roundMs) {
        // Each round of rest has to be paid for by what it saved.
        const savedMs = (this.#mark.pages - leastPages) / pagesPerMs;
        this.#hasRested = savedMs < this.#worth * (ms - this.#mark.ms);
        this.#mark = { ms, pages: leastPages };
      }
    }
    const share = from + pace * this.risenMs(ms);
    // Past the level it rises on slowly, where there is no valley to wait for: samples are not exact, and a little more costs little.
    return Math.min(1, share) + (isSteady ? Math.max(0, share - 1) * PAST_SHARE : 0);
  }
}
