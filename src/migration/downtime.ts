import type { DowntimeParts } from "./events.ts";

/**
 * When an event of QEMU came about, of performance.now. QEMU's own time stamp counts, as the event may have waited in our event loop,
 * unless it can't be right because the system's clock was set.
 */
export function momentOf({ timestampMs, receivedMs }: { timestampMs: number; receivedMs: number }): number {
  const stampMs = timestampMs - performance.timeOrigin;
  return stampMs <= receivedMs && stampMs > receivedMs - 1000 ? stampMs : receivedMs;
}

/** Measures the downtime at the source, by its parts (docs/commands.md). Times are of performance.now. */
export class Downtime {
  #stoppedMs: number | undefined;
  #loadedMs: number | undefined;
  #lastReadMs = 0;
  #loadMs = 0;
  #parts: DowntimeParts | null = null;

  /** The guest was stopped. */
  stopped(event: { timestampMs: number; receivedMs: number }): void {
    this.#stoppedMs = momentOf(event);
  }

  /** LOADED arrived; it took the destination QEMU `loadMs` after its last byte. */
  loaded(loadMs: number, lastReadMs: number): void {
    this.#loadedMs = performance.now();
    this.#loadMs = loadMs;
    this.#lastReadMs = lastReadMs;
  }

  /** RUNNING arrived; it took the destination `resumeMs` from COMMIT on. */
  running(resumeMs: number, roundTripMs: number): void {
    if (this.#stoppedMs === undefined || this.#loadedMs === undefined) return;
    const halfMs = roundTripMs / 2;
    this.#parts = {
      // Where QMP tells of the stop only after the last byte, that was no later.
      residualMs: Math.max(0, this.#lastReadMs - this.#stoppedMs),
      transferMs: Math.max(0, this.#loadedMs - halfMs - this.#loadMs - this.#lastReadMs),
      loadMs: this.#loadMs,
      handoffMs: Math.max(0, performance.now() - this.#loadedMs - resumeMs),
      resumeMs,
    };
  }

  /** Null unless the guest was stopped and runs again. */
  get parts(): DowntimeParts | null {
    return this.#parts;
  }
}
