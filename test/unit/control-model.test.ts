import { describe, expect, test } from "vitest";
import { AdaptivePolicy } from "../../src/control/adaptive.ts";
import { DowntimeModel, totalOf } from "../../src/control/downtime.ts";
import { fitLine } from "../../src/control/regression.ts";
import { ResidualHistory } from "../../src/control/residuals.ts";
import { simulate } from "../../src/control/simulation/engine.ts";
import { randomOf } from "../../src/control/simulation/steps.ts";
import { throttleFor } from "../../src/control/throttle.ts";
import { WorkingSetModel } from "../../src/control/working-set.ts";
import { aRound } from "./support/control.ts";
import { aScenario, randomPages } from "./support/scenarios.ts";

const points = (...xy: [number, number][]) => xy.map(([x, y]) => ({ x, y, weight: 1 }));

describe("the line", () => {
  test("goes through two points, and says nothing about its error", () => {
    const line = fitLine(points([1, 5], [3, 9]));
    expect([line.intercept, line.slope, line.deviation, line.margin(2)]).toEqual([3, 2, null, null]);
  });

  test("of four points, with its interval, as computed by hand", () => {
    // x̄ 2.5, ȳ 4.5, Sxx 5, Sxy 7: slope 1.4, intercept 1; residuals -0.4, 1.2, -1.2, 0.4; σ² = 3.2 / 2
    const line = fitLine(points([1, 2], [2, 5], [3, 4], [4, 7]));
    expect(line.slope).toBeCloseTo(1.4, 12);
    expect(line.intercept).toBeCloseTo(1, 12);
    expect(line.deviation).toBeCloseTo(Math.sqrt(1.6), 12);
    // t(0.95, 2) 2.92; at x̄ + 2.5 the lever is 6.25 / 5
    expect(line.margin(5)).toBeCloseTo(2.92 * Math.sqrt(1.6 * (1 + 0.25 + 1.25)), 12);
  });

  test("leans to the heavier points: a point of weight 2 is two points", () => {
    const twice = fitLine(points([0, 0], [1, 1], [1, 1], [2, 5]));
    const heavy = fitLine([
      { x: 0, y: 0, weight: 1 },
      { x: 1, y: 1, weight: 2 },
      { x: 2, y: 5, weight: 1 },
    ]);
    expect([heavy.slope, heavy.intercept]).toEqual([twice.slope, twice.intercept]);
  });

  test("is level where all x are alike", () => {
    const line = fitLine(points([4, 1], [4, 3]));
    expect([line.slope, line.intercept]).toEqual([0, 2]);
  });
});

