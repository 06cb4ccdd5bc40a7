import { PAGE_BYTES, type RoundSample, type TickSample } from "../control/samples.ts";
import type { MigrationProgress } from "../qemu/migrate.ts";
import type { SentPages } from "../stream/sent-pages.ts";
import type { Codec } from "../wire/messages.ts";
import { formCosts, packedShare, type Traffic } from "./form-costs.ts";
import type { CodecCounts } from "./outgoing.ts";
import { pagesSent } from "./progress.ts";

/** The destination is what is waited for where it was for more than this share of a round. */
const RESTORING_SHARE = 0.5;

/** What is sampled beside QEMU. */
export interface Sampled {
  readonly sender: Pick<Traffic, "counts" | "nackedPages" | "tokenBytes"> & {
    readonly bodies: Readonly<Record<Codec, CodecCounts>>;
    readonly restoring: { readonly bytesPerSecond: number; readonly heldMs: number };
  };
  readonly sentPages: Pick<SentPages, "distinctPages" | "redirtiedPages" | "nextRound">;
  readonly peer: {
    readonly wireBytes: number;
    readonly backlog: { readonly goodputBytesPerSecond: number; readonly minRttMs: number | undefined };
  };
}

/** Where all counters stood at a moment. */
interface Mark extends Traffic {
  readonly atMs: number;
  readonly pages: number;
  readonly distinctPages: number;
  readonly redirtiedPages: number;
  readonly wireBytes: number;
  readonly restoringMs: number;
}

/** QEMU's own counters, in pages. */
interface QemuMark {
  readonly remainingPages: number;
  readonly sentPages: number;
}

/**
 * Makes samples of what QEMU says, of the stream and of the wire. Its clock is passed in.
 *
 * QEMU may answer late, and its events may get lost: a sync is known from MIGRATION_PASS or, without it, from the next answer. Where
 * several rounds have ended before QEMU answered, one sample stands for all of them: their mean.
 */
export class RoundSampler {
  readonly #sampled: Sampled;
  /** Looks at the dirty bitmap so far; the bulk round begins with the first. */
  #syncs = 0;
  /** That which has ended the last round that was told. */
  #toldSyncs = 1;
  /** At the beginning of what was not told yet. */
  #start: Mark;
  #startInQemu: QemuMark | undefined;
  #lastSync: Mark;
  #latest: { readonly progress: MigrationProgress; readonly atMs: number; readonly pages: number } | undefined;
  #packedShare = 1;
  #throttlePercent = 0;

  constructor(sampled: Sampled, nowMs: number) {
    this.#sampled = sampled;
    this.#start = this.#mark(nowMs);
    this.#lastSync = this.#start;
  }

