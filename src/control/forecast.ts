/** How a migration will go on: simulated with the load and the link that were seen so far, under the policy that decides. */
import type { Estimate } from "./downtime.ts";
import type { Policy } from "./policy.ts";
import { type MigrationFacts, PAGE_BYTES, type RoundSample } from "./samples.ts";
import { simulate } from "./simulation/engine.ts";
import { constant } from "./simulation/steps.ts";
import { loadOf } from "./simulation/trace-load.ts";

/** Of the rounds after the bulk round so many tell of the load. */
const MAX_ROUNDS = 32;
/** What nine of ten simulated migrations of steady loads took, in shares of the rest that was expected … */
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

/** Keeps the rounds that forecasts are made from. */
export class Forecaster {
  readonly #facts: MigrationFacts;
  #bulk: RoundSample | undefined;
  readonly #later: RoundSample[] = [];

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
   * @param policy a new one, that decides as the one which asks would
   * @returns null until two rounds are through, or where no end comes in sight
   */
  rest(seen: Seen, policy: Policy): Rest | null {
    const [bulk, last] = [this.#bulk, this.#later.at(-1)];
    if (bulk === undefined || last === undefined || !(seen.pagesPerMs > 0)) return null;
    const { memoryBytes, hasSwitchoverBandwidth } = this.#facts;
    const memoryPages = memoryBytes / PAGE_BYTES;
    const { wireBytesPerPage } = seen;
    const bytesPerMs = seen.pagesPerMs * wireBytesPerPage;
    const load = loadOf([bulk, ...this.#later], memoryPages, wireBytesPerPage);
    let sameAtMs: number | undefined;
    const run = simulate(
      {
        name: "rest",
        workload: {
          name: "rest",
          memoryBytes,
          // As long as it was.
          stretches: [
            {
              form: "literal",
              pages: memoryPages,
              wireBytesPerPage: (bytesPerMs * bulk.durationMs) / memoryPages,
              rawBytesPerPage: 1,
            },
          ],
          ...load,
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
      },
      policy,
      {
        onRound: ({ round, atMs }) => {
          if (round === last.round) sameAtMs = atMs;
        },
      },
    );
    if (run.ending !== "switched") return null;
    const leftMs = last.remainingBytes / PAGE_BYTES / seen.pagesPerMs + seen.fixedMs;
    const restMs = sameAtMs === undefined ? leftMs : run.totalMs - sameAtMs;
    const { low, high } = seen.isSteady ? STEADY : UNSTEADY;
    const totalMs = {
      expected: last.atMs + restMs,
      low: last.atMs + low * restMs,
      high: last.atMs + high * restMs,
    };
    return { totalMs, residualPages: run.residualBytes / PAGE_BYTES };
  }
}