describe("the working set", () => {
  function model(memoryPages: number, ...rounds: [guestMs: number, pages: number][]): WorkingSetModel {
    const model = new WorkingSetModel(memoryPages);
    for (const [guestMs, pages] of rounds) model.add({ guestMs, pages });
    return model;
  }

  test("is a line where rounds were as long, and no more than the memory", () => {
    const set = model(5000, [1000, 2000], [2000, 3000]);
    expect(set.pages(1500)).toBeCloseTo(2500, 9);
    expect(set.pages(3000)).toBeCloseTo(4000, 9);
    expect(set.pages(9000)).toBe(5000);
    expect(set.pages(0)).toBe(0);
  });

  test("goes on to 0 along the curve of random writes that has the elasticity of its shortest round", () => {
    // slope 1, D(1000) = 2000: elasticity 0.5, so x = 1.2564; 2000 (1 − e^(−x/4)) / (1 − e^(−x)) and 2000 (1 / (1 − e^(−x)) − 1/x)
    const set = model(1e9, [1000, 2000], [2000, 3000]);
    expect(set.pages(250)).toBeCloseTo(753.66, 1);
    expect(set.rollingPages(1000)).toBeCloseTo(1204.1, 0);
  });

  test("a load that has changed is the mean of the latest rounds, which weigh more", () => {
    const set = model(1e9, [1000, 5000], [2000, 3000]);
    const older = 0.5 ** 0.5;
    expect(set.pages(2000)).toBeCloseTo((5000 * older + 3000) / (1 + older), 9);
  });

  test("finds where rounds lead to: D(T) = 1000 + T, at 2 pages a ms, is T = 1000", () => {
    expect(model(1e9, [1000, 2000], [2000, 3000]).fixedPointMs(2)).toBeCloseTo(1000, -1);
    // A guest that writes faster than pages are sent fills its memory: 4000 pages at 1 a ms.
    expect(model(4000, [500, 1000], [1000, 2000]).fixedPointMs(1)).toBeCloseTo(4000, 6);
  });

  test("of a round that was cut short, what was waiting was dirtied like the rest: 18,000 of 24,000, so 24,000 of 32,000", () => {
    const model = new WorkingSetModel(100_000);
    model.addRound(aRound({ round: 1, durationMs: 2000, dirtiedPages: 32_000, leftPages: 0 }));
    model.addRound(aRound({ round: 2, durationMs: 3000, throttlePercent: 50, dirtiedPages: 18_000, leftPages: 8000 }));
    expect(model.pages(1500)).toBeCloseTo(24_000, 6);
    expect(model.pages(2000)).toBeCloseTo(32_000, 6);
  });

  test("what is left of the bulk round need not be of the working set", () => {
    const model = new WorkingSetModel(100_000);
    model.addRound(aRound({ round: 0, durationMs: 3000, dirtiedPages: 10_000, leftPages: 20_000 }));
    expect(model.pages(3000)).toBe(10_000);
  });

  test("is unsure by the distance while there are two rounds only, then by how well they fit", () => {
    const two = model(1e9, [1000, 2000], [2000, 3000]);
    const { low, high } = two.interval(2000 * Math.E);
    expect((high - low) / 2).toBeCloseTo(0.25 * two.pages(2000 * Math.E), 6);
    expect(two.interval(1000)).toEqual({ expected: two.pages(1000), low: two.pages(1000), high: two.pages(1000) });
    expect(two.unsteadiness).toBeNull();
    expect(model(1e9, [1000, 2000], [2000, 3000], [3000, 4000]).unsteadiness).toBeCloseTo(0, 9);
    expect(model(1e9, [1000, 2000], [2000, 6000], [3000, 4000]).unsteadiness).toBeGreaterThan(0.25);
  });

  test("a throttle is as little as makes the fixed point low enough", () => {
    // 4000 pages as soon as written to for 1 ms a page: D(T) = min(T, 4000), sent at 0.5 a ms.
    const set = model(4000, [1000, 1000], [2000, 2000]);
    expect(throttleFor(set, 0.5, 4000, 0)).toBe(4); // nothing to do but the margin
    const percent = throttleFor(set, 0.5, 100, 0)!;
    expect(percent).toBeGreaterThan(50); // D(T s) = s T must be less than what is sent, 0.5 T
    expect(percent).toBeLessThanOrEqual(54);
    expect(throttleFor(set, 0.001, 100, 0)).toBe(20); // none is enough, as far as is known
  });
});

