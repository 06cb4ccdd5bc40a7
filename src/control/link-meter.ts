import type { Estimate } from "./downtime.ts";
import { DIP_SHARE, LinkHistory } from "./link-history.ts";
import { type ByForm, FORMS, type Form, PAGE_BYTES, type RoundSample, type TickSample } from "./samples.ts";
import { BOUND_SHARE, MOST_SAME } from "./sending.ts";

/** A link stands still when less than this share of its goodput arrives … */
const STILL_SHARE = 0.05;
/** … for so long: longer than QEMU needs to look through the bitmap of a large VM. */
const STILL_MS = 400;
/** Ticks further apart than this are a gap: QMP did not answer, or the clock was set. */
const GAP_MS = 2000;
/** The pace of shorter rounds is that of QEMU looking for dirty pages. */
const PACE_MS = 200;
const PACES = 4;
/** Fewer rounds than that may have been slower than the next ones, by up to so much. */
const FASTER = 1.2;
/** The pace of a round leaves out that of its sync. */
const PACE_MARGIN = 1.1;
/** In the cost of a page, earlier rounds count half beside a long one, and as they did beside one of far fewer pages than these. */
const COST_REST = 0.5;
const COST_PAGES = 4096;

/** The link as the samples show it: how fast pages go over it, and whether it stands still. */
export class LinkMeter {
  readonly #history = new LinkHistory();
  #goodputBytesPerSecond = 0;
  #roundTripMs = 0;
  #restoreBytesPerSecond = Number.POSITIVE_INFINITY;
  /** Of the pages sent, the last ones counting most. */
  #cost = { pages: 0, samePages: 0, wireBytes: 0 };
  #hasDirtyCost = false;
  /** Of the last rounds. */
  readonly #paces: { pages: number; ms: number }[] = [];
  #before: TickSample | undefined;
  /** The last tick at which something had arrived. */
  #movedMs = 0;
  #stillMs = 0;
  /** What dips cost, in time. */
  #slowMs = 0;
  /** #lostMs when the last round ended, and how much of it was in that. */
  #lostBeforeMs = 0;
  #lostInRoundMs = 0;
  #isStill = false;

  /** Payload that arrives; 0 until it was measured. */
  get goodputBytesPerSecond(): number {
    return this.#goodputBytesPerSecond;
  }

  /** The least seen; 0 until one was. */
  get roundTripMs(): number {
    return this.#roundTripMs;
  }

  /** What a page of the working set costs on the wire: of the rounds after the bulk round, as far as there are any. */
  get wireBytesPerPage(): number {
    const { pages, wireBytes } = this.#cost;
    return pages > 0 ? Math.max(1, wireBytes / pages) : PAGE_BYTES;
  }

  /** The link is slower than usual for a while: no moment to switch over. */
  get isDip(): boolean {
    // A round's end may tell of it before the next tick does.
    const { isDip, levelBytesPerSecond } = this.#history;
    return isDip || this.#goodputBytesPerSecond < DIP_SHARE * levelBytesPerSecond;
  }

  /** The time that dips and standstills have cost so far. */
  get lostMs(): number {
    return this.#stillMs + this.#slowMs;
  }

  /** Likewise in the last round that has ended: what such a round left says nothing of the load. */
  get lostInRoundMs(): number {
    return this.#lostInRoundMs;
  }

  /**
   * How long `pages` of the working set take while the guest is stopped, should the link go on as it did. A guest that runs holds up
   * QEMU, where both want the CPU; stopped it may not: between the pace that was possible and the one that was reached.
   */
  sendMs(pages: number): Estimate {
    const { levelBytesPerSecond } = this.#history;
    const bytes = pages * this.wireBytesPerPage;
    const { expected, low, high } = this.#history.sendMs(bytes, this.#goodputBytesPerSecond);
    // The pace is that of the rounds, which knows more than the link; what the link's changes add is measured.
    const steadyMs = levelBytesPerSecond > 0 ? (bytes * 1000) / levelBytesPerSecond : expected;
    const [best, mean] = [this.pagesPerMs, this.meanPagesPerMs];
    const sent = pages * this.#changedTimes;
    const at = (pagesPerMs: number, ms: number) => Math.max(0, sent / pagesPerMs + ms - steadyMs);
    // Of what the guest writes nothing has gone over the link yet: it may be packed less well than what the bulk round has shown.
    const worst = this.#hasDirtyCost ? mean : mean * Math.min(1, this.wireBytesPerPage / PAGE_BYTES);
    return { expected: at(Math.sqrt(best * mean), expected), low: at(best, low), high: at(worst, high) };
  }

