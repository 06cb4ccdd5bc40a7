import type { MigrationProgress } from "../qemu/migrate.ts";
import { PAGE_BYTES } from "../stream/format.ts";
import type { EventListener, Pages } from "./events.ts";

/** Rates are over the last stretch of this length. */
const RATE_MS = 1000;

/** What the meter reads. */
export interface Counters {
  /** The stream's pages by form, and the raw bytes. */
  sender: {
    rawBytes: number;
    counts: Pages;
  };
  /** The wire. */
  peer: { wireBytes: number };
}

interface Sample {
  atMs: number;
  pages: number;
  rawBytes: number;
  wireBytes: number;
}

/** Turns the counters of a migration into `round` and `progress` events. */
export class ProgressMeter {
  readonly #counters: Counters;
  readonly #totalBytes: number;
  readonly #onEvent: EventListener;
  readonly #start: Sample;
  readonly #samples: Sample[] = [];
  #syncs = 0;
  #roundStart: Sample;
  /** The last round that has ended and is not reported yet. */
  #ended: { round: number; ms: number; pages: number; rawBytes: number; wireBytes: number } | undefined;
  #wwsBytes: number | null = null;
  #isFirstReport = false;

  constructor(counters: Counters, totalBytes: number, onEvent: EventListener) {
    this.#counters = counters;
    this.#totalBytes = totalBytes;
    this.#onEvent = onEvent;
    this.#start = this.#sample();
    this.#roundStart = this.#start;
  }

  /** Rounds begun so far, the bulk round included. */
  get rounds(): number {
    return this.#syncs;
  }

  /** QEMU has looked for dirty pages (MIGRATION_PASS): a round ends, another begins. */
  onSync(): void {
    const now = this.#sample();
    this.#flushRound(null);
    if (this.#syncs > 0) {
      this.#ended = {
        round: this.#syncs - 1,
        ms: now.atMs - this.#roundStart.atMs,
        pages: now.pages - this.#roundStart.pages,
        rawBytes: now.rawBytes - this.#roundStart.rawBytes,
        wireBytes: now.wireBytes - this.#roundStart.wireBytes,
      };
      this.#isFirstReport = true;
    }
    this.#syncs++;
    this.#roundStart = now;
  }

  /** QEMU's view: reports the round that has ended, if one has, and the progress. */
  report(qemu: MigrationProgress): void {
    const now = this.#sample();
    this.#samples.push(now);
    while (this.#samples.length > 2 && now.atMs - this.#samples[1]!.atMs > RATE_MS) this.#samples.shift();
    if (this.#isFirstReport) this.#wwsBytes = qemu.ramRemainingBytes;
    this.#isFirstReport = false;
    this.#flushRound(qemu.ramRemainingBytes);
    const before = this.#samples[0] === now ? this.#start : this.#samples[0]!;
    const seconds = Math.max(now.atMs - before.atMs, 1) / 1000;
    const effectiveBytesPerSecond = ((now.pages - before.pages) * PAGE_BYTES) / seconds;
    const dirtyBytesPerSecond = qemu.dirtyPagesRatePagesPerSecond * PAGE_BYTES;
    const gainBytesPerSecond = effectiveBytesPerSecond - dirtyBytesPerSecond;
    this.#onEvent({
      event: "progress",
      elapsedMs: now.atMs - this.#start.atMs,
      round: Math.max(0, this.#syncs - 1),
      pages: pagesOf(this.#counters.sender.counts),
      rawBytes: now.rawBytes,
      wireBytes: now.wireBytes,
      remainingBytes: qemu.ramRemainingBytes,
      totalBytes: qemu.ramTotalBytes || this.#totalBytes,
      linkBytesPerSecond: (now.wireBytes - before.wireBytes) / seconds,
      effectiveBytesPerSecond,
      wwsBytes: this.#wwsBytes,
      dirtyRatePagesPerSecond: qemu.dirtyPagesRatePagesPerSecond,
      expectedEndMs: gainBytesPerSecond > 0 ? (qemu.ramRemainingBytes / gainBytesPerSecond) * 1000 : null,
    });
  }

  /** @param remainingBytes what the round's end has left; null where QEMU did not answer in between */
  #flushRound(remainingBytes: number | null): void {
    if (this.#ended === undefined) return;
    this.#onEvent({ event: "round", ...this.#ended, remainingBytes });
    this.#ended = undefined;
  }

  #sample(): Sample {
    const { rawBytes, counts } = this.#counters.sender;
    return { atMs: performance.now(), pages: pagesSent(counts), rawBytes, wireBytes: this.#counters.peer.wireBytes };
  }
}

/** The pages of `counts`, without what else it counts. */
export function pagesOf(counts: Readonly<Pages>): Pages {
  const { zeroPages, diskPages, checkpointPages, samePages, deltaPages, literalPages, blankPages, rawPages } = counts;
  return { zeroPages, diskPages, checkpointPages, samePages, deltaPages, literalPages, blankPages, rawPages };
}

/** All of them, in whatever form. */
export function pagesSent(pages: Readonly<Pages>): number {
  return Object.values(pagesOf(pages)).reduce((sum, count) => sum + count, 0);
}
