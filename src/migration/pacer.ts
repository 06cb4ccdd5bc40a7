/** A burst that is let through at once: at 1 Gbit/s 4 ms. */
const BURST_BYTES = 512 * 1024;

/** Holds what is sent to a rate, by saying how long to wait. Pure: time is passed in, in milliseconds. */
export class Pacer {
  #bytesPerMs: number;
  /** Bytes sent above the rate so far, less what time has allowed since. */
  #debtBytes = 0;
  #atMs: number | undefined;

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
    return (this.#debtBytes - BURST_BYTES) / this.#bytesPerMs;
  }

  /** No limit from here on. */
  lift(): void {
    this.#bytesPerMs = Number.POSITIVE_INFINITY;
  }

  #pay(nowMs: number): void {
    this.#debtBytes = Math.max(0, this.#debtBytes - (nowMs - (this.#atMs ?? nowMs)) * this.#bytesPerMs);
    this.#atMs = nowMs;
  }
}
