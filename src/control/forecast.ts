/** How a migration will go on: simulated with the load and the link that were seen so far, under the policy that decides. */
import { medianOf } from "./arithmetic.ts";
import type { Estimate } from "./downtime.ts";
import { hasPaused, knownShareOf, pauses } from "./pauses.ts";
import type { Policy } from "./policy.ts";
import { type MigrationFacts, PAGE_BYTES, type RoundSample } from "./samples.ts";
import { sendingOf } from "./sending.ts";
import { simulate } from "./simulation/engine.ts";
import { NoisySamples } from "./simulation/noise.ts";
import { pagesOf, type Scenario } from "./simulation/scenario.ts";
import { constant, cycle, randomOf, type Steps, sequence, times } from "./simulation/steps.ts";
import { loadOf } from "./simulation/trace-load.ts";

/** Of the rounds after the bulk round so many tell of the load. */
const MAX_ROUNDS = 32;
/** So many show by themselves whether the load pauses. */
const TELLING_ROUNDS = 4;
/** Simulated; what is expected is their median. */
const DRAWS = 9;
/** Whoever asks has pages to send: no further draw begins after so many events of simulations, of 10 to 25 µs. */
const EVENTS_A_LOOK = 400;
/** The rest is simulated anew once the migration has lasted so many times as long: a few dozen times in all. */
const FORECAST_AGAIN = 1.1;
/**
 * From one such stretch of time to the next the pace of a link differs by up to so much, and what a guest writes. Of steady loads in the lab the
 * deviation was 10 % over rounds of 0.1 s, 5.5 % of 0.2 s and 1.6 % of 2 s; of what they wrote 3.3 %, 2.5 % and 0.9 %.
 */
const PACE_SHARE = 0.15;
const WRITES_SHARE = 0.06;
const WAVER_MS = 100;
const WAVERS = 151;
/** What nine of ten migrations of steady loads took, in shares of the shortest and the longest draw … */
const STEADY = { low: 0.8, high: 1.2 };
/** … and about what others did: before it has shown its phases nobody knows them. */
const UNSTEADY = { low: 0.25, high: 4 };
/** A migration that goes on for longer is not foreseen. */
const HORIZON_MS = 3_600_000;
const HORIZON_TIMES = 20;

/** What the rest is expected to be like. */
export interface Rest {
  /** From the start of the migration to its end. */
  totalMs: Estimate;
  /** Left when the guest is stopped. */
  residualPages: number;
}

/** What was seen of the link, and what the guest's switch-over costs. */
export interface Seen {
  pagesPerMs: number;
  wireBytesPerPage: number;
  roundTripMs: number;
  /** All parts of the downtime but the residual. */
  fixedMs: number;
  /** The load was so far, and the link as well. */
  isSteady: boolean;
}

/** From the end of the last round on; null without an end in sight. */
interface Draw {
  rest: { ms: number; residualPages: number } | null;
  events: number;
}

/** Keeps the rounds that forecasts are made from. */
export class Forecaster {
  readonly #facts: MigrationFacts;
  #bulk: RoundSample | undefined;
  readonly #later: RoundSample[] = [];
  #rest: Rest | null = null;
  /** Foreseen last, or about to be, after so long. */
  #atMs = 0;
  #foreseeing: Generator<number, Rest | null> | undefined;

  constructor(facts: MigrationFacts) {
    this.#facts = facts;
  }

