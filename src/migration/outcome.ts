import { GodwitError } from "../errors.ts";

/** Why a migration was ended from outside. */
export class Cancelled extends GodwitError {
  constructor(reason: string) {
    super("MIGRATION_CANCELLED", reason);
  }
}

/**
 * Rejects as soon as anything in the background goes wrong, so that whoever waits for one step notices whatever makes it
 * impossible. Only the first failure counts.
 */
export class Failure {
  readonly #failed = Promise.withResolvers<never>();
  readonly #abort = new AbortController();

  constructor() {
    this.#failed.promise.catch(() => {});
  }

  /** Aborted with the reason at the first failure. */
  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  report(error: unknown): void {
    this.#failed.reject(error);
    this.#abort.abort(error);
  }

  /** Waits for `step`, or rejects with the failure. */
  async or<T>(step: Promise<T>): Promise<T> {
    step.catch(() => {});
    this.#abort.signal.throwIfAborted();
    return Promise.race([step, this.#failed.promise]);
  }
}
