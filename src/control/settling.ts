/** What to accept once rounds have stopped shrinking: look for a quieter moment, look more often, then take the best. */
import type { LinkMeter } from "./link-meter.ts";
import { NARROW_ROUNDS, Narrowing } from "./narrowing.ts";
import { ITERATION_MS } from "./qemu.ts";
import { type Level, ResidualHistory } from "./residuals.ts";
import type { RoundSample } from "./samples.ts";
import type { WorkingSetModel } from "./working-set.ts";

/**
 * The downtime that a wait of the same length is worth: 200 s more of migration for 1 s less of downtime. A round takes as
 * long as its pages would take while the guest is stopped, so this is also the share by which rounds have to shrink.
 */
export const WORTH = 0.005;

/** Rounds that the model describes within this share are of a steady load. */
export const STEADY_SHARE = 0.05;
/** A load that was missed by so much once is not taken for steady again because it is so for a while. */
const UNSTEADY_SHARE = 0.25;
/** For how many times the residual's own time it is looked whether a better moment comes … */
const LOOK_STEADY = 6;
const LOOK_UNSTEADY = 50;
/** … of which a steady load may have shown some before its rounds had stopped shrinking, but not these … */
const LOOK_AFTERWARDS = 3;
/** … at least and at most, but for this many times even if that is more. */
const LOOK_LEAST_MS = 1000;
const LOOK_MOST_MS = 150_000;
const LOOK_ALWAYS = 2;
/** Meanwhile only this share of it is accepted: a load that goes quiet gets there within a round or two. */
const LOOK_ACCEPTS = 0.004;
/** No look for a quieter moment promises less than this share of what looking often is expected to leave. */
const HOPELESS_SHARE = 1 / 3;
/** Rounds that the model predicts to be this many times longer or shorter than those that were seen are not believed. */
const LONGER_ROUND = 1.5;
const SHORTER_ROUND = 2;
/** What looking more often leaves is predicted about so well. */
const ROLLING_MARGIN = 1.2;
/** Looking more often is no use where it leaves more than whole rounds did: reading a large bitmap holds up the sending. */
const USELESS_SHARE = 1.2;
/** What a whole round left is still about that at the next look. */
const FIRE_MARGIN = 1.1;
/** A guest that in the last round dirtied less than this share of what was sent has gone quiet: less will be left at once. */
const QUIET_SHARE = 0.2;
/** Above the level that is waited for, so that it is met when it comes again. */
const LEVEL_MARGIN = 1.03;
/** A link that changed by more than this makes what was left before another matter. */
const OTHER_LINK = 1.3;
/** A level that is left less often than this, and so much less than what is left now, is one to wait for. */
const VALLEY_MS = 4 * ITERATION_MS;
const VALLEY_SHARE = 0.7;

/** So many whole rounds in a row that left more than the one before, each by no more than this, are of a load that grows; twice as many where the model missed. */
const GROWING_ROUNDS = 4;
const GROWING_SHARE = 1.3;

/** What is accepted now, and why. */
export interface Acceptance {
  pages: number;
  why: "looking" | "dip" | "quiet" | "valley" | "stopped";
  /** Until then something better is expected. */
  untilMs: number;
  /** What the wait is for. */
  level: Level;
}

/** From the moment at which rounds have stopped shrinking. */
export class Settling {
  readonly #model: WorkingSetModel;
  readonly #link: LinkMeter;
  readonly #residuals = new ResidualHistory();
  readonly #sinceMs: number;
  /** For so long before that no round had left much more. */
  readonly #alikeMs: number;
  /** Of the time since then, what says nothing about the load: the link stood still. */
  #pausedMs = 0;
  #stillMs: number;
  #pagesPerMs: number;
  /** The length of a round that rounds lead to. */
  #roundMs = 0;
  /** What is left once QEMU looks all the time. */
  #rollingPages = 0;
  #lookMs = 0;
  /** When that was over, as waited; undefined before. */
  #lookedMs: number | undefined;
  #narrowing = new Narrowing(WORTH);
  #wasUnsteady = false;
  #isQuiet = false;
  #isSteady = false;
  #isNarrowingUseless = false;
  /** The least that a whole round left. */
  #leastWholePages: number;
  #growingRounds = 0;
  #isGrowing = false;
  /** A round left much less than the one before: there are valleys. */
  #hasFallen = false;