  /**
   * Pages of the working set that can be sent outside dips; 0 until the link was measured. Not more than were sent in the best of the last
   * rounds: where they cost little, the link is not what holds them up.
   */
  get pagesPerMs(): number {
    const byLink = (this.#history.levelBytesPerSecond || this.#goodputBytesPerSecond) / this.wireBytesPerPage / 1000;
    const best = this.#paces.reduce((best, { pages, ms }) => Math.max(best, pages / ms), 0);
    const seen = best > 0 ? best * PACE_MARGIN : Number.POSITIVE_INFINITY;
    return Math.min(byLink, seen, this.#restoreBytesPerSecond / PAGE_BYTES / 1000);
  }

  /** Likewise, but on average over the last rounds. */
  get meanPagesPerMs(): number {
    const pages = this.#paces.reduce((sum, pace) => sum + pace.pages, 0);
    const ms = this.#paces.reduce((sum, pace) => sum + pace.ms, 0);
    return ms > 0 ? Math.min(this.pagesPerMs, pages / ms) : this.pagesPerMs;
  }

  /** Expected of the rounds to come: a first round is slower than later ones, as the caches of all on its way are cold. */
  get settledPagesPerMs(): number {
    const mean = this.meanPagesPerMs;
    if (this.#paces.length >= PACES) return mean;
    const byLink = (this.#history.levelBytesPerSecond || this.#goodputBytesPerSecond) / this.wireBytesPerPage / 1000;
    return Math.sqrt(mean * Math.max(mean, Math.min(byLink, FASTER * mean)));
  }

  /** The link is what holds the rounds up, as far as there were any that tell. */
  get isLinkBound(): boolean {
    if (this.#paces.length === 0) return false;
    return this.meanPagesPerMs * this.wireBytesPerPage * 1000 >= BOUND_SHARE * this.#goodputBytesPerSecond;
  }

  /** Pages found unchanged cost a link nothing; of what the last sync finds next to none is, as rounds are short then. */
  get #changedTimes(): number {
    const { pages, samePages } = this.#cost;
    return this.isLinkBound && samePages < MOST_SAME * pages ? pages / (pages - samePages) : 1;
  }

  /** Nothing arrives, though there is something to send. Says nothing of the workload. */
  get isStill(): boolean {
    return this.#isStill;
  }

  /** For how long nothing arrived or nothing was known, in all. */
  get stillMs(): number {
    return this.#stillMs;
  }

  /** @returns false for a tick that must not be decided on: after a gap, or of a clock that went back */
  onTick(tick: TickSample): boolean {
    const before = this.#before;
    if (before !== undefined && tick.atMs < before.atMs) return false;
    this.#before = tick;
    if (tick.goodputBytesPerSecond >= 1) this.#goodputBytesPerSecond = tick.goodputBytesPerSecond;
    if (before === undefined) {
      this.#movedMs = tick.atMs;
      return true;
    }
    const ms = tick.atMs - before.atMs;
    if (ms > GAP_MS && tick.wireBytes - before.wireBytes < this.#stillBytes(ms)) {
      this.#stillMs += ms;
      this.#movedMs = tick.atMs;
      return false;
    }
    this.#history.add(ms, this.#isStill ? 0 : this.#goodputBytesPerSecond);
    if (this.#history.isDip) this.#slowMs += ms * (1 - this.#goodputBytesPerSecond / this.#history.levelBytesPerSecond);
    const progressBytes = tick.wireBytes - before.wireBytes + Math.max(0, before.remainingBytes - tick.remainingBytes);
    if (progressBytes >= this.#stillBytes(ms) || tick.remainingBytes === 0) {
      this.#movedMs = tick.atMs;
      this.#isStill = false;
    } else if (tick.atMs - this.#movedMs > STILL_MS) {
      this.#stillMs += this.#isStill ? ms : tick.atMs - this.#movedMs;
      this.#isStill = true;
    }
    return true;
  }

  onRound(round: RoundSample): void {
    if (round.goodputBytesPerSecond >= 1) this.#goodputBytesPerSecond = round.goodputBytesPerSecond;
    this.#roundTripMs = round.roundTripMs ?? this.#roundTripMs;
    if (round.restoreBytesPerSecond !== null) this.#restoreBytesPerSecond = round.restoreBytesPerSecond;
    this.#lostInRoundMs = this.lostMs - this.#lostBeforeMs;
    this.#lostBeforeMs = this.lostMs;
    const ms = round.durationMs - this.#lostInRoundMs;
    // Of the bulk round only what was sent whole says something: what the guest writes is found on no disk.
    const forms: readonly Form[] = round.round === 0 ? ["literal", "raw"] : FORMS.filter((form) => form !== "zero");
    const pages = sumOf(round.pagesByForm, forms);
    if (pages < 1) return;
    if (round.round > 0 && ms >= PACE_MS) {
      this.#paces.push({ pages, ms });
      if (this.#paces.length > PACES) this.#paces.shift();
    }
    const wireBytes = sumOf(round.wireBytesByForm, forms);
    // The cost of the bulk round is that of other pages: it counts until there are dirty ones.
    const rest = this.#hasDirtyCost ? Math.max(COST_REST, Math.exp(-pages / COST_PAGES)) : 0;
    const samePages = round.round > 0 ? (round.pagesByForm.same ?? 0) : 0;
    this.#cost = {
      pages: this.#cost.pages * rest + pages,
      samePages: this.#cost.samePages * rest + samePages,
      wireBytes: this.#cost.wireBytes * rest + wireBytes,
    };
    this.#hasDirtyCost = round.round > 0;
  }

  #stillBytes(ms: number): number {
    return (this.#goodputBytesPerSecond * STILL_SHARE * ms) / 1000;
  }
}

function sumOf(counts: ByForm, forms: readonly Form[]): number {
  return forms.reduce((sum, form) => sum + (counts[form] ?? 0), 0);
}
