/**
 * QEMU's pre-copy, from event to event: what migration/migration.c (migration_iteration_run, migration_update_counters) and
 * migration/ram.c do, on a {@link GuestMemory} over a link. docs/control-loop.md says what is left out.
 */
import type { MeasuredParts } from "../downtime.ts";
import type { Decision, LimitSetting, Policy } from "../policy.ts";
import { ITERATION_MS, WINDOW_MS } from "../qemu.ts";
import { PAGE_BYTES, type RoundSample, type TickSample } from "../samples.ts";
import { AutoConverge } from "./auto-converge.ts";
import { GuestMemory } from "./guest-memory.ts";
import { LEAST_MS, runningAgainMs, speedOf } from "./pace.ts";
import { RoundTally } from "./round-tally.ts";
import type { Scenario, Stretch } from "./scenario.ts";

/** A sync of the bitmap takes 1 ms, and so much more for all the memory: 40 ms for 1 TiB. */
const SYNC_MS = 1;
const SYNC_BYTES_PER_MS = 2 ** 40 / 40;
/** QEMU throttles at its second sync a second or more after the one before (migration_trigger_throttle, migration/ram.c). */
const THROTTLE_MS = 2000;
/** A residual that is sent within this is as good as none. */
const NOTHING_MS = 1;
/** Within a long round a policy is asked at most so often; nothing happens there that it would see. */
const TICKS_A_ROUND = 64;

export type Ending = "switched" | "aborted" | "endless";

/** What a simulated migration came to. */
export interface SimulatedRun {
  ending: Ending;
  totalMs: number;
  wireBytes: number;
  /** Null unless switched. */
  downtimeMs: number | null;
  downtimeParts: MeasuredParts | null;
  residualBytes: number;
  rounds: number;
  /** CPU time that a throttle took from the guest. */
  throttledMs: number;
  decisions: readonly TimedDecision[];
}

export type TimedDecision = { atMs: number } & Decision;

/** What can be listened to. */
export interface Witness {
  onRound?(round: RoundSample): void;
  onTick?(tick: TickSample): void;
  onDecision?(decision: TimedDecision): void;
}

/** The moment at which a switch-over would have cost least. */
export interface BestMoment {
  atMs: number;
  downtimeMs: number;
}

/** Runs one migration to its end, or to the scenario's horizon. */
export function simulate(scenario: Scenario, policy: Policy, witness: Witness = {}): SimulatedRun {
  return new Simulation(scenario, policy, witness).run();
}

export class Simulation {
  readonly #scenario: Scenario;
  readonly #policy: Policy;
  readonly #witness: Witness;
  readonly #memory: GuestMemory;
  readonly #syncMs: number;
  readonly #maxRawBytesPerSecond: number;
  readonly #autoConverge: AutoConverge | null;
  readonly #decisions: TimedDecision[] = [];
  #limit: LimitSetting;
  #nowMs = 0;
  #ending: Ending | undefined;
  #throttlePercent = 0;
  /** Asked for by the policy, and not yet in force. */
  #nextThrottle = { atMs: Number.POSITIVE_INFINITY, percent: 0 };
  #throttledMs = 0;
  #wireBytes = 0;
  #rawBytes = 0;
  #round: RoundTally;
  /** Of QEMU's window. */
  #windowStart = { atMs: 0, rawBytes: 0 };
  #qemuBytesPerSecond = 0;
  #dirtyRate = { atMs: 0, pages: 0, perSecond: 0 };
  /** When the last iteration began: what remains is looked at every ITERATION_MS from here. */
  #iterationMs = 0;
  #nextTickMs = 0;
  /** As fast as the link was seen to be: its speed while it is the bottleneck, else at least what went over it. */
  #goodputBytesPerSecond = 0;

  constructor(scenario: Scenario, policy: Policy, witness: Witness = {}) {
    this.#scenario = scenario;
    this.#policy = policy;
    this.#witness = witness;
    this.#memory = new GuestMemory(scenario.workload);
    this.#syncMs = SYNC_MS + scenario.workload.memoryBytes / SYNC_BYTES_PER_MS;
    const { hasSwitchoverBandwidth } = scenario;
    const start = policy.start({ memoryBytes: scenario.workload.memoryBytes, hasSwitchoverBandwidth });
    this.#limit = start.limit;
    this.#maxRawBytesPerSecond = start.maxBytesPerSecond ?? Number.POSITIVE_INFINITY;
    const atMs = scenario.startMs ?? 0;
    this.#nowMs = atMs;
    this.#round = new RoundTally(0, atMs);
    this.#windowStart.atMs = atMs;
    this.#dirtyRate.atMs = atMs;
    this.#iterationMs = atMs;
    this.#nextTickMs = atMs;
    this.#autoConverge = start.autoConverge ? new AutoConverge() : null;
  }

