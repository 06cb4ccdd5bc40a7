/** A burst that is let through at once: at 1 Gbit/s 4 ms. */
const BURST_BYTES = 512 * 1024;
/** How long after the rate has last held something back it counts as the bottleneck. */
const FRESH_MS = 1000;

/** Holds what is sent to a rate, by saying how long to wait. Pure: time is passed in, in milliseconds. */
export class Pacer {
  readonly #bytesPerMs: number;
  /** Bytes sent above the rate so far, less what time has allowed since. */
  #debtBytes = 0;
  #atMs: number | undefined;
  #heldBackAtMs = Number.NEGATIVE_INFINITY;
  /** While true there is no limit; what is sent meanwhile counts all the same. */
  isLifted = false;

  /** @param bytesPerSecond undefined: no limit. */
  constructor(bytesPerSecond: number | undefined) {
    this.#bytesPerMs = (bytesPerSecond ?? Number.POSITIVE_INFINITY) / 1000;
  }

  sent(bytes: number, nowMs: number): void {
    if (this.#bytesPerMs === Number.POSITIVE_INFINITY) return;
    this.#pay(nowMs);
    this.#debtBytes += bytes;
  }

  /** How long nothing should be sent; 0 or less: now is fine. */
  waitMs(nowMs: number): number {
    if (this.#bytesPerMs === Number.POSITIVE_INFINITY) return 0;
    this.#pay(nowMs);
    const waitMs = this.isLifted ? 0 : (this.#debtBytes - BURST_BYTES) / this.#bytesPerMs;
    if (waitMs > 0) this.#heldBackAtMs = nowMs;
    return waitMs;
  }

  /** The rate while it is what holds sending back, else infinite; in bytes per second. */
  limitingBytesPerSecond(nowMs: number): number {
    return nowMs - this.#heldBackAtMs < FRESH_MS ? this.#bytesPerMs * 1000 : Number.POSITIVE_INFINITY;
  }

  #pay(nowMs: number): void {
    this.#debtBytes = Math.max(0, this.#debtBytes - (nowMs - (this.#atMs ?? nowMs)) * this.#bytesPerMs);
    this.#atMs = nowMs;
  }
}
