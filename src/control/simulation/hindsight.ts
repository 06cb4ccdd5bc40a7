import type { LimitSetting, Policy, StartSettings } from "../policy.ts";
import { type BestMoment, Simulation } from "./engine.ts";
import type { Scenario } from "./scenario.ts";

/**
 * The best moment in hindsight: of all the syncs of a QEMU that never switches over, until the scenario's `hindsightMs`. Once with
 * whole rounds, once looking all the time, since a threshold decides which of the two QEMU does.
 */
export function bestMoment(scenario: Scenario): BestMoment {
  const until = { ...scenario, horizonMs: scenario.hindsightMs };
  const whole = new Simulation(until, new NeverSwitch(1)).explore();
  const rolling = new Simulation(until, new NeverSwitch(Number.MAX_SAFE_INTEGER)).explore();
  return whole.downtimeMs < rolling.downtimeMs ? whole : rolling;
}

/** Has QEMU look at every iteration, or only when all is sent. */
class NeverSwitch implements Policy {
  readonly name = "never";
  readonly tickMs = Number.POSITIVE_INFINITY;
  readonly #limit: LimitSetting;

  constructor(thresholdBytes: number) {
    this.#limit = { downtimeLimitMs: 1, bandwidthBytesPerSecond: thresholdBytes };
  }

  start(): StartSettings {
    return { limit: this.#limit, maxBytesPerSecond: null, autoConverge: false };
  }

  onRound(): undefined {}

  onTick(): undefined {}
}
