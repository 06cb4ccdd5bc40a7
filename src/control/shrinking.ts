import type { LinkMeter } from "./link-meter.ts";
import { ITERATION_MS } from "./qemu.ts";
import { PAGE_BYTES, type RoundSample } from "./samples.ts";
import { WORTH } from "./settling.ts";
import type { WorkingSetModel } from "./working-set.ts";

/** Rounds without a new least that show that there will be none. */
const FRUITLESS_ROUNDS = 3;
/** Rounds that left no more than so many times what the last one left are of the load as it is now. */
const ALIKE = 1.1;

/** Whether more rounds still make for less to send while the guest is stopped. */
export class Shrinking {
  readonly #model: WorkingSetModel;
  readonly #link: LinkMeter;
  /** The least that a round left, and what the link had lost by then. */
  #least: { pages: number; atMs: number; lostMs: number } | undefined;
  /** The last rounds that left about as much as each other, and for how long the link had stood still by then. */
  #alike: { pages: number; atMs: number; stillMs: number }[] = [];

  constructor(model: WorkingSetModel, link: LinkMeter) {
    this.#model = model;
    this.#link = link;
  }

  /** For so long no round has left much more than the last one: a quiet moment in that time would have been met. */
  get alikeMs(): number {
    const [first, last] = [this.#alike[0], this.#alike.at(-1)];
    return first && last ? last.atMs - first.atMs - (last.stillMs - first.stillMs) : 0;
  }

  /** To be told of every round, before {@link hasStopped} is asked about it. */
  onRound({ atMs, remainingBytes }: RoundSample): void {
    const pages = remainingBytes / PAGE_BYTES;
    const { stillMs } = this.#link;
    const other = this.#alike.findLastIndex((round) => round.pages > ALIKE * pages);
    this.#alike = [...this.#alike.slice(other + 1), { pages, atMs, stillMs }];
  }

  /**
   * More rounds cost what they take, and save by how much shorter the next one is.
   *
   * @param speed of the guest, 1 if it is not throttled
   */
  hasStopped(before: RoundSample, { atMs, remainingBytes, durationMs }: RoundSample, speed: number): boolean {
    const { pagesPerMs, lostInRoundMs } = this.#link;
    if (this.#model.rounds < 2) return false;
    const pages = remainingBytes / PAGE_BYTES;
    const roundMs = Math.max(pages / pagesPerMs, ITERATION_MS);
    const { low } = this.#model.interval(roundMs * speed);
    const isPredicted = (pages - low) / pagesPerMs < WORTH * roundMs;
    // The model may be wrong for ever; a round that was long enough and left no less is not, but for a link that was slow or stood still meanwhile.
    const isLess = remainingBytes < before.remainingBytes * (1 - WORTH);
    const isSeen = !isLess && durationMs >= ITERATION_MS && lostInRoundMs === 0;
    return isPredicted || isSeen || this.#isFruitless(atMs, pages);
  }

  /** The link is slow in every round, and the best of them is long ago. */
  #isFruitless(atMs: number, pages: number): boolean {
    const { lostMs, pagesPerMs } = this.#link;
    const least = this.#least;
    if (least === undefined || pages < least.pages * (1 - WORTH)) {
      this.#least = { pages, atMs, lostMs };
      return false;
    }
    const sinceMs = atMs - least.atMs - (lostMs - least.lostMs);
    return sinceMs > (FRUITLESS_ROUNDS * pages) / pagesPerMs;
  }
}
