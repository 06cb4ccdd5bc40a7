import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { limitOf, type Policy } from "../../src/control/policy.ts";
import { PAGE_BYTES, type RoundSample } from "../../src/control/samples.ts";
import { AutoConverge } from "../../src/control/simulation/auto-converge.ts";
import { simulate } from "../../src/control/simulation/engine.ts";
import { GuestMemory } from "../../src/control/simulation/guest-memory.ts";
import { bestMoment } from "../../src/control/simulation/hindsight.ts";
import type { Scenario } from "../../src/control/simulation/scenario.ts";
import { constant, cycle, ramp, sawtooth, sequence, shifted, times } from "../../src/control/simulation/steps.ts";
import { aScenario, randomPages } from "./support/scenarios.ts";

/** Accepts what is given, from the start to the end. */
function accepting(thresholdBytes: number): Policy {
  return {
    name: "accepting",
    tickMs: 1000,
    start: () => ({ limit: limitOf(thresholdBytes, 1e6, true), maxBytesPerSecond: null, autoConverge: false }),
    onRound: () => undefined,
    onTick: () => undefined,
  };
}

function roundsOf(scenario: Scenario, policy: Policy): RoundSample[] {
  const rounds: RoundSample[] = [];
  simulate(scenario, policy, { onRound: (round) => void rounds.push(round) });
  return rounds;
}

describe("steps", () => {
  test.each([
    ["cycle", cycle({ ms: 10, value: 1 }, { ms: 5, value: 2 }), 27, { value: 2, untilMs: 30 }],
    ["shifted", shifted(cycle({ ms: 10, value: 1 }, { ms: 5, value: 2 }), 10), 1, { value: 2, untilMs: 5 }],
    ["times", times(cycle({ ms: 10, value: 3 }, { ms: 5, value: 2 }), constant(4)), 12, { value: 8, untilMs: 15 }],
    ["ramp", ramp(0, 10, 100, 10), 55, { value: 5, untilMs: 60 }],
    ["ramp, after its end", ramp(0, 10, 100, 10), 100, { value: 10, untilMs: Number.POSITIVE_INFINITY }],
    ["sawtooth", sawtooth(0, 3, 40, 4), 75, { value: 3, untilMs: 80 }],
    [
      "sequence",
      sequence(constant(1), 10, cycle({ ms: 4, value: 2 }, { ms: 4, value: 3 })),
      15,
      { value: 3, untilMs: 18 },
    ],
    ["sequence, before", sequence(constant(1), 10, constant(2)), 3, { value: 1, untilMs: 10 }],
  ])("%s", (_name, steps, ms, step) => {
    expect(steps(ms)).toEqual(step);
  });
});

describe("the guest's memory", () => {
  test("pages written at random: a share of 1 - 1/e after as many writes as pages", () => {
    const memory = new GuestMemory(aScenario({ classes: [randomPages(1000, 1000)] }).workload);
    memory.send(memory.waitingPages);
    memory.run(1000, 1);
    expect(memory.sync()).toBeCloseTo(1000 * (1 - 1 / Math.E), 9);
    memory.run(1000, 1);
    // Those that wait already are not found again.
    expect(memory.sync()).toBeCloseTo((1000 / Math.E) * (1 - 1 / Math.E), 9);
  });

  test("pages written one after the other: none twice before all were", () => {
    const walk = { ...randomPages(1000, 500), pattern: "walk" as const };
    const memory = new GuestMemory(aScenario({ classes: [walk] }).workload);
    memory.send(memory.waitingPages);
    memory.run(1000, 1);
    expect(memory.residual().pages).toBeCloseTo(500, 9);
    memory.run(2000, 1);
    expect(memory.sync()).toBeCloseTo(1000, 9);
  });
});