describe("the downtime", () => {
  const parts = { residualMs: 900, transferMs: 5, loadMs: 100, handoffMs: 3, resumeMs: 10 };
  const residual = (ms: number) => ({
    sendMs: { expected: ms, low: ms, high: ms },
    goodputBytesPerSecond: 1e6,
    roundTripMs: 0,
    isLinkBound: false,
  });

  test("is residual and the parts that do not depend on it", () => {
    const model = new DowntimeModel();
    const [none, some] = [model.predict(residual(0)), model.predict(residual(200))];
    expect(some.residualMs.expected - none.residualMs.expected).toBeCloseTo(200, 9);
    expect(some.loadMs).toEqual(none.loadMs);
    const total = totalOf(some);
    const sum = Object.values(some).reduce((sum, part) => sum + part.expected, 0);
    expect(total.expected).toBeCloseTo(sum, 9);
    expect(total.low).toBeLessThan(sum);
    expect(total.high).toBeGreaterThan(sum);
  });

  test("moves from the prior to what the VM's earlier migrations came to", () => {
    const load = (...ms: number[]) =>
      new DowntimeModel(ms.map((loadMs) => ({ parts: { ...parts, loadMs }, roundTripMs: 1 }))).predict(residual(0))
        .loadMs;
    expect(load()).toEqual({ expected: 6, low: 1, high: 25 });
    expect(load(16)).toEqual({ expected: (6 + 16) / 2, low: 11 - 5 / 2 - 5, high: 11 + 19 / 2 });
    expect(load(100, 100).expected).toBeCloseTo((6 + 2 * 100) / 3, 9);
    const [few, many] = [load(100, 100), load(...Array.from({ length: 9 }, () => 100))];
    expect(many.expected).toBeCloseTo((6 + 9 * 100) / 10, 9);
    expect(many.high - many.low).toBeLessThan(few.high - few.low);
  });

  test("what only one of them took so long is not believed beyond the prior's interval", () => {
    const load = (...ms: number[]) =>
      new DowntimeModel(ms.map((loadMs) => ({ parts: { ...parts, loadMs }, roundTripMs: 1 }))).predict(residual(0))
        .loadMs;
    expect(load(30_000).expected).toBe((6 + 25) / 2);
    expect(load(10, 30_000).expected).toBeCloseTo((6 + 2 * 17.5) / 3, 9);
    expect(load(10, 10, 10, 30_000, 30_000).expected).toBeCloseTo((6 + 5 * 10) / 6, 9);
    expect(load(3000, 3000).low).toBeGreaterThan(500);
  });

  test("an absurd history makes no absurd decision", () => {
    const random = randomOf(1);
    const absurd = [0, 1e-300, 5, 500, 1e9, 1e300, Number.MAX_VALUE];
    const any = () => absurd[Math.floor(random() * absurd.length)]!;
    for (let i = 0; i < 500; i++) {
      const earlier = Array.from({ length: 1 + Math.floor(random() * 8) }, () => ({
        parts: { residualMs: any(), transferMs: any(), loadMs: any(), handoffMs: any(), resumeMs: any() },
        roundTripMs: any(),
      }));
      const { expected, low, high } = new DowntimeModel(earlier).fixedMs(1e6, 1);
      expect(low).toBeGreaterThanOrEqual(0);
      expect(low).toBeLessThanOrEqual(expected);
      expect(expected).toBeLessThanOrEqual(high);
      expect(high).toBeLessThan(1e8);
    }
    // One of them alone breaks no promise.
    const one = { parts: { residualMs: 1e300, transferMs: 1e300, loadMs: 1e300, handoffMs: 1e300, resumeMs: 1e300 } };
    const policy = new AdaptivePolicy({ maxDowntimeMs: 500, onStall: "abort" }, [{ ...one, roundTripMs: 1 }]);
    const scenario = aScenario({ pages: 20_000, classes: [randomPages(4000, 100)] });
    expect(simulate(scenario, policy)).toMatchObject({ ending: "switched" });
  });

  test("round trips are the link's, not the VM's", () => {
    const near = new DowntimeModel([{ parts, roundTripMs: 2 }]);
    const far = near.predict({ ...residual(0), roundTripMs: 100 });
    expect(far.handoffMs.expected).toBeCloseTo((8 + (3 - 2)) / 2 + 100, 9);
    expect(far.transferMs.expected).toBeCloseTo((10 + (5 - 1)) / 2 + 50, 9);
    expect(far.loadMs).toEqual(near.predict(residual(0)).loadMs);
  });

  test("of a link that is the bottleneck the queue is full, as far as there is as much left to send", () => {
    const transfer = (earlier: number, ms: number, isLinkBound: boolean) =>
      new DowntimeModel(Array.from({ length: earlier }, () => ({ parts, roundTripMs: 0 }))).predict({
        ...residual(ms),
        isLinkBound,
      }).transferMs.expected;
    expect(transfer(0, 2000, false)).toBe(10);
    expect(transfer(0, 2000, true)).toBeCloseTo(10 + 524.288, 9); // 512 KiB at 1 MB/s
    expect(transfer(0, 30, true)).toBe(40);
    // What was measured has its queue in it.
    expect(transfer(3, 2000, true)).toBeCloseTo((10 + 524.288 + 3 * 5) / 4, 9);
  });

  test("errors that have nothing to do with each other add up as squares", () => {
    const part = { expected: 10, low: 7, high: 14 };
    expect(totalOf([part, { expected: 10, low: 6, high: 13 }])).toEqual({ expected: 20, low: 15, high: 25 });
  });
});

describe("residuals", () => {
  function history(...entries: [atMs: number, pages: number][]): ResidualHistory {
    const history = new ResidualHistory();
    for (const [atMs, pages] of entries) history.add(atMs, pages);
    return history;
  }

  test("a valley that comes often enough is worth the wait", () => {
    // 1000 pages, but 100 every 400 ms; one page a ms.
    const entries = Array.from({ length: 41 }, (_, i): [number, number] => [i * 100, i % 4 === 3 ? 100 : 1000]);
    const level = history(...entries).bestLevel(1, 0.02)!;
    expect(level.pages).toBe(100);
    expect(level.waitMs).toBeCloseTo(200, -1.5);
  });

  test("one that came once, long ago, is not", () => {
    const entries = Array.from({ length: 200 }, (_, i): [number, number] => [i * 1000, i === 0 ? 900 : 1000]);
    expect(history(...entries).bestLevel(1, 0.02)!.pages).toBe(1000);
  });

  test("of many, the lower of two neighbours is kept; the mean is over the time", () => {
    const many = history(
      ...Array.from({ length: 1000 }, (_, i): [number, number] => [i, i === 500 ? 1 : 1000 + (i % 2)]),
    );
    expect([many.least, many.last]).toEqual([1, 1001]);
    expect(history([0, 5], [10, 100], [20, 300]).mean).toBe(200);
    expect(history([0, 5]).mean).toBe(5);
  });
});
