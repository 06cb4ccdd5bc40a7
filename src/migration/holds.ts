/** What the source QEMU is held back by. */
export type Hold = "link" | "packing" | "restoring" | "other";
const HOLDS = ["link", "packing", "restoring", "other"] as const;

/** How long the source QEMU was held back, and by what. Pure: time is passed in, in milliseconds. */
export class Holds {
  readonly #ms: Record<Hold, number> = { link: 0, packing: 0, restoring: 0, other: 0 };
  #restoringMs = 0;
  #by: Hold | undefined;
  #sinceMs = 0;
  #takenAtMs: number | undefined;

  /** It is held back from now on by `by`; undefined: it is not. */
  set(by: Hold | undefined, nowMs: number): void {
    if (this.#by !== undefined) this.#ms[this.#by] += nowMs - this.#sinceMs;
    if (this.#by === "restoring") this.#restoringMs += nowMs - this.#sinceMs;
    this.#by = by;
    this.#sinceMs = nowMs;
  }

  /** For how long in all the destination was waited for. */
  restoringMs(nowMs: number): number {
    this.set(this.#by, nowMs);
    return this.#restoringMs;
  }

  /** The shares of the time since they were taken last. */
  take(nowMs: number): { linkShare: number; packingShare: number } {
    this.set(this.#by, nowMs);
    const ms = Math.max(nowMs - (this.#takenAtMs ?? nowMs), 1);
    const shares = { linkShare: this.#ms.link / ms, packingShare: this.#ms.packing / ms };
    this.#takenAtMs = nowMs;
    for (const by of HOLDS) this.#ms[by] = 0;
    return shares;
  }
}