describe("QEMU's pre-copy", () => {
  test("a page that was written before it was sent is found all the same, and costs nothing if it is known", () => {
    const { workload } = aScenario({ pages: 1000, classes: [randomPages(1000, 1000)] });
    const memory = new GuestMemory({ ...workload, unchangedShare: 0.5 });
    // Each page is written once in a second on average, and sent at an even pace meanwhile.
    for (let step = 0; step < 100; step++) {
      memory.run(10, 1);
      memory.send(10);
    }
    expect(memory.sync()).toBeCloseTo(1000 * (1 - Math.exp(-1)), 6);
    // Written until x and not from there on to 1: the mean of (1 − e^−x) e^−(1−x) = 1 − 2/e.
    const unchanged = 1000 * (1 - 2 / Math.E);
    const found = 1000 * (1 - 1 / Math.E);
    expect(memory.next.wireBytesPerPage).toBeCloseTo(PAGE_BYTES * (1 - (0.5 * unchanged) / found), 6);
    // Half a second later e^−½ of them are so still.
    memory.run(500, 1);
    expect(memory.next.wireBytesPerPage).toBeCloseTo(PAGE_BYTES * (1 - (0.5 * unchanged * Math.exp(-0.5)) / found), 6);
    memory.send(memory.waitingPages / 2);
    expect(memory.residual().wireBytes).toBeLessThan(memory.residual().pages * PAGE_BYTES);
  });

  test("a guest that writes nothing: one round, and a downtime of its fixed parts", () => {
    const scenario = aScenario({ pages: 10_000, classes: [] });
    const run = simulate(scenario, accepting(PAGE_BYTES));
    expect(run).toMatchObject({ ending: "switched", rounds: 2, throttledMs: 0 });
    expect(run.residualBytes).toBeCloseTo(0, 6);
    // 10,000 pages at 1,000 a second; syncs take a ms.
    const fixedMs = scenario.deviceBytes / 4096 + scenario.deviceMs + scenario.loadMs + scenario.resumeMs + 2;
    expect(run.downtimeMs).toBeCloseTo(fixedMs + 1, 0);
    expect(run.totalMs).toBeGreaterThan(10_000 - 250);
    expect(run.totalMs).toBeLessThan(10_060 + fixedMs);
  });

  test("rounds of a walk at half of what is sent halve", () => {
    const walk = { ...randomPages(8000, 500), pattern: "walk" as const };
    const rounds = roundsOf(aScenario({ pages: 10_000, classes: [walk] }), accepting(PAGE_BYTES));
    expect(rounds.slice(0, 4).map((round) => Math.round(round.dirtiedPages / 100) * 100)).toEqual([
      5000, 2500, 1300, 600,
    ]);
    for (const round of rounds)
      expect(round.remainingBytes).toBeCloseTo((round.leftPages + round.dirtiedPages) * PAGE_BYTES, 6);
  });

  test("rounds of random writes at twice what is sent come to the fixed point of D(T)", () => {
    const scenario = aScenario({ pages: 10_000, classes: [randomPages(2000, 2000)] });
    const last = roundsOf(scenario, accepting(PAGE_BYTES)).at(-1)!;
    // x = 1 - e^(-2x) is 0.7968
    expect(last.dirtiedPages / 2000).toBeCloseTo(0.7968, 2);
  });

  test("looking all the time leaves the mean of D over the ages instead: 1 - 1/2", () => {
    const scenario = aScenario({ pages: 10_000, classes: [randomPages(2000, 2000)] });
    const { downtimeMs } = bestMoment(scenario);
    const fixedMs = simulate(aScenario({ pages: 10_000, classes: [] }), accepting(PAGE_BYTES)).downtimeMs!;
    expect((downtimeMs - fixedMs) / 2000).toBeGreaterThan(0.49);
    expect((downtimeMs - fixedMs) / 2000).toBeLessThan(0.56);
  });

  test("without a bandwidth given, QEMU takes its own of the last 100 ms, of raw bytes", () => {
    const stretches = [
      { form: "literal" as const, pages: 5000, wireBytesPerPage: 4096, rawBytesPerPage: 4104 },
      { form: "disk" as const, pages: 100_000, wireBytesPerPage: 20, rawBytesPerPage: 4104 },
    ];
    const scenario = aScenario({ pages: 105_000, classes: [randomPages(2000, 500)], stretches });
    const fixed: Policy = {
      ...accepting(0),
      start: () => ({
        limit: { downtimeLimitMs: 300, bandwidthBytesPerSecond: null },
        maxBytesPerSecond: null,
        autoConverge: false,
      }),
    };
    // The disk pages at the end go by at 200 times the link's speed, and QEMU believes that all will.
    const run = simulate(scenario, fixed);
    expect(run.rounds).toBe(1 + 1);
    expect(run.downtimeMs).toBeGreaterThan(1000);
  });

  test("a link that stands still stops the sending and nothing else", () => {
    const link = cycle({ ms: 2000, value: 4096e3 }, { ms: 10_000, value: 0 });
    const run = simulate({ ...aScenario({ pages: 3000, classes: [] }), link }, accepting(1e5));
    expect(run.ending).toBe("switched");
    expect(run.totalMs).toBeGreaterThan(12_900);
  });

  test("auto-converge throttles after two periods of too much dirt, and more and more", () => {
    const throttle = new AutoConverge();
    const percents = Array.from({ length: 20 }, (_, i) => throttle.onPeriod((i + 1) * 100, 60)).filter(
      (p) => p !== undefined,
    );
    expect(percents).toEqual([20, 30, 40, 50, 60, 70, 80, 90, 99]);
    expect(new AutoConverge().onPeriod(100, 40)).toBeUndefined();
  });

  test("numbers stay sane whatever is simulated", () => {
    const scenarios = fc.record({
      pages: fc.integer({ min: 1000, max: 1_000_000 }),
      share: fc.double({ min: 0.001, max: 1, noNaN: true }),
      writes: fc.double({ min: 0, max: 1e6, noNaN: true }),
      cost: fc.double({ min: 1, max: 8192, noNaN: true }),
      speed: fc.double({ min: 1e5, max: 1e10, noNaN: true }),
      threshold: fc.integer({ min: 1, max: 2 ** 30 }),
    });
    fc.assert(
      fc.property(scenarios, ({ pages, share, writes, cost, speed, threshold }) => {
        const classes = [{ ...randomPages(pages * share, writes), wireBytesPerPage: cost }];
        const scenario = { ...aScenario({ pages, classes }), link: constant(speed), horizonMs: 60_000 };
        const run = simulate(scenario, accepting(threshold), {
          onRound: (round) => {
            const { pages: sent, dirtiedPages, leftPages, durationMs, wireBytes, remainingBytes } = round;
            const least = Math.min(sent, dirtiedPages, leftPages, durationMs, wireBytes);
            if (!(least >= 0)) expect(round).toBe("without negative numbers"); // there are too many rounds for an expect each
            if (!(remainingBytes <= pages * PAGE_BYTES * 1.000001)) expect(round).toBe("within the memory");
          },
        });
        if (run.ending === "switched")
          expect(run.residualBytes).toBeLessThan(Math.max(PAGE_BYTES, threshold * 1.01 + 1000));
        expect(run.totalMs).toBeGreaterThan(0);
      }),
      { numRuns: 100 },
    );
  });

  test("accepting more never makes a steady load take longer", () => {
    const scenario = aScenario({ pages: 20_000, classes: [randomPages(4000, 1500)] });
    const totals = [8, 9, 10, 11, 12, 13, 14, 15].map(
      (pages) => simulate(scenario, accepting(pages * 256 * PAGE_BYTES)).totalMs,
    );
    for (let i = 1; i < totals.length; i++) expect(totals[i]!).toBeLessThanOrEqual(totals[i - 1]! + 2500);
  });
});
