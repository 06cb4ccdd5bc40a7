/** Godwit's own policy. docs/control-loop.md derives the rules; this file is their order. */
import {
  bytesOf,
  DowntimeModel,
  type EarlierMigration,
  type Estimate,
  type PredictedParts,
  totalOf,
} from "./downtime.ts";
import { Forecaster, type Seen } from "./forecast.ts";
import { LinkMeter } from "./link-meter.ts";
import { type Decision, type Forecast, limitOf, type Policy, type StartSettings } from "./policy.ts";
import { dueBy, overdueBy, type Promises } from "./promises.ts";
import * as say from "./reasons.ts";
import { type MigrationFacts, PAGE_BYTES, type RoundSample, type TickSample } from "./samples.ts";
import { Settling, STEADY_SHARE } from "./settling.ts";
import { Shrinking } from "./shrinking.ts";
import { MAX_PERCENT, throttleFor } from "./throttle.ts";
import { WorkingSetModel } from "./working-set.ts";

/** A residual that is sent within this is not worth another round: the other parts of the downtime are many times as much. */
const FLOOR_MS = 2;
/** A limit that differs by less is the same, unless it would now be met by what was left last. */
const SAME_LIMIT = 1.04;
/** Likewise while rounds shrink: it only says when they are small enough. */
const SAME_FLOOR = 2;
/** Where QEMU multiplies the limit with its own estimate, the limit follows that when it changes by so much (as a logarithm). */
const OWN_CHANGE = 0.1;
/** A round that QEMU cut short by an early look, with more than this share of it unsent, does not show all that was dirtied in it. */
const WHOLE_SHARE = 0.25;
/**
 * The bulk round is projected from its pace so far; for the first seconds that means nothing. Later neither, of memory that is full at its
 * beginning and empty at its end: what is left may go so much faster.
 */
const PROJECT_FROM_MS = 3000;
const PROJECT_SHARE = 0.1;
/** QEMU looks now and then, so it finds somewhat less than its threshold: these shares of it, expected and in nine of ten. */
const FOUND = { expected: 0.97, low: 0.8, high: 1.05 };
/** A promise counts on parts that take longer than expected: by so much of the way to the end of their interval. */
const PROMISE_SHARE = 1 / 3;
/** A throttle that no round shows by then is not going to be in force. */
const THROTTLE_MS = 10_000;

/** Ends every migration, at the smallest downtime in reach, and keeps promises where it can. */
export class AdaptivePolicy implements Policy {
  readonly name = "adaptive";
  readonly tickMs = 100;
  readonly #promises: Promises;
  readonly #earlier: readonly EarlierMigration[];
  readonly #downtime: DowntimeModel;
  readonly #link = new LinkMeter();
  #model = new WorkingSetModel(0);
  #shrinking = new Shrinking(this.#model, this.#link);
  #forecaster: Forecaster | undefined;
  /** What the limit accepts that was set last. */
  #acceptedPages = 0;
  /** And that is hoped for, not expected. */
  #isWaiting = false;
  #facts: MigrationFacts = { memoryBytes: 0, hasSwitchoverBandwidth: true };
  #settling: Settling | undefined;
  #round: RoundSample | undefined;
  #tick: TickSample | undefined;
  #setBytes = 0;
  #setBandwidth = 1;
  #throttlePercent = 0;
  /** When that was asked for; undefined once a whole round has shown what it does. */
  #throttledMs: number | undefined;
  #hasEnded = false;
  /** --max-downtime can't be kept, and was given up. */
  #isDowntimeBroken = false;
  #isEndBroken = false;

  /** @param earlier what the VM's earlier migrations came to */
  constructor(promises: Promises = { onStall: "switch" }, earlier: readonly EarlierMigration[] = []) {
    this.#promises = promises;
    this.#earlier = earlier;
    this.#downtime = new DowntimeModel(earlier);
  }

  start(facts: MigrationFacts): StartSettings {
    this.#facts = facts;
    this.#model = new WorkingSetModel(facts.memoryBytes / PAGE_BYTES);
    this.#shrinking = new Shrinking(this.#model, this.#link);
    this.#forecaster = new Forecaster(facts);
    return { limit: limitOf(1, 1000, facts.hasSwitchoverBandwidth), maxBytesPerSecond: null, autoConverge: false };
  }

