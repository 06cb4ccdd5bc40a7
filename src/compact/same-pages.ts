import { NO_SLOT } from "./page-cache.ts";

/** Places for each slot: few slots are driven out then before their content is. */
const PLACES_PER_SLOT = 4;
/** Looking is given up after so many pages in vain, each find making up for GAIN of them: what it saves costs that many hashes. */
const GIVEN_UP = 2048;
const GAIN = 32;
const MAX_SCORE = GIVEN_UP + 16 * GAIN;
/** Of the pages of a guest in which equal ones are rare, one in so many is looked for all the same; a power of two. */
const LOOK_EVERY = 16;

/**
 * Slots of the page cache by the hash of what stands in them. It may miss some, and may be wrong: whoever asks has to compare.
 *
 * A table of pairs of places; a slot that is put in drives out the older one of its pair.
 */
export class SamePages {
  /** A slot + 1 each; the newer one of a pair first. */
  readonly #table: Uint32Array;
  readonly #mask: number;
  /** For each slot the other half of its hash; 0 where it is not known. */
  readonly #hashes: Uint32Array;
  #score = 0;

  constructor(slots: number) {
    const places = 2 ** Math.ceil(Math.log2(slots * PLACES_PER_SLOT));
    this.#table = new Uint32Array(places);
    this.#mask = places - 2;
    this.#hashes = new Uint32Array(slots);
  }

  /**
   * Whether to hash a page and look for it: not while that hardly ever finds one.
   *
   * @param sample some bits of its content, so that equal pages are all looked for, or none of them
   */
  isWorthLooking(sample: number): boolean {
    return this.#score < GIVEN_UP || (Math.imul(sample, 0x9e3779b1) >>> 16) % LOOK_EVERY === 0;
  }

  /** How it went. */
  looked(hasFound: boolean): void {
    this.#score = Math.min(MAX_SCORE, Math.max(0, this.#score + (hasFound ? -GAIN : 1)));
  }

  /** A slot whose content had this hash, given as its two halves, or NO_SLOT. */
  find(low: number, high: number): number {
    if (high === 0) return NO_SLOT;
    const at = low & this.#mask;
    for (let place = at; place < at + 2; place++) {
      const slot = this.#table[place]! - 1;
      if (slot >= 0 && this.#hashes[slot] === high) return slot;
    }
    return NO_SLOT;
  }

  put(slot: number, low: number, high: number): void {
    const at = low & this.#mask;
    this.#table[at + 1] = this.#table[at]!;
    this.#table[at] = slot + 1;
    this.#hashes[slot] = high;
  }

  /** Nothing is known of any slot. */
  clear(): void {
    this.#hashes.fill(0);
  }

  /** The content of a slot has changed, and its hash is not known. */
  forget(slot: number): void {
    this.#hashes[slot] = 0;
  }
}
