/**
 * QEMU's downtime-limit to begin with. QEMU switches over as soon as what is left would fit into the limit, so with its
 * own default of 300 ms it stops an idle guest with most of its memory still to be sent. With this, it goes on while rounds get
 * shorter; below it, a round trip and the load of the device state count for more than the pages.
 */
export const FIRST_LIMIT_MS = 30;
/** A round that leaves more than this share of what the one before left has not brought the end nearer. */
const SHRINKING = 0.8;

/** What the rule has decided; `reason` is one plain sentence. */
export interface LimitDecision {
  limitMs: number;
  reason: string;
}

/**
 * Chooses QEMU's downtime-limit: low while rounds shrink, then what QEMU was set to. Pure: it knows what it is told at
 * each sync.
 */
export class SwitchoverLimit {
  readonly #ceilingMs: number;
  #limitMs: number;
  #remainingBytes = Number.POSITIVE_INFINITY;

  /** @param ceilingMs the downtime-limit that QEMU had before the migration. */
  constructor(ceilingMs: number) {
    this.#ceilingMs = ceilingMs;
    this.#limitMs = Math.min(FIRST_LIMIT_MS, ceilingMs);
  }

  get limitMs(): number {
    return this.#limitMs;
  }

  /**
   * A round has ended and left `remainingBytes` to send.
   *
   * @returns a new limit, or undefined to leave it as it is
   */
  onRound(remainingBytes: number): LimitDecision | undefined {
    const isShrinking = remainingBytes <= this.#remainingBytes * SHRINKING;
    const beforeMiB = mebibytes(this.#remainingBytes);
    this.#remainingBytes = remainingBytes;
    if (isShrinking || this.#limitMs === this.#ceilingMs) return undefined;
    this.#limitMs = this.#ceilingMs;
    const left = `${mebibytes(remainingBytes)} MiB were left after ${beforeMiB} MiB`;
    return { limitMs: this.#limitMs, reason: `rounds stopped shrinking: ${left}` };
  }
}

function mebibytes(bytes: number): string {
  return (bytes / 2 ** 20).toFixed(1);
}
