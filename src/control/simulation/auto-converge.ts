/** DEFAULT_MIGRATE_CPU_THROTTLE_INITIAL, _INCREMENT, _MAX and _THROTTLE_TRIGGER_THRESHOLD (migration/options.c). */
const INITIAL_PERCENT = 20;
const INCREMENT_PERCENT = 10;
const MAX_PERCENT = 99;
const TRIGGER_SHARE = 0.5;
/** Periods with too much dirtied before the throttle is raised (migration_trigger_throttle, migration/ram.c). */
const TRIGGER_PERIODS = 2;

/** QEMU's capability auto-converge: throttles a guest that dirties memory faster than half of what is sent. */
export class AutoConverge {
  #percent = 0;
  #periods = 0;
  #rawBytes = 0;

  /**
   * A period of a second or more has ended with a sync.
   *
   * @param rawBytes sent since the start
   * @returns a new throttle in percent, or undefined
   */
  onPeriod(rawBytes: number, dirtiedBytes: number): number | undefined {
    const sentBytes = rawBytes - this.#rawBytes;
    this.#rawBytes = rawBytes;
    if (dirtiedBytes <= sentBytes * TRIGGER_SHARE) return undefined;
    this.#periods++;
    if (this.#periods < TRIGGER_PERIODS) return undefined;
    this.#periods = 0;
    if (this.#percent === MAX_PERCENT) return undefined;
    this.#percent = this.#percent === 0 ? INITIAL_PERCENT : Math.min(MAX_PERCENT, this.#percent + INCREMENT_PERCENT);
    return this.#percent;
  }
}
