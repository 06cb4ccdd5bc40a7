import { setTimeout as delay } from "node:timers/promises";
import { GodwitError } from "../errors.ts";
import type { QmpEvents } from "../qemu/commands.ts";

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

/** The destination has given up: it never ran the VM, and never will. */
export class PeerAborted extends GodwitError {
  constructor(code: string, message: string) {
    super("PEER_ABORTED", `the destination gave up: ${message}`, { code });
  }
}

/** The destination does not begin with it. */
export class PeerRefused extends GodwitError {
  constructor(code: string, message: string, details: Record<string, unknown> = {}) {
    super("PEER_REFUSED", `the destination refuses: ${message}`, { ...details, code });
  }
}

/** The source QEMU has ended. @param shutdown what it said before, if it did */
export function sourceGone(cause: GodwitError, shutdown?: QmpEvents["SHUTDOWN"]): GodwitError {
  let message = `the source QEMU is gone: ${cause.message}`;
  if (shutdown !== undefined) message = `the source QEMU was ended (${shutdown.reason})`;
  if (shutdown?.guest) message = `the guest has shut itself down (${shutdown.reason}), and its QEMU has ended`;
  return new GodwitError("MIGRATION_SOURCE_GONE", message, {}, { cause });
}

/** Waits for `promise` for `ms` at most. @throws GodwitError MIGRATION_TIMEOUT: `what` within so many seconds */
export async function withTimeout<T>(promise: Promise<T>, ms: number, what: string): Promise<T> {
  const timer = new AbortController();
  try {
    const late = delay(ms, undefined, { signal: timer.signal }).then(() => {
      throw new GodwitError("MIGRATION_TIMEOUT", `${what} within ${ms / 1000} s`);
    });
    late.catch(() => {});
    return await Promise.race([promise, late]);
  } finally {
    timer.abort();
  }
}
