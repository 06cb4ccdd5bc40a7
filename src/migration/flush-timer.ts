/** How long bytes wait for more before they are sent as a batch that is not full. */
const FLUSH_MS = 1;
/** And for how long they may wait while what went before them has not left: fewer and larger batches pack better. */
const PATIENT_FLUSH_MS = 8;
/** How long bytes that the parser holds back wait for the rest of their record before they go out as they are. */
const AHEAD_MS = 20;

export interface FlushTimerOptions {
  /** Whether what went before has not left. */
  readonly isWaiting: () => boolean;
  /** Sends the open batch. */
  readonly flush: () => void;
  /** Sends all that was read, also what the parser holds back. */
  readonly flushAll: () => void;
  /** Time in milliseconds. */
  readonly now: () => number;
}

/** Sends what was read when the source QEMU pauses. */
export class FlushTimer {
  readonly #options: FlushTimerOptions;
  #openTimer: NodeJS.Timeout | undefined;
  #heldTimer: NodeJS.Timeout | undefined;

  constructor(options: FlushTimerOptions) {
    this.#options = options;
  }

  /** More was read: what the parser held back may be whole. */
  onRead(): void {
    clearTimeout(this.#heldTimer);
    this.#heldTimer = undefined;
  }

  /** The source QEMU pauses. @param isHeld whether the parser holds bytes back */
  onPause(isHeld: boolean): void {
    const { now, flushAll } = this.#options;
    this.#openTimer ??= setTimeout(() => this.#flush(now()), FLUSH_MS);
    if (isHeld) this.#heldTimer ??= setTimeout(flushAll, AHEAD_MS);
  }

  stop(): void {
    for (const timer of [this.#openTimer, this.#heldTimer]) clearTimeout(timer);
  }

  #flush(sinceMs: number): void {
    const { isWaiting, flush, now } = this.#options;
    if (isWaiting() && now() - sinceMs < PATIENT_FLUSH_MS) {
      this.#openTimer = setTimeout(() => this.#flush(sinceMs), FLUSH_MS);
      return;
    }
    this.#openTimer = undefined;
    flush();
  }
}
