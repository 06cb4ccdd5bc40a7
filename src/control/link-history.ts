/** How the link's speed changes: dips from which it comes back, and what it may do in the next seconds. */
import type { Estimate } from "./downtime.ts";

/** Below this share of its level the link is in a dip; above that many times of it, the level has risen. */
export const DIP_SHARE = 0.7;
const RISE = 1.3;
/** The level follows smaller changes within about so long: a measured goodput goes up and down by itself. */
const FOLLOW_MS = 2000;
/** A dip is over by then, if none was seen before; or else in so many times the longest that was seen. */
const FIRST_DIP_MS = 3000;
const DIP_TIMES = 3;
const MOST_DIP_MS = 60_000;
/** Stretches that are kept; beyond, two neighbours become one. One whose speed differs by less from the last one's is a part of it. */
const MAX_STRETCHES = 256;
const SAME_SHARE = 0.1;
/** Moments of the past from which is tried how long the sending would have taken. */
const MAX_STARTS = 64;

interface Stretch {
  ms: number;
  bytesPerMs: number;
}

/** The link's speed so far, in stretches. */
export class LinkHistory {
  #stretches: Stretch[] = [];
  #levelBytesPerMs = 0;
  /** How long the link has been below its level. */
  #dipMs = 0;
  #longestDipMs = 0;
  /** What was the level before the link became slow for good, as it looked. */
  #formerBytesPerMs = 0;
  #sinceFormerMs = 0;

  /** For `ms` the link was so fast; 0 where it stood still. */
  add(ms: number, bytesPerSecond: number): void {
    if (ms <= 0) return;
    const bytesPerMs = bytesPerSecond / 1000;
    this.#keep(ms, bytesPerMs);
    // A link that stands still says nothing of its level.
    if (bytesPerMs > 0) this.#follow(ms, bytesPerMs);
  }

  /** As fast as the link is, or in a dip as fast as it is expected to be again; 0 until something was seen. */
  get levelBytesPerSecond(): number {
    return this.#levelBytesPerMs * 1000;
  }

  /** The link is slower than it was, and is expected to come back. */
  get isDip(): boolean {
    return this.#dipMs > 0;
  }

  /**
   * How long `bytes` take, if the link goes on as it did after moments at which it was as fast as now: the median, and what nine
   * of ten are between.
   *
   * @param nowBytesPerSecond its speed now
   */
  sendMs(bytes: number, nowBytesPerSecond: number): Estimate {
    const now = nowBytesPerSecond / 1000;
    const flat = bytes / Math.max(now, 1e-3);
    if (this.#stretches.length < 2 || bytes <= 0 || now <= 0) return { expected: flat, low: flat, high: flat };
    const spanMs = this.#stretches.reduce((sum, { ms }) => sum + ms, 0);
    const spanBytes = this.#stretches.reduce((sum, { ms, bytesPerMs }) => sum + ms * bytesPerMs, 0);
    const spans = Math.floor(bytes / spanBytes);
    const stepMs = spanMs / MAX_STARTS;
    const times: number[] = [];
    this.#stretches.forEach(({ ms, bytesPerMs }, index) => {
      if (bytesPerMs < now * DIP_SHARE || bytesPerMs * DIP_SHARE > now) return;
      const starts = Math.max(1, Math.round(ms / stepMs));
      for (let i = 0; i < starts; i++) {
        times.push(spans * spanMs + this.#sendFrom(index, ((i + 0.5) * ms) / starts, bytes - spans * spanBytes));
      }
    });
    if (times.length === 0) return { expected: flat, low: flat, high: flat };
    times.sort((a, b) => a - b);
    const at = (share: number) => times[Math.min(times.length - 1, Math.floor(share * times.length))]!;
    return { expected: at(0.5), low: at(0.05), high: at(0.95) };
  }

  #keep(ms: number, bytesPerMs: number): void {
    const last = this.#stretches.at(-1);
    if (last !== undefined && Math.abs(bytesPerMs - last.bytesPerMs) <= SAME_SHARE * last.bytesPerMs) {
      this.#stretches[this.#stretches.length - 1] = merged(last, { ms, bytesPerMs });
      return;
    }
    this.#stretches.push({ ms, bytesPerMs });
    if (this.#stretches.length <= MAX_STRETCHES) return;
    const all = this.#stretches;
    this.#stretches = [];
    for (let i = 0; i < all.length; i += 2) this.#stretches.push(merged(all[i]!, all[i + 1]));
  }

  #follow(ms: number, bytesPerMs: number): void {
    const level = this.#levelBytesPerMs;
    if (level === 0 || bytesPerMs > level * RISE) {
      // Back at what it was before: what looked like another link was a long dip.
      if (bytesPerMs >= this.#formerBytesPerMs * DIP_SHARE && this.#formerBytesPerMs > 0) {
        this.#longestDipMs = Math.max(this.#longestDipMs, this.#sinceFormerMs);
        this.#formerBytesPerMs = 0;
      }
      this.#levelBytesPerMs = bytesPerMs;
      this.#dipMs = 0;
      return;
    }
    this.#sinceFormerMs += ms;
    if (bytesPerMs >= level * DIP_SHARE) {
      this.#longestDipMs = Math.max(this.#longestDipMs, this.#dipMs);
      this.#dipMs = 0;
      this.#levelBytesPerMs += (bytesPerMs - level) * -Math.expm1(-ms / FOLLOW_MS);
      return;
    }
    this.#dipMs += ms;
    const mostMs = this.#longestDipMs > 0 ? DIP_TIMES * this.#longestDipMs : FIRST_DIP_MS;
    if (this.#dipMs <= Math.min(mostMs, MOST_DIP_MS)) return;
    // It has not come back: another link. What it did before says nothing of what it will do.
    this.#formerBytesPerMs = level;
    this.#sinceFormerMs = this.#dipMs;
    this.#levelBytesPerMs = bytesPerMs;
    this.#dipMs = 0;
    this.#stretches = this.#stretches.slice(-1);
  }

  /** From a moment within a stretch; after the last one it all happens again. */
  #sendFrom(index: number, offsetMs: number, bytes: number): number {
    let left = bytes;
    let tookMs = 0;
    let skipMs = offsetMs;
    for (let i = index; ; i = (i + 1) % this.#stretches.length) {
      const { ms, bytesPerMs } = this.#stretches[i]!;
      const wholeMs = ms - skipMs;
      skipMs = 0;
      if (left <= bytesPerMs * wholeMs) return tookMs + left / bytesPerMs;
      left -= bytesPerMs * wholeMs;
      tookMs += wholeMs;
    }
  }
}

function merged(first: Stretch, second: Stretch = { ms: 0, bytesPerMs: 0 }): Stretch {
  const ms = first.ms + second.ms;
  return { ms, bytesPerMs: (first.ms * first.bytesPerMs + second.ms * second.bytesPerMs) / ms };
}