  onRound(round: RoundSample): Decision | undefined {
    const before = this.#round;
    this.#round = round;
    this.#link.onRound(round);
    this.#forecaster?.add(round);
    if (this.#link.pagesPerMs === 0) return undefined;
    const isWhole = round.leftPages <= WHOLE_SHARE * (round.leftPages + round.pages);
    if (isWhole) this.#model.addRound(round);
    const pages = round.remainingBytes / PAGE_BYTES;
    if (this.#throttledMs !== undefined && !this.#isThrottleAwaited(round, isWhole)) this.#throttledMs = undefined;
    if (this.#throttledMs !== undefined)
      return this.#decide(round.atMs, round.remainingBytes, round.round + 1, this.#tick?.wireBytes ?? 0);
    if (this.#settling !== undefined) this.#settling.onRound(round, pages, isWhole);
    else {
      this.#shrinking.onRound(round);
      const hasStopped = before !== undefined && this.#shrinking.hasStopped(before, round, this.#speed);
      if (hasStopped) this.#settling = new Settling(this.#model, this.#link, round, pages, this.#shrinking.alikeMs);
    }
    return this.#decide(round.atMs, round.remainingBytes, round.round + 1, this.#tick?.wireBytes ?? 0);
  }

  onTick(tick: TickSample): Decision | undefined {
    if (!this.#link.onTick(tick)) return undefined;
    this.#tick = tick;
    return this.#decide(tick.atMs, tick.remainingBytes, tick.round, tick.wireBytes);
  }

  /** To be asked often: each time a part of the rest is simulated, now and then. */
  get forecast(): Forecast | undefined {
    if (this.#round === undefined || this.#link.pagesPerMs === 0 || this.#model.rounds < 2) return undefined;
    const makePolicy = () => new AdaptivePolicy(this.#promises, this.#earlier);
    const rest = this.#forecaster?.rest(this.#seen, makePolicy) ?? null;
    const isShrinking = this.#settling === undefined && !this.#hasEnded;
    const pages = isShrinking && rest !== null ? rest.residualPages / FOUND.expected : this.#acceptedPages;
    const isAtBest = isShrinking ? rest === null : this.#isWaiting;
    const downtimeParts = this.#predictParts(pages);
    return { isAtBest, downtimeMs: totalOf(downtimeParts), downtimeParts, totalMs: rest?.totalMs ?? null };
  }

  get #seen(): Seen {
    const { settledPagesPerMs: pagesPerMs, wireBytesPerPage, goodputBytesPerSecond, roundTripMs } = this.#link;
    const fixedMs = this.#downtime.fixedMs(goodputBytesPerSecond, roundTripMs).expected;
    const { unsteadiness } = this.#model;
    const isSteady = unsteadiness !== null && unsteadiness <= STEADY_SHARE && this.#link.lostMs === 0;
    return { pagesPerMs, wireBytesPerPage, roundTripMs, fixedMs, isSteady };
  }

  #decide(atMs: number, remainingBytes: number, round: number, wireBytes: number): Decision | undefined {
    if (this.#hasEnded) return undefined;
    // A deadline passes over a link that stands still too.
    const broken = this.#breakEnd(atMs, round, wireBytes);
    if (broken === undefined && (this.#link.isStill || this.#link.pagesPerMs === 0)) return undefined;
    const decision =
      broken ??
      (round === 0
        ? this.#foresee(atMs, remainingBytes, wireBytes)
        : (this.#endInTime(atMs, remainingBytes, wireBytes) ?? this.#boundDowntime(atMs)));
    if (decision === undefined) return this.#accept(atMs);
    this.#hasEnded = decision.kind === "switch" || decision.kind === "abort";
    return decision;
  }

  /** QEMU throttles the guest only seconds later: what rounds leave until then is no reason to throttle it more. */
  #isThrottleAwaited({ atMs, durationMs, throttlePercent }: RoundSample, isWhole: boolean): boolean {
    const askedMs = this.#throttledMs ?? atMs;
    const isShown = isWhole && throttlePercent >= this.#throttlePercent && atMs - durationMs > askedMs;
    return !isShown && atMs - askedMs < THROTTLE_MS;
  }

  /** --deadline or --max-bytes is broken already: in the bulk round, or as nothing was known of the link. */
  #breakEnd(atMs: number, round: number, wireBytes: number): Decision | undefined {
    const { onStall } = this.#promises;
    const overdue = this.#isEndBroken ? undefined : overdueBy(this.#promises, { atMs, wireBytes });
    if (overdue === undefined || (round > 0 && onStall !== "abort")) return undefined;
    this.#isEndBroken = true;
    return { kind: onStall === "abort" ? "abort" : "go-on", reason: say.overdue(overdue, onStall) };
  }

  /** In the bulk round: whether its end will be in time. Nothing but giving up can be done about it. */
  #foresee(atMs: number, remainingBytes: number, wireBytes: number): Decision | undefined {
    const { deadlineMs, maxBytes, onStall } = this.#promises;
    const fixedMs = this.#downtime.fixedMs(this.#link.goodputBytesPerSecond, this.#link.roundTripMs).low;
    if (!this.#isDowntimeBroken && fixedMs > (this.#promises.maxDowntimeMs ?? Number.POSITIVE_INFINITY)) {
      return this.#breakDowntime(say.fixedAlone(fixedMs));
    }
    const done = 1 - remainingBytes / this.#facts.memoryBytes;
    if (this.#isEndBroken || atMs < PROJECT_FROM_MS || done < 0.05) return undefined;
    const atLeast = 1 + PROJECT_SHARE * (1 / done - 1);
    const isLate = deadlineMs !== undefined && atMs * atLeast > deadlineMs;
    const isLong = maxBytes !== undefined && wireBytes * atLeast > maxBytes;
    if (!isLate && !isLong) return undefined;
    const reason = isLate ? say.bulkTooLate(atMs * atLeast, onStall) : say.bulkTooMuch(wireBytes * atLeast, onStall);
    this.#isEndBroken = true;
    return { kind: onStall === "abort" ? "abort" : "go-on", reason };
  }

  /** The last moment at which --deadline and --max-bytes can be kept is the moment to switch. */
  #endInTime(atMs: number, remainingBytes: number, wireBytes: number): Decision | undefined {
    const { goodputBytesPerSecond, wireBytesPerPage } = this.#link;
    const sinceMs = Math.max(0, atMs - (this.#round?.atMs ?? atMs)) * this.#speed;
    const waitingPages = Math.min(this.#facts.memoryBytes, remainingBytes) / PAGE_BYTES;
    const mostPages = waitingPages + this.#model.interval(sinceMs).high;
    const { deadlineMs, maxBytes } = this.#promises;
    if (deadlineMs === undefined && maxBytes === undefined) return undefined;
    const due = dueBy(this.#promises, {
      atMs,
      wireBytes,
      downtimeMs: this.#predict(mostPages).expected,
      residualWireBytes: mostPages * wireBytesPerPage,
      goodputBytesPerSecond,
    });
    if (due === undefined) return undefined;
    const isOver = overdueBy(this.#promises, { atMs, wireBytes }) === due;
    // What the guest writes to that waits still is not found twice.
    const roundPages = (this.#round?.remainingBytes ?? 0) / PAGE_BYTES;
    const sentShare = roundPages > 0 ? Math.max(0, 1 - waitingPages / roundPages) : 1;
    const pages = waitingPages + sentShare * this.#model.pages(sinceMs);
    const predictedMs = this.#predict(pages);
    const { maxDowntimeMs = Number.POSITIVE_INFINITY, onStall } = this.#promises;
    const isTooLong = predictedMs.expected > maxDowntimeMs;
    if (isTooLong && onStall === "abort")
      return { kind: "abort", reason: say.dueButTooLong(due, isOver, predictedMs, "abort") };
    this.#acceptedPages = pages;
    this.#isWaiting = false;
    return {
      kind: "switch",
      predictedMs,
      reason: isTooLong ? say.dueButTooLong(due, isOver, predictedMs, "switch") : say.due(due, isOver, predictedMs),
    };
  }

  /** Once it was looked long enough: what to do if --max-downtime is out of reach. */
  #boundDowntime(atMs: number): Decision | undefined {
    // What is out of reach in a dip may not be once the link is as fast as before.
    if (this.#settling === undefined || this.#isDowntimeBroken || this.#link.isDip) return undefined;
    const most = this.#mostPages();
    if (!this.#settling.isOutOfReach(atMs, most, this.#throttlePercent > 0)) return undefined;
    const predicted = this.#predict(this.#settling.leastPages);
    if (this.#promises.onStall !== "throttle") return this.#breakDowntime(say.outOfReach(predicted));
    if (this.#throttlePercent === MAX_PERCENT) return this.#breakDowntime(say.throttleNotEnough(predicted));
    const percent = throttleFor(this.#model, this.#link.pagesPerMs, most, this.#throttlePercent);
    this.#throttlePercent = percent;
    this.#throttledMs = atMs;
    this.#settling = undefined; // Rounds shrink again.
    this.#shrinking = new Shrinking(this.#model, this.#link);
    return { kind: "throttle", percent, reason: say.throttling(predicted, percent) };
  }

  #breakDowntime(why: string): Decision {
    this.#isDowntimeBroken = true;
    const isGivenUp = this.#promises.onStall === "abort";
    return { kind: isGivenUp ? "abort" : "go-on", reason: say.broken(why, isGivenUp) };
  }

  /** Sets the limit to the residual at which the switch-over is the better choice. */
  #accept(atMs: number): Decision | undefined {
    const floorPages = FLOOR_MS * this.#link.pagesPerMs;
    const mostPages = Math.max(floorPages, this.#mostPages());
    if (this.#throttlePercent > 0 && !this.#isDowntimeBroken && this.#hasLeft(mostPages)) {
      // A round less of downtime costs a throttled guest nearly all of that round: the promise is enough.
      return this.#setLimit(mostPages, () => ({ kind: "limit", reason: say.throttled(bytesOf(mostPages)) }));
    }
    if (this.#settling === undefined) {
      return this.#setLimit(floorPages, () => ({ kind: "limit", reason: say.shrinking(bytesOf(floorPages)) }));
    }
    const { pages, why, untilMs, level } = this.#settling.accept(atMs, floorPages);
    const lastBytes = bytesOf(this.#settling.lastPages);
    return this.#setLimit(pages, (predictedMs) => {
      if (why === "stopped") return { kind: "limit", reason: say.stopped(lastBytes, predictedMs) };
      if (why === "dip") return { kind: "wait", untilMs, reason: say.dip(this.#link.goodputBytesPerSecond) };
      if (why === "quiet") return { kind: "wait", untilMs, reason: say.quiet(lastBytes) };
      if (why === "valley")
        return { kind: "wait", untilMs, reason: say.valley(bytesOf(level.pages), predictedMs, level.waitMs) };
      return {
        kind: "wait",
        untilMs,
        reason: say.looking(lastBytes, this.#predict(lastBytes / PAGE_BYTES), untilMs - atMs),
      };
    });
  }

  /** The last round has left no more than that. */
  #hasLeft(pages: number): boolean {
    return this.#round !== undefined && this.#round.remainingBytes <= bytesOf(pages);
  }

  #setLimit(
    pages: number,
    explain: (predictedMs: Estimate) => { reason: string } & ({ kind: "limit" } | { kind: "wait"; untilMs: number }),
  ): Decision | undefined {
    const thresholdBytes = bytesOf(Math.min(pages, this.#mostPages()));
    const lastPages = this.#settling?.lastPages ?? Number.POSITIVE_INFINITY;
    const same = this.#settling === undefined ? SAME_FLOOR : SAME_LIMIT;
    const isNear = thresholdBytes < this.#setBytes * same && thresholdBytes > this.#setBytes / same;
    const isMet = thresholdBytes > bytesOf(lastPages);
    const { hasSwitchoverBandwidth } = this.#facts;
    const ownBytesPerSecond = this.#tick?.qemuBytesPerSecond || this.#link.goodputBytesPerSecond;
    const bandwidth = hasSwitchoverBandwidth ? bytesOf(this.#link.pagesPerMs * 1000) : ownBytesPerSecond;
    const isOwnAlike = hasSwitchoverBandwidth || Math.abs(Math.log(bandwidth / this.#setBandwidth)) < OWN_CHANGE;
    if (isNear && isOwnAlike && isMet === this.#setBytes > bytesOf(lastPages)) return undefined;
    this.#setBytes = thresholdBytes;
    this.#setBandwidth = bandwidth;
    this.#acceptedPages = Math.min(thresholdBytes / PAGE_BYTES, lastPages);
    const predictedMs = this.#predict(this.#acceptedPages);
    const explained = explain(predictedMs);
    this.#isWaiting = explained.kind === "wait";
    return { ...explained, limit: limitOf(thresholdBytes, bandwidth, hasSwitchoverBandwidth), predictedMs };
  }

  /** What may be left for --max-downtime to hold. */
  #mostPages(): number {
    const { maxDowntimeMs } = this.#promises;
    if (maxDowntimeMs === undefined || this.#isDowntimeBroken) return Number.POSITIVE_INFINITY;
    const fixed = this.#downtime.fixedMs(this.#link.goodputBytesPerSecond, this.#link.roundTripMs);
    const fixedMs = fixed.expected + PROMISE_SHARE * (fixed.high - fixed.expected);
    const sendMs = Math.max(0, maxDowntimeMs - fixedMs);
    const pages = sendMs * this.#link.meanPagesPerMs;
    // A promise is to be kept over a link that dips too.
    return Math.max(1, pages * Math.min(1, sendMs / Math.max(this.#link.sendMs(pages).high, 1)));
  }

  get #speed(): number {
    return 1 - this.#throttlePercent / 100;
  }

  /** The downtime if QEMU stops the guest with at most `pages` left: it looks now and then, so it finds somewhat less. */
  #predict(pages: number): Estimate {
    return totalOf(this.#predictParts(pages));
  }

  #predictParts(pages: number): PredictedParts {
    const { goodputBytesPerSecond, roundTripMs, isLinkBound } = this.#link;
    const { low, high } = this.#link.sendMs(pages);
    const { expected } = this.#link.sendMs(FOUND.expected * pages);
    const sendMs = { expected, low: FOUND.low * low, high: FOUND.high * high };
    return this.#downtime.predict({ sendMs, goodputBytesPerSecond, roundTripMs, isLinkBound });
  }
}
