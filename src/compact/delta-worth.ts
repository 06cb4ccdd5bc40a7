/** Pages of a stretch that is judged as one: 4 MiB. */
const STRETCH_PAGES = 1024;
/** Stretches that are told apart; some share a score in a guest of more than 16 GiB. */
const SCORES = 4096;
/** A stretch is given up at half of the highest score. */
const MAX_SCORE = 64;
const GIVEN_UP = MAX_SCORE / 2;
/** A delta saves at least half a page of link and packing: that pays for about so many attempts in vain. */
const GAIN = 8;
/** Of the pages of a stretch that is given up, one in so many is tried all the same. */
const TRY_EVERY = 16;

/** Where in the guest's memory looking for deltas has paid lately: a guest that writes whole pages is soon left alone. */
export class DeltaWorth {
  readonly #scores = new Uint8Array(SCORES);
  #skipped = 0;
  /** Of the page that was asked for last. */
  #at = 0;

  isWorthTrying(block: number, page: number): boolean {
    this.#at = (Math.floor(page / STRETCH_PAGES) + Math.imul(block, 0x9e3779b1)) & (SCORES - 1);
    return this.#scores[this.#at]! < GIVEN_UP || ++this.#skipped % TRY_EVERY === 0;
  }

  /** How it went with the page that was asked for last. */
  tried(hasPaid: boolean): void {
    const score = this.#scores[this.#at]! + (hasPaid ? -GAIN : 1);
    this.#scores[this.#at] = Math.min(MAX_SCORE, Math.max(0, score));
  }
}
