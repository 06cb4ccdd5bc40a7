// When rounds have stopped shrinking, and how the limit rises then: by hand.
import { describe, expect, test } from "vitest";
import { LinkMeter } from "../../src/control/link-meter.ts";
import { Narrowing } from "../../src/control/narrowing.ts";
import { Settling } from "../../src/control/settling.ts";
import { Shrinking } from "../../src/control/shrinking.ts";
import { WorkingSetModel } from "../../src/control/working-set.ts";
import { aRound, aTick } from "./support/control.ts";

describe("the limit, of rounds of 900 ms", () => {
  const narrow = (isSteady: boolean, leastAt: (ms: number) => number) => {
    const narrowing = new Narrowing(0.005);
    const shares = new Map<number, number>();
    for (let ms = 0; ms <= 9000; ms += 100) shares.set(ms, narrowing.share(ms, 900, leastAt(ms), 1, isSteady));
    return (ms: number) => shares.get(ms);
  };

  test("rises from 0.55 of the level to all of it in five rounds, and stays there for a load with phases", () => {
    const share = narrow(false, () => 1000);
    expect(share(0)).toBeCloseTo(0.55, 9);
    expect(share(900)).toBeCloseTo(0.64, 9);
    expect(share(4500)).toBeCloseTo(1, 9);
    expect(share(9000)).toBe(1);
  });

  test("for a steady load from 0.8, rests a round at 0.85, and goes on slowly past the level", () => {
    const share = narrow(true, () => 1000);
    expect(share(0)).toBeCloseTo(0.8, 9);
    expect(share(500)).toBeCloseTo(0.85, 9);
    expect(share(1400)).toBeCloseTo(0.85, 9); // 900 ms have saved nothing
    expect(share(2400)).toBeCloseTo(0.95, 9);
    expect(share(2900)).toBeCloseTo(1, 9);
    expect(share(3900)).toBeCloseTo(1.025, 9);
  });

  test("… and rests for as long as each round of it saves what it is worth: 4.5 ms", () => {
    const falling = (pagesARound: number) =>
      narrow(true, (ms) => 1000 - (pagesARound * Math.min(ms, 500 + 3 * 900)) / 900);
    expect(falling(5)(500 + 4 * 900)).toBeCloseTo(0.85, 9);
    expect(falling(5)(500 + 4 * 900 + 1000)).toBeCloseTo(0.95, 9);
    expect(falling(4)(500 + 900 + 1000)).toBeCloseTo(0.95, 9);
  });
});

describe("rounds that left 2,000 pages twice, of a load by which 1,000 would be left, over a link of 1,000 a second", () => {
  const BYTES = 4096;
  const link = { goodputBytesPerSecond: 1000 * BYTES };
  const [before, last] = [2, 3].map((round) =>
    aRound({ ...link, round, durationMs: 2000, remainingBytes: 2000 * BYTES, pages: 2000, wireBytes: 2000 * BYTES }),
  );

  function hasStopped(ticks: readonly Parameters<typeof aTick>[0][]): boolean {
    const meter = new LinkMeter();
    const model = new WorkingSetModel(100_000);
    for (const guestMs of [8000, 4000, 2000]) model.add({ guestMs, pages: guestMs / 2 });
    meter.onRound(before!);
    for (const tick of ticks) meter.onTick(aTick({ ...link, ...tick }));
    meter.onRound(last!);
    return new Shrinking(model, meter).hasStopped(before!, last!, 1);
  }

  test("have stopped to shrink, whatever the model says", () => {
    const moving = Array.from({ length: 9 }, (_, i) => ({ atMs: 100 * i, wireBytes: i * 100 * BYTES }));
    expect(hasStopped(moving)).toBe(true);
  });

  test("have not if the link stood still meanwhile", () => {
    const still = Array.from({ length: 9 }, (_, i) => ({ atMs: 100 * i, wireBytes: 0 }));
    expect(hasStopped(still)).toBe(false);
  });

  test("a steady load is looked at for six times what they would take, of which three may have passed before", () => {
    const meter = new LinkMeter();
    const model = new WorkingSetModel(100_000);
    for (const guestMs of [8000, 4000, 2000]) model.add({ guestMs, pages: guestMs / 2 });
    meter.onRound(before!);
    meter.onRound(last!);
    const lookMs = (alikeMs: number) => new Settling(model, meter, last!, 2000, alikeMs).accept(last!.atMs, 1).untilMs;
    expect([0, 1000, 10_000].map((ms) => lookMs(ms) - last!.atMs)).toEqual([12_000, 11_000, 6000]);
  });
});

test("rounds are alike since the last one that left more than 1.1 times as much; a link that stood still does not count", () => {
  const meter = new LinkMeter();
  const shrinking = new Shrinking(new WorkingSetModel(100_000), meter);
  const leave = (atMs: number, pages: number) => shrinking.onRound(aRound({ atMs, remainingBytes: pages * 4096 }));
  expect(shrinking.alikeMs).toBe(0);
  leave(1000, 3000);
  leave(2000, 2150);
  leave(3000, 2000);
  leave(4000, 1960);
  expect(shrinking.alikeMs).toBe(2000);
  leave(5000, 1900);
  expect(shrinking.alikeMs).toBe(2000);
  for (let atMs = 5000; atMs <= 5800; atMs += 100) meter.onTick(aTick({ atMs, goodputBytesPerSecond: 1e6 }));
  leave(6500, 1900);
  expect(shrinking.alikeMs).toBe(3500 - 800);
  leave(7000, 500);
  expect(shrinking.alikeMs).toBe(0);
});
