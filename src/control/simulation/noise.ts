/** Samples as they are in reality, of a simulation whose own are exact: late, and measured with errors. Pure, by a seed. */
import type { Decision, Policy, StartSettings } from "../policy.ts";
import type { MigrationFacts, RoundSample, TickSample } from "../samples.ts";
import type { Scenario } from "./scenario.ts";
import { randomOf } from "./steps.ts";

/** A goodput is off by a tenth or so, as ACKs come in lumps (src/wire/backlog.ts). */
const GOODPUT_SHARE = 0.1;
const ROUND_TRIP_SHARE = 0.5;
/** query-migrate is asked ten times a second, and what went over the wire since is not exactly known. */
const REMAINING_SHARE = 0.02;
const COST_SHARE = 0.03;
/** One tick of so many is lost. */
const LOST_SHARE = 0.05;

/** Tells `policy` what a simulation tells it, but not exactly. */
export class NoisySamples implements Policy {
  readonly name: string;
  readonly tickMs: number;
  readonly #policy: Policy;
  readonly #random: () => number;

  constructor(policy: Policy, seed: number) {
    this.name = policy.name;
    this.tickMs = policy.tickMs;
    this.#policy = policy;
    this.#random = randomOf(seed);
  }

  start(facts: MigrationFacts): StartSettings {
    return this.#policy.start(facts);
  }

  onRound(round: RoundSample): Decision | undefined {
    const cost = this.#about(1, COST_SHARE);
    const scaled = Object.entries(round.wireBytesByForm).map(([form, bytes]) => [form, bytes * cost]);
    return this.#policy.onRound({
      ...round,
      wireBytes: round.wireBytes * cost,
      wireBytesByForm: Object.fromEntries(scaled),
      goodputBytesPerSecond: this.#about(round.goodputBytesPerSecond, GOODPUT_SHARE),
      roundTripMs: round.roundTripMs === null ? null : this.#about(round.roundTripMs, ROUND_TRIP_SHARE),
    });
  }

  onTick(tick: TickSample): Decision | undefined {
    if (this.#random() < LOST_SHARE) return undefined;
    return this.#policy.onTick({
      ...tick,
      remainingBytes: this.#about(tick.remainingBytes, REMAINING_SHARE),
      goodputBytesPerSecond: this.#about(tick.goodputBytesPerSecond, GOODPUT_SHARE),
    });
  }

  /** Within `share` of it, small errors being as frequent as large ones. */
  #about(value: number, share: number): number {
    return value * (1 + share * (2 * this.#random() - 1));
  }
}

/** The same, with parts of the downtime as they were measured between real QEMUs, small ones being more frequent than large ones. */
export function withUsualParts(scenario: Scenario, seed: number): Scenario {
  const random = randomOf(seed);
  const between = (low: number, high: number) => low + (high - low) * random() ** 2;
  return {
    ...scenario,
    deviceMs: between(1, 12),
    transferMs: between(3, 40),
    loadMs: between(2, 18),
    handoffMs: between(3, 30),
    resumeMs: between(14, 60),
  };
}
