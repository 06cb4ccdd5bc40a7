/** What the source QEMU is held back by. */
export type Hold = "link" | "packing" | "other";

/** How long the source QEMU was held back, and by what. Pure: time is passed in, in milliseconds. */
export class Holds {
  readonly #ms: Record<Hold, number> = { link: 0, packing: 0, other: 0 };
  #by: Hold | undefined;
  #sinceMs = 0;
  #takenAtMs: number | undefined;

  /** It is held back from now on by `by`; undefined: it is not. */
  set(by: Hold | undefined, nowMs: number): void {
    if (this.#by !== undefined) this.#ms[this.#by] += nowMs - this.#sinceMs;
    this.#by = by;
    this.#sinceMs = nowMs;
  }

  /** The shares of the time since they were taken last. */
  take(nowMs: number): { linkShare: number; packingShare: number } {
    this.set(this.#by, nowMs);
    const ms = Math.max(nowMs - (this.#takenAtMs ?? nowMs), 1);
    const shares = { linkShare: this.#ms.link / ms, packingShare: this.#ms.packing / ms };
    this.#takenAtMs = nowMs;
    for (const by of ["link", "packing", "other"] as const) this.#ms[by] = 0;
    return shares;
  }
}
