// The sender's rule of the page cache, without pages.
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { NO_SLOT, PageCache } from "../../src/compact/page-cache.ts";
import { Sightings } from "../../src/compact/sightings.ts";

const SLOTS = 1000;

/** A cache as the encoder uses one; every version found is of use unless `isUseless` says otherwise. */
class Guest {
  readonly cache: PageCache;
  readonly block: number;
  readonly isUseless: (page: number) => boolean;

  constructor(slots = SLOTS, isUseless = (_page: number) => false) {
    this.cache = new PageCache(slots);
    this.block = this.cache.blockNumber("pc.ram")!;
    this.isUseless = isUseless;
  }

  /** Sends a page; says whether an older version of it was there and of use. */
  send(page: number): boolean {
    const slot = this.cache.find(this.block, page);
    if (slot === NO_SLOT) {
      this.cache.admit();
      return false;
    }
    if (this.isUseless(page)) {
      this.cache.useless(slot);
      return false;
    }
    this.cache.used(slot);
    return true;
  }

  /** The share of these pages that were found. */
  round(pages: Iterable<number>): number {
    let sent = 0;
    let found = 0;
    for (const page of pages) {
      sent++;
      if (this.send(page)) found++;
    }
    return found / sent;
  }
}

/** What least recently used makes of the same pages. */
class LeastRecentlyUsed {
  readonly #pages = new Set<number>();