  run(): SimulatedRun {
    let downtimeParts: MeasuredParts | null = null;
    let residualBytes = 0;
    while (this.#ending === undefined) {
      if (!this.#advanceToLook()) continue;
      if (this.#memory.waitingPages * PAGE_BYTES >= this.#thresholdBytes()) continue;
      const round = this.#sync();
      if (this.#memory.waitingPages * PAGE_BYTES < this.#thresholdBytes()) {
        residualBytes = this.#memory.waitingPages * PAGE_BYTES;
        downtimeParts = this.#complete();
        this.#ending = "switched";
      } else this.#decide(this.#policy.onRound(round));
    }
    return {
      ending: this.#ending,
      totalMs: this.#nowMs,
      wireBytes: this.#wireBytes,
      downtimeMs: downtimeParts && Object.values(downtimeParts).reduce((sum, ms) => sum + ms, 0),
      downtimeParts,
      residualBytes,
      rounds: this.#round.number + 1,
      throttledMs: this.#throttledMs,
      decisions: this.#decisions,
    };
  }

  /** Like {@link run}, but whatever remains QEMU goes on to the horizon. */
  explore(): BestMoment {
    let best: BestMoment = { atMs: 0, downtimeMs: Number.POSITIVE_INFINITY };
    while (this.#ending === undefined) {
      if (!this.#advanceToLook()) continue;
      // No policy stops the bulk round on purpose.
      const isEarly = this.#round.number === 0 && this.#memory.waitingPages >= 0.5;
      if (isEarly || this.#memory.waitingPages * PAGE_BYTES >= this.#thresholdBytes()) continue;
      this.#sync();
      const downtimeMs = this.#runningAgainMs() - this.#nowMs;
      if (downtimeMs < best.downtimeMs) best = { atMs: this.#nowMs, downtimeMs };
      const bytesPerMs = this.#scenario.link(this.#nowMs).value / 1000;
      if (this.#memory.residual().wireBytes < bytesPerMs * NOTHING_MS) break;
    }
    return best;
  }

  /** Goes on to the next event. Returns whether it is one at which QEMU looks at what remains. */
  #advanceToLook(): boolean {
    const { horizonMs } = this.#scenario;
    const link = this.#scenario.link(this.#nowMs);
    const activity = this.#scenario.workload.activity(this.#nowMs);
    const next = this.#memory.next;
    const pagesPerMs = speedOf(next, link.value, this.#maxRawBytesPerSecond) / 1000;
    const lookMs = this.#lookMs(pagesPerMs);
    const stretchMs = pagesPerMs > 0 ? this.#nowMs + next.pages / pagesPerMs : Number.POSITIVE_INFINITY;
    if (this.#nowMs >= this.#nextThrottle.atMs) {
      this.#throttlePercent = this.#nextThrottle.percent;
      this.#nextThrottle.atMs = Number.POSITIVE_INFINITY;
    }
    // A link that is next to nothing now has QEMU look in years, and may be another one in a second.
    if (this.#nowMs >= this.#nextTickMs) this.#tick(Math.min(lookMs, link.untilMs));
    if (this.#ending !== undefined) return false;
    const nextMs = Math.min(
      lookMs,
      stretchMs,
      link.untilMs,
      activity.untilMs,
      this.#nextTickMs,
      this.#nextThrottle.atMs,
      horizonMs,
    );
    const untilMs = Math.max(nextMs, this.#nowMs + LEAST_MS);
    const wireBytesPerSecond = pagesPerMs * 1000 * next.wireBytesPerPage;
    const isLimiting = link.value > 0 && wireBytesPerSecond >= link.value * 0.999;
    if (isLimiting) this.#goodputBytesPerSecond = link.value;
    else this.#goodputBytesPerSecond = Math.max(this.#goodputBytesPerSecond, wireBytesPerSecond);
    this.#pass(untilMs, pagesPerMs, activity.value, next);
    if (this.#nowMs >= horizonMs) this.#ending = "endless";
    else if (this.#nowMs >= lookMs || this.#memory.waitingPages < 0.5) {
      this.#iterationMs = this.#nowMs;
      return true;
    }
    return false;
  }

  /** When QEMU next looks and may find less than its threshold. */
  #lookMs(pagesPerMs: number): number {
    const waiting = this.#memory.waitingPages;
    const surplus = waiting - this.#thresholdBytes() / PAGE_BYTES;
    if (pagesPerMs <= 0) return Number.POSITIVE_INFINITY;
    const belowMs = this.#nowMs + Math.max(0, surplus) / pagesPerMs;
    const iterations = Math.max(1, Math.ceil((belowMs - this.#iterationMs) / ITERATION_MS));
    const emptyMs = this.#nowMs + waiting / pagesPerMs;
    return Math.min(this.#iterationMs + iterations * ITERATION_MS, emptyMs);
  }

  #pass(untilMs: number, pagesPerMs: number, activity: number, next: Stretch): void {
    const ms = Math.max(0, untilMs - this.#nowMs);
    const pages = pagesPerMs * ms;
    this.#memory.run(ms, activity * (1 - this.#throttlePercent / 100));
    this.#memory.send(pages);
    this.#round.add(pages, next);
    this.#wireBytes += pages * next.wireBytesPerPage;
    this.#rawBytes += pages * next.rawBytesPerPage;
    this.#throttledMs += (ms * this.#throttlePercent) / 100;
    this.#nowMs = untilMs;
    const window = this.#windowStart;
    if (this.#nowMs - window.atMs < WINDOW_MS) return;
    const rate = pagesPerMs * 1000 * next.rawBytesPerPage;
    const isAllOfIt = ms >= 2 * WINDOW_MS;
    this.#qemuBytesPerSecond = isAllOfIt
      ? rate
      : ((this.#rawBytes - window.rawBytes) / (this.#nowMs - window.atMs)) * 1000;
    this.#windowStart = { atMs: this.#nowMs, rawBytes: this.#rawBytes };
  }

  #thresholdBytes(): number {
    const { downtimeLimitMs, bandwidthBytesPerSecond } = this.#limit;
    const bandwidth = bandwidthBytesPerSecond ?? this.#qemuBytesPerSecond;
    // Whole bytes per ms only where the bandwidth was given.
    const bytesPerMs = bandwidthBytesPerSecond === null ? bandwidth / 1000 : Math.floor(bandwidth / 1000);
    // With nothing left QEMU always looks; numbers of pages are expected ones here, so a part of one is nothing.
    return Math.max(PAGE_BYTES, bytesPerMs * downtimeLimitMs);
  }

  #sync(): RoundSample {
    const leftPages = this.#memory.waitingPages;
    const activity = this.#scenario.workload.activity(this.#nowMs).value;
    const dirtiedPages = this.#memory.sync();
    // The guest runs on while the bitmap is read.
    this.#memory.run(this.#syncMs, activity * (1 - this.#throttlePercent / 100));
    this.#nowMs += this.#syncMs;
    this.#iterationMs = this.#nowMs;
    this.#dirtyRate.pages += dirtiedPages;
    const { atMs, pages } = this.#dirtyRate;
    if (this.#nowMs - atMs >= 1000) {
      const throttle = this.#autoConverge?.onPeriod(this.#rawBytes, pages * PAGE_BYTES);
      if (throttle !== undefined) this.#throttlePercent = throttle;
      this.#dirtyRate = { atMs: this.#nowMs, pages: 0, perSecond: (pages * 1000) / (this.#nowMs - atMs) };
    }
    const round = this.#round.end(this.#nowMs, {
      leftPages,
      dirtiedPages,
      remainingBytes: this.#memory.waitingPages * PAGE_BYTES,
      goodputBytesPerSecond: this.#goodputBytesPerSecond,
      roundTripMs: this.#scenario.roundTripMs,
      restoreBytesPerSecond: null,
      throttlePercent: this.#throttlePercent,
    });
    this.#round = new RoundTally(round.round + 1, this.#nowMs);
    this.#witness.onRound?.(round);
    return round;
  }

  /** @param lastMs until then it goes on like this, so it need not be asked at every tick of a long time */
  #tick(lastMs: number): void {
    const tick: TickSample = {
      atMs: this.#nowMs,
      round: this.#round.number,
      remainingBytes: this.#memory.waitingPages * PAGE_BYTES,
      dirtyRatePagesPerSecond: this.#dirtyRate.perSecond,
      qemuBytesPerSecond: this.#qemuBytesPerSecond,
      goodputBytesPerSecond: this.#goodputBytesPerSecond,
      wireBytes: this.#wireBytes,
      throttlePercent: this.#throttlePercent,
    };
    const stretchMs = Number.isFinite(lastMs) ? (lastMs - this.#nowMs) / TICKS_A_ROUND : 0;
    this.#nextTickMs = this.#nowMs + Math.max(this.#policy.tickMs, stretchMs);
    this.#witness.onTick?.(tick);
    this.#decide(this.#policy.onTick(tick));
  }

  #decide(decision: Decision | undefined): void {
    if (decision === undefined) return;
    const timed = { atMs: this.#nowMs, ...decision };
    this.#decisions.push(timed);
    this.#witness.onDecision?.(timed);
    if (decision.kind === "limit" || decision.kind === "wait") this.#limit = decision.limit;
    else if (decision.kind === "switch") {
      this.#limit = { downtimeLimitMs: Number.MAX_SAFE_INTEGER, bandwidthBytesPerSecond: 1e12 };
    } else if (decision.kind === "throttle") {
      this.#nextThrottle = { atMs: this.#nowMs + THROTTLE_MS, percent: decision.percent };
    }
    if (decision.kind === "abort") this.#ending = "aborted";
  }

  /** The guest is stopped: sends what waits and the device state. */
  #complete(): MeasuredParts {
    const { transferMs, loadMs, handoffMs, resumeMs, deviceBytes } = this.#scenario;
    // What was written while the bitmap was read is found by a last sync, with the guest stopped.
    this.#memory.sync();
    const endMs = this.#runningAgainMs();
    const downtimeMs = endMs - this.#nowMs;
    this.#wireBytes += this.#memory.residual().wireBytes + deviceBytes;
    this.#nowMs = endMs;
    const residualMs = downtimeMs - transferMs - loadMs - handoffMs - resumeMs;
    return { residualMs, transferMs, loadMs, handoffMs, resumeMs };
  }

  #runningAgainMs(): number {
    return runningAgainMs(this.#scenario, this.#memory.residual(), this.#nowMs, this.#syncMs);
  }
}