  /** @param alikeMs for so long no round has left much more than the `pages` of this one */
  constructor(model: WorkingSetModel, link: LinkMeter, round: RoundSample, pages: number, alikeMs: number) {
    this.#model = model;
    this.#link = link;
    this.#sinceMs = round.atMs;
    this.#alikeMs = alikeMs;
    this.#stillMs = link.stillMs;
    this.#pagesPerMs = link.pagesPerMs;
    this.#leastWholePages = pages;
    this.#residuals.add(round.atMs, pages);
    this.#plan(1 - round.throttlePercent / 100);
  }

  /** What the last sync left. */
  get lastPages(): number {
    return this.#residuals.last;
  }

  get leastPages(): number {
    return this.#residuals.least;
  }

  /**
   * Whether no more than `pages` has not been left, and will not be by looking more often.
   *
   * @param isImpatient does not look for quieter moments first
   */
  isOutOfReach(atMs: number, pages: number, isImpatient: boolean): boolean {
    const waitedMs = this.#waitedMs(atMs);
    const isHopeless = this.#residuals.count > 1 && this.#rollingPages * HOPELESS_SHARE > pages;
    const lookedMs = isImpatient || isHopeless ? 0 : this.#lookMs;
    if (this.#residuals.least <= pages || waitedMs < lookedMs) return false;
    const narrowedMs = this.#narrowing.risenMs(waitedMs - (this.#lookedMs ?? lookedMs));
    return this.#rollingPages > pages * ROLLING_MARGIN || narrowedMs >= NARROW_ROUNDS * this.#roundMs;
  }

  /** A further round has ended, with `pages` left; `isWhole`: the model knows it. */
  onRound(round: RoundSample, pages: number, isWhole: boolean): void {
    if (isWhole) this.#leastWholePages = Math.min(this.#leastWholePages, pages);
    else if (this.#link.lostInRoundMs === 0) {
      this.#isNarrowingUseless ||= this.#isSteady && pages > USELESS_SHARE * this.#leastWholePages;
    }
    const growth = pages / this.#residuals.last;
    if (isWhole) this.#growingRounds = growth > 1 + WORTH && growth < GROWING_SHARE ? this.#growingRounds + 1 : 0;
    this.#hasFallen ||= growth < 1 / GROWING_SHARE;
    if (this.#growingRounds === GROWING_ROUNDS * (this.#wasUnsteady ? 2 : 1) && !this.#hasFallen) {
      // What was left before does not come again, nor will there be a better moment.
      this.#isGrowing = true;
      this.#residuals.clear();
    }
    this.#residuals.add(round.atMs, pages);
    this.#isQuiet = round.dirtiedPages < QUIET_SHARE * this.#link.pagesPerMs * round.durationMs;
    if (isWhole) this.#plan(1 - round.throttlePercent / 100);
  }

  /** @param floorPages less than this is never worth a wait */
  accept(atMs: number, floorPages: number): Acceptance {
    this.#noticeLink(atMs);
    const { pagesPerMs } = this.#link;
    const last = this.#residuals.last;
    const waitedMs = this.#waitedMs(atMs);
    const low = Math.max(floorPages, LOOK_ACCEPTS * this.#residuals.mean);
    const lowest = { pages: low, waitMs: 0 };
    if (waitedMs < this.#lookMs && !(this.#isGrowing && !this.#hasFallen)) {
      this.#lookedMs = undefined;
      this.#narrowing = new Narrowing(WORTH);
      return { pages: low, why: "looking", untilMs: atMs + this.#lookMs - waitedMs, level: lowest };
    }
    this.#lookedMs ??= waitedMs;
    if (this.#link.isDip) return { pages: low, why: "dip", untilMs: atMs, level: lowest };
    const level = this.#residuals.bestLevel(pagesPerMs, WORTH) ?? { pages: last, waitMs: 0 };
    const least = this.#residuals.least;
    const ms = waitedMs - this.#lookedMs;
    const narrowed = this.#narrowing.share(ms, this.#roundMs, least, pagesPerMs, !this.#wasUnsteady);
    const sinceMs = this.#narrowing.risenMs(ms);
    const narrowMs = NARROW_ROUNDS * this.#roundMs;
    // Past the time in which it should have come, more and more is accepted, so that every migration ends.
    const lateMs = Math.max(0, sinceMs - narrowMs - Math.min(level.waitMs, this.#lookMs));
    if (this.#isQuiet && lateMs === 0) {
      return { pages: low, why: "quiet", untilMs: atMs + last / pagesPerMs, level: lowest };
    }
    if (this.#isNarrowingUseless && lateMs < 2 * narrowMs) {
      const isMet = last <= level.pages * LEVEL_MARGIN;
      const pages = isMet ? last * FIRE_MARGIN : low;
      return { pages, why: isMet ? "stopped" : "valley", untilMs: atMs + level.waitMs, level };
    }
    const wantedPages = level.pages * LEVEL_MARGIN * narrowed;
    const mostPages = Math.max(wantedPages, this.#residuals.most * LEVEL_MARGIN);
    const pages = Math.max(floorPages, wantedPages * (mostPages / wantedPages) ** (lateMs / this.#lookMs));
    const why = level.waitMs > VALLEY_MS && level.pages < VALLEY_SHARE * last ? "valley" : "stopped";
    return { pages, why, untilMs: atMs + level.waitMs, level };
  }

  /** For how long to look what comes. */
  #plan(speed: number): void {
    const { pagesPerMs } = this.#link;
    const residualMs = this.#residuals.mean / pagesPerMs;
    const startMs = Math.max(1, this.#residuals.last / pagesPerMs);
    // A load that changes has no fixed point: then the rounds are as long as they were.
    const fixedMs = this.#model.fixedPointMs(pagesPerMs, speed, startMs);
    const shortestMs = Math.max(ITERATION_MS, residualMs / SHORTER_ROUND);
    this.#roundMs = Math.max(shortestMs, Math.min(fixedMs, LONGER_ROUND * residualMs));
    this.#rollingPages = this.#model.rollingPages(this.#roundMs * speed);
    const { unsteadiness } = this.#model;
    this.#wasUnsteady ||= unsteadiness !== null && unsteadiness > UNSTEADY_SHARE;
    this.#isSteady = unsteadiness !== null && unsteadiness <= STEADY_SHARE && !this.#wasUnsteady;
    const steadyMs = Math.max(LOOK_STEADY * residualMs - this.#alikeMs, LOOK_AFTERWARDS * residualMs);
    const wantedMs = Math.max(LOOK_LEAST_MS, this.#isSteady ? steadyMs : LOOK_UNSTEADY * residualMs);
    this.#lookMs = Math.min(wantedMs, Math.max(LOOK_MOST_MS, LOOK_ALWAYS * residualMs));
  }

  /** A link that has become another one: what was left over the old one does not come again. */
  #noticeLink(atMs: number): void {
    const change = this.#link.pagesPerMs / this.#pagesPerMs;
    if (change < OTHER_LINK && change > 1 / OTHER_LINK) return;
    this.#pagesPerMs = this.#link.pagesPerMs;
    const last = this.#residuals.last;
    this.#residuals.clear();
    this.#residuals.add(atMs, last);
    this.#plan(1);
  }

  #waitedMs(atMs: number): number {
    this.#pausedMs += this.#link.stillMs - this.#stillMs;
    this.#stillMs = this.#link.stillMs;
    return atMs - this.#sinceMs - this.#pausedMs;
  }
}
