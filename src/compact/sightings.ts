/** Entries that a hash may stand in. */
const WAYS = 4;

/**
 * When pages were last seen: a table of fixed size from their hashes to times, 8 bytes each. It forgets the oldest where it is
 * full, and may take one page for another where their hashes are equal.
 */
export class Sightings {
  readonly #hashes: Uint32Array;
  readonly #times: Uint32Array;
  readonly #shift: number;

  /** @param entries at least; a power of two is made of it */
  constructor(entries: number) {
    const bits = Math.max(3, Math.ceil(Math.log2(entries)));
    this.#hashes = new Uint32Array(2 ** bits);
    this.#times = new Uint32Array(2 ** bits);
    this.#shift = 32 - (bits - Math.log2(WAYS));
  }

  /** How many it holds. */
  get entries(): number {
    return this.#times.length;
  }

  /** When the page was last put in; 0 for one that is not known. */
  timeOf(hash: number): number {
    const set = (hash >>> this.#shift) * WAYS;
    for (let at = set; at < set + WAYS; at++) if (this.#hashes[at] === hash) return this.#times[at]!;
    return 0;
  }

  /** @param time not 0, and `now` or before; times may wrap around 2^32 */
  put(hash: number, time: number, now: number): void {
    const set = (hash >>> this.#shift) * WAYS;
    let to = set;
    for (let at = set; at < set + WAYS; at++) {
      if (this.#hashes[at] === hash || this.#times[at] === 0) {
        to = at;
        break;
      }
      if (ageOf(this.#times[at]!, now) > ageOf(this.#times[to]!, now)) to = at;
    }
    this.#hashes[to] = hash;
    this.#times[to] = time;
  }
}

/** From `time` to `now`, both modulo 2^32. */
export function ageOf(time: number, now: number): number {
  return (now - time) >>> 0;
}
