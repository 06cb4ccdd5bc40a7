/** What was left at each sync, and what it is worth to wait for less. */

interface Residual {
  atMs: number;
  pages: number;
}

/** A residual to wait for. */
export interface Level {
  pages: number;
  /** Until it is met, on average, as often as it was met so far. */
  waitMs: number;
}

/** Kept; beyond, the lower of two neighbours stands for both. */
const MAX_RESIDUALS = 256;
/** Levels that are compared. */
const MAX_LEVELS = 48;

/** The residuals of the syncs since the rounds stopped shrinking. */
export class ResidualHistory {
  #residuals: Residual[] = [];

  add(atMs: number, pages: number): void {
    this.#residuals.push({ atMs, pages });
    if (this.#residuals.length <= MAX_RESIDUALS) return;
    this.#residuals = this.#residuals.filter((residual, i, all) => {
      const neighbour = all[i ^ 1];
      return (
        neighbour === undefined ||
        residual.pages < neighbour.pages ||
        (residual.pages === neighbour.pages && i % 2 === 0)
      );
    });
  }

  clear(): void {
    this.#residuals = [];
  }

  get count(): number {
    return this.#residuals.length;
  }

  get last(): number {
    return this.#residuals.at(-1)?.pages ?? Number.POSITIVE_INFINITY;
  }

  /** Over the time; of one sync what it left. */
  get mean(): number {
    const all = this.#residuals;
    const spanMs = all.length > 0 ? all.at(-1)!.atMs - all[0]!.atMs : 0;
    if (spanMs <= 0) return this.last;
    const sum = all.reduce((sum, { atMs, pages }, i) => (i === 0 ? 0 : sum + pages * (atMs - all[i - 1]!.atMs)), 0);
    return sum / spanMs;
  }

  get least(): number {
    return this.#residuals.reduce((least, { pages }) => Math.min(least, pages), Number.POSITIVE_INFINITY);
  }

  get most(): number {
    return this.#residuals.reduce((most, { pages }) => Math.max(most, pages), 0);
  }

  /**
   * The level at which to switch: the one at which the downtime together with the wait for it, which counts `worth` of
   * it, is least if the load goes on as it did. Undefined before the second sync.
   *
   * @param worth downtime that a wait of the same length is worth, such as 0.02
   */
  bestLevel(pagesPerMs: number, worth: number): Level | undefined {
    const all = this.#residuals;
    if (all.length < 2) return undefined;
    const sorted = all.map(({ pages }) => pages).sort((a, b) => a - b);
    const levels = Math.min(MAX_LEVELS, sorted.length);
    let best: Level | undefined;
    let bestCost = Number.POSITIVE_INFINITY;
    for (let i = 0; i < levels; i++) {
      const pages = sorted[Math.floor((i * sorted.length) / levels)]!;
      const waitMs = this.#meanWaitMs(pages);
      const cost = pages / pagesPerMs + worth * waitMs;
      if (cost < bestCost) [best, bestCost] = [{ pages, waitMs }, cost];
    }
    return best;
  }

  /** From any moment to the next sync that left at most `pages`, on average; after the last one the history repeats itself. */
  #meanWaitMs(pages: number): number {
    const all = this.#residuals;
    const startMs = all[0]!.atMs;
    const spanMs = all.at(-1)!.atMs - startMs;
    if (spanMs <= 0) return 0;
    const first = all.find((residual) => residual.pages <= pages)!;
    let hitMs = first.atMs + spanMs;
    let sum = 0;
    for (let i = all.length - 1; i > 0; i--) {
      const { atMs, pages: left } = all[i]!;
      if (left <= pages) hitMs = atMs;
      const beforeMs = all[i - 1]!.atMs;
      sum += (hitMs - (atMs + beforeMs) / 2) * (atMs - beforeMs);
    }
    return sum / spanMs;
  }
}
