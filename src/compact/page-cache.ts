import { ageOf, Sightings } from "./sightings.ts";
import { SlotOrder } from "./slot-order.ts";

/** What `find` and `admit` say where there is no slot. */
export const NO_SLOT = -1;

/** Pages from here on (16 TiB into a ramblock) and ramblocks from here on are not cached: they would not fit into the tables. */
const MAX_PAGES = 2 ** 32;
const MAX_BLOCKS = 2 ** 16;
/** Pages outside whose last writing is remembered, for each one inside: working sets up to five times the cache are known. */
const SIGHTINGS_PER_SLOT = 4;
/** A newcomer has to be written so much more often than the page that it replaces, or both would take turns. */
const MIN_GAIN = 4 / 3;
/** Of the newcomers of which nothing is known, one in so many replaces a page of which nothing was seen for long. */
const ADMIT_EVERY = 32;

/**
 * Which page's last version stands in which slot of the page cache, and which slot a newcomer takes (the sender's rule: the
 * receiver does what tokens say). Pure, and without memory of its own for pages.
 *
 * A guest often writes in a cycle: each round of the migration is one. Where the cycle is larger than the cache, least recently used
 * would throw out every page just before it is written again. So a newcomer is let in only if it was written again after a
 * shorter time than the oldest page here has waited for by now (the rule of LIRS: Jiang and Zhang, SIGMETRICS 2002): in a
 * cycle none is, and what is in stays in; after a change of phase all are. Time is counted in pages written. That a page was sent
 * for the first time says nothing of how it will be written, so it only takes slots that are free, and makes way for any other.
 */
export class PageCache {
  readonly #pages: Uint32Array;
  readonly #blocks: Uint16Array;
  /** When the page in a slot was last found, in pages written; 0: it was of no use yet, or not any more. */
  readonly #usedAt: Uint32Array;
  /** Hash table: the first slot of each bucket, and after each slot the next one of its bucket. */
  readonly #buckets: Int32Array;
  readonly #chain: Int32Array;
  readonly #shift: number;
  readonly #order: SlotOrder;
  readonly #sightings: Sightings;
  readonly #blockNumbers = new Map<string, number>();
  /** For each ramblock the highest page so far: one beyond it was not sent before. */
  readonly #highest: number[] = [];
  #usedSlots = 0;
  #now = 0;
  #unknown = 0;
  /** The page that `find` was asked for last. */
  #page = 0;
  #block = 0;
  #hash = 0;
  #isFirst = false;

  /** @param slots at least one */
  constructor(slots: number) {
    this.#pages = new Uint32Array(slots);
    this.#blocks = new Uint16Array(slots);
    this.#usedAt = new Uint32Array(slots);
    this.#chain = new Int32Array(slots);
    const bits = Math.max(1, Math.ceil(Math.log2(slots)));
    this.#buckets = new Int32Array(2 ** bits).fill(NO_SLOT);
    this.#shift = 32 - bits;
    this.#order = new SlotOrder(slots);
    this.#sightings = new Sightings(slots * SIGHTINGS_PER_SLOT);
  }

  /** All slots are free. How often pages were written is still known. */
  clear(): void {
    this.#buckets.fill(NO_SLOT);
    this.#order.clear();
    this.#usedSlots = 0;
  }

  /** A number for a ramblock's name, for `find`; undefined when there are too many. */
  blockNumber(name: string): number | undefined {
    const known = this.#blockNumbers.get(name);
    if (known !== undefined || this.#highest.length === MAX_BLOCKS) return known;
    this.#blockNumbers.set(name, this.#highest.length);
    return this.#highest.push(-1) - 1;
  }

  /** The slot with the last version of a page that is sent again, or NO_SLOT. */
  find(block: number, page: number): number {
    this.#block = block;
    this.#page = page;
    if (page >= MAX_PAGES) return NO_SLOT;
    this.#hash = hashOf(block, page);
    this.#isFirst = page > this.#highest[block]!;
    if (this.#isFirst) {
      this.#highest[block] = page;
      return NO_SLOT;
    }
    this.#now = (this.#now + 1) >>> 0 || 1;
    let slot = this.#buckets[this.#hash >>> this.#shift]!;
    while (slot !== NO_SLOT && (this.#pages[slot] !== page || this.#blocks[slot] !== block)) slot = this.#chain[slot]!;
    return slot;
  }

  /** The version in `slot`, which `find` has found, was of use. */
  used(slot: number): void {
    this.#usedAt[slot] = this.#now;
    this.#order.toNewest(slot);
  }

  /** It was of no use: the page keeps its slot until another one wants it. */
  useless(slot: number): void {
    this.#usedAt[slot] = 0;
    this.#order.toOldest(slot);
  }

  /** A slot for the page that `find` has not found, or NO_SLOT where it is better left outside. */
  admit(): number {
    if (this.#page >= MAX_PAGES) return NO_SLOT;
    if (this.#usedSlots < this.#pages.length) {
      const slot = this.#usedSlots++;
      this.#order.addNewest(slot);
      this.#put(slot);
      return slot;
    }
    if (this.#isFirst) return NO_SLOT;
    const slot = this.#order.oldest;
    if (!this.#isBetterThan(slot)) {
      this.#sightings.put(this.#hash, this.#now, this.#now);
      return NO_SLOT;
    }
    this.#remove(slot);
    this.#order.toNewest(slot);
    this.#put(slot);
    return slot;
  }

  #isBetterThan(slot: number): boolean {
    const usedAt = this.#usedAt[slot]!;
    if (usedAt === 0) return true;
    const waited = ageOf(usedAt, this.#now);
    const seenAt = this.#sightings.timeOf(this.#hash);
    if (seenAt > 0) return ageOf(seenAt, this.#now) * MIN_GAIN < waited;
    return waited > this.#sightings.entries && ++this.#unknown % ADMIT_EVERY === 0;
  }

  #put(slot: number): void {
    const bucket = this.#hash >>> this.#shift;
    this.#pages[slot] = this.#page;
    this.#blocks[slot] = this.#block;
    this.#usedAt[slot] = this.#isFirst ? 0 : this.#now;
    this.#chain[slot] = this.#buckets[bucket]!;
    this.#buckets[bucket] = slot;
  }

  #remove(slot: number): void {
    const hash = hashOf(this.#blocks[slot]!, this.#pages[slot]!);
    const usedAt = this.#usedAt[slot]!;
    if (usedAt > 0) this.#sightings.put(hash, usedAt, this.#now);
    const bucket = hash >>> this.#shift;
    if (this.#buckets[bucket] === slot) {
      this.#buckets[bucket] = this.#chain[slot]!;
      return;
    }
    let before = this.#buckets[bucket]!;
    while (this.#chain[before] !== slot) before = this.#chain[before]!;
    this.#chain[before] = this.#chain[slot]!;
  }
}

/** All of its bits depend on all of those of the page (the finalizer of MurmurHash3). */
function hashOf(block: number, page: number): number {
  let hash = page ^ Math.imul(block + 1, 0x9e3779b1);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}