  round(pages: Iterable<number>): number {
    let sent = 0;
    let found = 0;
    for (const page of pages) {
      sent++;
      if (this.#pages.delete(page)) found++;
      this.#pages.add(page);
      if (this.#pages.size > SLOTS) this.#pages.delete(this.#pages.values().next().value!);
    }
    return found / sent;
  }
}

const range = (from: number, count: number): number[] => Array.from({ length: count }, (_, i) => from + i);

/** Pages in an order that is another one each time but mostly rising, as a bitmap is sent that the guest writes to meanwhile. */
function jittered(from: number, count: number, seed: number): number[] {
  let state = seed * 2 + 1;
  const random = () => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return state / 2 ** 32;
  };
  return range(from, count)
    .map((page) => ({ page, at: page + random() * count * 0.2 }))
    .sort((a, b) => a.at - b.at)
    .map(({ page }) => page);
}

describe("a guest that writes in a cycle", () => {
  test.each([1.25, 2, 4])("of %f times the cache: as much is found as can be", (ratio) => {
    const pages = range(0, SLOTS * ratio);
    const guest = new Guest();
    const lru = new LeastRecentlyUsed();
    guest.round(pages);
    lru.round(pages);
    for (let round = 1; round < 12; round++) {
      expect(guest.round(pages), `round ${round}`).toBeGreaterThanOrEqual(0.8 / ratio);
      expect(lru.round(pages)).toBe(0);
    }
  });

  test.each([1.25, 2, 4])("of %f times the cache, in a large memory that was sent before", (ratio) => {
    const guest = new Guest();
    guest.round(range(0, 50 * SLOTS));
    const pages = range(30 * SLOTS, SLOTS * ratio);
    guest.round(pages);
    for (let round = 2; round < 12; round++) expect(guest.round(pages)).toBeGreaterThanOrEqual(0.8 / ratio);
  });

  test.each([1.25, 2, 4])("of %f times the cache, in an order that is never quite the same", (ratio) => {
    const guest = new Guest();
    guest.round(range(0, SLOTS * ratio));
    let found = 0;
    for (let round = 1; round <= 20; round++) found += guest.round(jittered(0, SLOTS * ratio, round));
    expect(found / 20).toBeGreaterThanOrEqual(0.8 / ratio);
  });

  test("of eight times the cache, more than is remembered", () => {
    const guest = new Guest();
    guest.round(range(0, 8 * SLOTS));
    let found = 0;
    for (let round = 1; round <= 20; round++) found += guest.round(range(0, 8 * SLOTS));
    expect(found / 20).toBeGreaterThanOrEqual(0.8 / 8);
  });

  test("in several ramblocks", () => {
    const guest = new Guest();
    const other = guest.cache.blockNumber("vga.vram")!;
    expect(guest.cache.blockNumber("pc.ram")).toBe(guest.block);
    guest.round(range(0, 500));
    expect([guest.cache.find(other, 7), guest.cache.find(other, 7)]).toEqual([NO_SLOT, NO_SLOT]);
    const slot = guest.cache.admit();
    expect([guest.cache.find(other, 7), guest.cache.find(guest.block, 7)]).toEqual([slot, 7]);
  });
});

describe("a change of phase", () => {
  test.each([
    ["to a part of memory that fits", 0.8, 0.99],
    ["to a larger cycle", 3, 0.8 / 3],
    ["to a cycle larger than what is remembered", 7, 0.3 / 7],
  ])("%s: found after some rounds", (_name, ratio, expected) => {
    const guest = new Guest();
    guest.round(range(0, 20 * SLOTS));
    for (let round = 0; round < 10; round++) guest.round(range(0, 2 * SLOTS));
    const pages = range(10 * SLOTS, ratio * SLOTS);
    for (let round = 0; round < 4; round++) guest.round(pages);
    expect(guest.round(pages)).toBeGreaterThanOrEqual(expected);
  });

  test("pages of no use make way for those that are", () => {
    const guest = new Guest(SLOTS, (page) => page < 2 * SLOTS);
    const pages = [...range(0, 2 * SLOTS), ...range(2 * SLOTS, SLOTS / 2)];
    for (let round = 0; round < 5; round++) guest.round(pages);
    expect(guest.round(range(2 * SLOTS, SLOTS / 2))).toBe(1);
  });
});

test("a page stands in one slot, and a slot holds one page, whatever is sent", () => {
  const steps = fc.array(fc.tuple(fc.nat(2), fc.nat(30), fc.constantFrom("used", "useless")), { maxLength: 300 });
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 8 }), steps, (slots, steps) => {
      const cache = new PageCache(slots);
      const held = new Map<number, string>();
      for (const [block, page, use] of steps) {
        const number = cache.blockNumber(String(block))!;
        const slot = cache.find(number, page);
        const name = `${block} ${page}`;
        const expected = [...held].find(([, other]) => other === name)?.[0] ?? NO_SLOT;
        expect(slot).toBe(expected);
        if (slot !== NO_SLOT) {
          cache[use as "used"](slot);
          continue;
        }
        const taken = cache.admit();
        if (taken === NO_SLOT) continue;
        expect(taken).toBeLessThan(slots);
        held.set(taken, name);
      }
    }),
    { numRuns: 300 },
  );
});

test("what does not fit into the tables is not cached", () => {
  const cache = new PageCache(4);
  const block = cache.blockNumber("pc.ram")!;
  for (const page of [2 ** 32, 2 ** 49, 2 ** 32]) {
    expect(cache.find(block, page)).toBe(NO_SLOT);
    expect(cache.admit()).toBe(NO_SLOT);
  }
  for (let i = 1; i < 2 ** 16; i++) cache.blockNumber(String(i));
  expect(cache.blockNumber("one more")).toBeUndefined();
  expect(cache.blockNumber("7")).toBe(7);
});

test("sightings: the newest of those that fall together are remembered, around the wrap of time too", () => {
  const sightings = new Sightings(8);
  const wrap = 2 ** 32 - 3;
  for (let i = 0; i < 6; i++) sightings.put(i, (wrap + i) >>> 0 || 1, (wrap + i) >>> 0 || 1);
  expect(range(0, 6).map((hash) => sightings.timeOf(hash) > 0)).toEqual([false, false, true, true, true, true]);
  sightings.put(3, 9, 9);
  expect(sightings.timeOf(3)).toBe(9);
});