  /** Pages that were sent since the last sync. */
  get pagesSinceSync(): number {
    return pagesSent(this.#sampled.sender.counts) - this.#lastSync.pages;
  }

  /**
   * QEMU has looked for dirty pages for the `pass`th time.
   *
   * @param atMs when it did
   * @param nowMs by when it is known: what was sent in between belongs to the next round
   * @returns false if that was known
   */
  onSync(pass: number, atMs: number, nowMs = atMs): boolean {
    if (pass <= this.#syncs) return false;
    if (pass > 1) this.#sampled.sentPages.nextRound();
    const mark = this.#mark(atMs);
    const before = this.#lastSync;
    const late = (nowMs - atMs) / Math.max(nowMs - before.atMs, 1);
    this.#lastSync = { ...mark, pages: mark.pages - (mark.pages - before.pages) * Math.min(1, Math.max(0, late)) };
    if (this.#syncs === 0) this.#start = this.#lastSync;
    this.#syncs = pass;
    return true;
  }

  /** QEMU has answered. @returns the round that has ended, if it is not told yet */
  onAnswer(progress: MigrationProgress, nowMs: number): RoundSample | undefined {
    if (progress.status !== "active" || progress.dirtySyncCount === 0) return undefined;
    this.onSync(progress.dirtySyncCount, nowMs);
    this.#latest = { progress, atMs: nowMs, pages: pagesSent(this.#sampled.sender.counts) };
    // A sync that came while the answer was on its way is not in it.
    if (progress.dirtySyncCount < this.#syncs) return undefined;
    const totalPages = progress.ramTotalBytes / PAGE_BYTES;
    if (this.#syncs === 1) this.#startInQemu ??= qemuMark(progress);
    else this.#startInQemu ??= { remainingPages: totalPages, sentPages: 0 };
    return this.#syncs > this.#toldSyncs ? this.#endRounds(progress, nowMs) : undefined;
  }

  /** How it stands now, by QEMU's last answer and what was sent since; undefined before the first. */
  tick(nowMs: number): TickSample | undefined {
    if (this.#latest === undefined) return undefined;
    const { progress, atMs, pages } = this.#latest;
    const { sender, peer } = this.#sampled;
    const sentBytes = (pagesSent(sender.counts) - pages) * PAGE_BYTES;
    return {
      atMs: nowMs,
      round: progress.dirtySyncCount - 1,
      remainingBytes: Math.max(0, progress.ramRemainingBytes - sentBytes),
      dirtyRatePagesPerSecond: progress.dirtyPagesRatePagesPerSecond,
      qemuBytesPerSecond: progress.bytesPerSecond,
      goodputBytesPerSecond: peer.backlog.goodputBytesPerSecond,
      wireBytes: peer.wireBytes,
      throttlePercent: progress.throttlePercent,
      ageMs: nowMs - atMs,
    };
  }

  #endRounds(progress: MigrationProgress, nowMs: number): RoundSample {
    const rounds = this.#syncs - this.#toldSyncs;
    const [from, to] = [this.#start, this.#lastSync];
    const [before, after] = [this.#startInQemu!, qemuMark(progress)];
    const { sender, peer } = this.#sampled;
    // What QEMU counts as remaining falls by each page that it sends, and rises only by what a sync finds.
    const foundPages = after.remainingPages - before.remainingPages + after.sentPages - before.sentPages;
    const dirtiedPages = Math.max(0, foundPages) / rounds;
    const remainingPages = after.remainingPages + Math.max(0, pagesSent(sender.counts) - to.pages);
    const isRestoring = to.restoringMs - from.restoringMs > RESTORING_SHARE * (to.atMs - from.atMs);
    const costs = formCosts(from, to, this.#packedShare);
    const sample: RoundSample = {
      atMs: to.atMs,
      round: this.#syncs - 2,
      durationMs: (to.atMs - from.atMs) / rounds,
      pages: (to.pages - from.pages) / rounds,
      distinctPages: (to.distinctPages - from.distinctPages) / rounds,
      redirtiedPages: (to.redirtiedPages - from.redirtiedPages) / rounds,
      leftPages: Math.max(0, remainingPages - dirtiedPages),
      dirtiedPages,
      remainingBytes: Math.min(progress.ramTotalBytes, remainingPages * PAGE_BYTES),
      wireBytes: (to.wireBytes - from.wireBytes) / rounds,
      pagesByForm: dividedBy(rounds, costs.pagesByForm),
      wireBytesByForm: dividedBy(rounds, costs.wireBytesByForm),
      goodputBytesPerSecond: peer.backlog.goodputBytesPerSecond,
      roundTripMs: peer.backlog.minRttMs ?? null,
      restoreBytesPerSecond: isRestoring ? sender.restoring.bytesPerSecond : null,
      throttlePercent: this.#throttlePercent,
      ageMs: nowMs - to.atMs,
    };
    this.#packedShare = packedShare(from, to, this.#packedShare);
    this.#throttlePercent = progress.throttlePercent;
    this.#toldSyncs = this.#syncs;
    this.#start = to;
    this.#startInQemu = after;
    return sample;
  }

  #mark(atMs: number): Mark {
    const { sender, sentPages, peer } = this.#sampled;
    const bodies = Object.values(sender.bodies);
    return {
      atMs,
      counts: { ...sender.counts },
      nackedPages: sender.nackedPages,
      tokenBytes: sender.tokenBytes,
      bodyBytes: bodies.reduce((sum, { bodyBytes }) => sum + bodyBytes, 0),
      packedBytes: bodies.reduce((sum, { wireBytes }) => sum + wireBytes, 0),
      pages: pagesSent(sender.counts),
      distinctPages: sentPages.distinctPages,
      redirtiedPages: sentPages.redirtiedPages,
      wireBytes: peer.wireBytes,
      restoringMs: sender.restoring.heldMs,
    };
  }
}

function qemuMark({ ramRemainingBytes, sentPages }: MigrationProgress): QemuMark {
  return { remainingPages: ramRemainingBytes / PAGE_BYTES, sentPages };
}

function dividedBy<T extends object>(divisor: number, amounts: T): T {
  return Object.fromEntries(Object.entries(amounts).map(([key, amount]) => [key, amount / divisor])) as T;
}