  add(round: RoundSample): void {
    if (round.durationMs <= 0) return;
    if (round.round === 0) this.#bulk = round;
    else this.#later.push(round);
    if (this.#later.length > MAX_ROUNDS) this.#later.shift();
  }

  /**
   * As it was foreseen last. Now and then that begins anew, and then takes some calls, as each does but a part of it.
   *
   * @param makePolicy makes one that decides as the one which asks would
   * @returns null before the first time, for which two rounds have to be through, and where no end comes in sight
   */
  rest(seen: Seen, makePolicy: () => Policy): Rest | null {
    const [bulk, last] = [this.#bulk, this.#later.at(-1)];
    if (bulk === undefined || last === undefined || !(seen.pagesPerMs > 0)) return null;
    if (this.#foreseeing === undefined && last.atMs > this.#atMs * FORECAST_AGAIN) {
      this.#atMs = last.atMs;
      this.#foreseeing = this.#foresee(bulk, last, seen, makePolicy);
    }
    for (let events = 0; this.#foreseeing !== undefined && events < EVENTS_A_LOOK; ) {
      const step = this.#foreseeing.next();
      if (step.done) [this.#rest, this.#foreseeing] = [step.value, undefined];
      else events += step.value;
    }
    return this.#rest;
  }

  /** Yields the events of each draw. */
  *#foresee(
    bulk: RoundSample,
    last: RoundSample,
    seen: Seen,
    makePolicy: () => Policy,
  ): Generator<number, Rest | null> {
    const scenario = this.#scenario(bulk, last, seen);
    const leftMs = last.remainingBytes / PAGE_BYTES / seen.pagesPerMs + seen.fixedMs;
    const { activity, classes } = scenario.workload;
    const before = this.#later.at(-2) ?? bulk;
    const mayPause = this.#later.length < TELLING_ROUNDS && hasPaused(before, last, pagesOf(classes));
    const seenMs = this.#later.reduce((sum, { durationMs }) => sum + durationMs, bulk.durationMs);
    const rests: NonNullable<Draw["rest"]>[] = [];
    for (let seed = 1; seed <= DRAWS; seed++) {
      const random = randomOf(seed);
      const link = wavering(scenario.link(0).value, PACE_SHARE, random);
      const goesOn = mayPause ? sequence(activity, seenMs, pauses(seenMs, random)) : activity;
      const workload = { ...scenario.workload, activity: times(goesOn, wavering(1, WRITES_SHARE, random)) };
      const draw = drawOf({ ...scenario, workload, link }, new NoisySamples(makePolicy(), seed), last.round, leftMs);
      if (draw.rest !== null) rests.push(draw.rest);
      yield draw.events;
    }
    if (rests.length <= DRAWS / 2) return null;
    const restsMs = rests.map(({ ms }) => ms).sort((a, b) => a - b);
    const { low, high } = seen.isSteady ? STEADY : UNSTEADY;
    const totalMs = {
      expected: last.atMs + medianOf(restsMs)!,
      low: last.atMs + low * restsMs[0]!,
      high: last.atMs + high * restsMs.at(-1)!,
    };
    return { totalMs, residualPages: medianOf(rests.map(({ residualPages }) => residualPages))! };
  }

  /** What was seen, and goes on like that. */
  #scenario(bulk: RoundSample, last: RoundSample, seen: Seen): Scenario {
    const { memoryBytes, hasSwitchoverBandwidth } = this.#facts;
    const memoryPages = memoryBytes / PAGE_BYTES;
    const { bytesPerMs, wireBytesPerPage, isLinkBound } = sendingOf(this.#later, seen);
    const load = loadOf([bulk, ...this.#later], memoryPages, wireBytesPerPage);
    const knownShare = knownShareOf(this.#later.at(-2) ?? bulk, last, pagesOf(load.classes));
    // As long as it was.
    const perPage = (bytesPerMs * bulk.durationMs) / memoryPages;
    return {
      name: "rest",
      workload: {
        name: "rest",
        memoryBytes,
        stretches: [{ form: "literal", pages: memoryPages, wireBytesPerPage: perPage, rawBytesPerPage: 1 }],
        ...load,
        unchangedShare: isLinkBound ? knownShare : 0,
      },
      link: constant(bytesPerMs * 1000),
      roundTripMs: seen.roundTripMs,
      deviceBytes: 0,
      deviceMs: seen.fixedMs,
      transferMs: 0,
      loadMs: 0,
      handoffMs: 0,
      resumeMs: 0,
      hasSwitchoverBandwidth,
      horizonMs: HORIZON_MS + HORIZON_TIMES * last.atMs,
      hindsightMs: 0,
    };
  }
}

function drawOf(scenario: Scenario, policy: Policy, lastRound: number, leftMs: number): Draw {
  let lastMs: number | undefined;
  let events = 1;
  const onTick = () => events++;
  const onRound = ({ round, atMs }: RoundSample) => {
    events++;
    if (round === lastRound) lastMs = atMs;
  };
  const { ending, totalMs, residualBytes } = simulate(scenario, policy, { onTick, onRound });
  const ms = lastMs === undefined ? leftMs : totalMs - lastMs;
  return { rest: ending === "switched" ? { ms, residualPages: residualBytes / PAGE_BYTES } : null, events };
}

function wavering(mean: number, share: number, random: () => number): Steps {
  const value = () => mean * (1 + share * (2 * random() - 1));
  return cycle(...Array.from({ length: WAVERS }, () => ({ ms: WAVER_MS, value: value() })));
}
