import { expect, test } from "vitest";
import { LinkMeter } from "../../src/control/link-meter.ts";
import { aRound, aTick } from "./support/control.ts";

test("pages go at what the link carries, less the destination's limit", () => {
  const meter = new LinkMeter();
  expect(meter.pagesPerMs).toBe(0);
  meter.onTick(aTick({ goodputBytesPerSecond: 4096e3 }));
  expect(meter.pagesPerMs).toBe(1);
  meter.onRound(
    aRound({
      round: 1,
      durationMs: 10,
      goodputBytesPerSecond: 4096e3,
      pages: 100,
      pagesByForm: { zero: 50, delta: 50 },
      wireBytesByForm: { zero: 1, delta: 51_200 },
    }),
  );
  expect(meter.wireBytesPerPage).toBe(1024);
  expect(meter.pagesPerMs).toBe(4);
  meter.onRound(
    aRound({
      round: 2,
      durationMs: 10,
      goodputBytesPerSecond: 4096e3,
      restoreBytesPerSecond: 8192e3,
      pages: 0,
      pagesByForm: {},
      wireBytesByForm: {},
    }),
  );
  expect(meter.pagesPerMs).toBe(2);
});

test("pages go no faster than in the best of the last rounds, and on average as in all of them", () => {
  const meter = new LinkMeter();
  const round = (pages: number) =>
    aRound({ round: 1, durationMs: 1000, goodputBytesPerSecond: 4096e3, pages, wireBytes: pages * 100 });
  meter.onRound(round(400));
  meter.onRound(round(200));
  expect(meter.pagesPerMs).toBeCloseTo(0.4 * 1.1, 9); // the link would carry 41
  expect(meter.meanPagesPerMs).toBeCloseTo(0.3, 9);
});

test("a page's cost is that of the last long round, whatever a short one beside it seems to cost", () => {
  const meter = new LinkMeter();
  const round = (pages: number, wireBytes: number) =>
    meter.onRound(aRound({ round: 1, durationMs: 10, pages, wireBytes }));
  round(10_000, 20_000_000);
  expect(meter.wireBytesPerPage).toBe(2000);
  round(10, 0); // what it sent was counted in the next
  expect(meter.wireBytesPerPage).toBeCloseTo(2000, -1);
  round(10_000, 40_000_000);
  expect(meter.wireBytesPerPage).toBeCloseTo((2000 + 2 * 4000) / 3, -1);
});

test("while the guest is stopped pages go between the pace that was reached and the best", () => {
  const meter = new LinkMeter();
  for (const pages of [1000, 4000]) {
    meter.onRound(
      aRound({ round: 1, durationMs: 1000, goodputBytesPerSecond: 4096e6, pages, wireBytes: pages * 4096 }),
    );
  }
  const [best, mean] = [4 * 1.1, 2.5];
  expect(meter.sendMs(100).low).toBeCloseTo(100 / best, 6);
  expect(meter.sendMs(100).expected).toBeCloseTo(100 / Math.sqrt(best * mean), 6);
  expect(meter.sendMs(100).high).toBeCloseTo(100 / mean, 6);
});

test("a round during which the link stood still for a while was as fast as without it", () => {
  const meter = new LinkMeter();
  for (let atMs = 0; atMs <= 2000; atMs += 100) meter.onTick(aTick({ atMs, wireBytes: Math.min(atMs, 1000) * 1000 }));
  expect(meter.stillMs).toBe(1000);
  meter.onRound(aRound({ round: 1, atMs: 2000, durationMs: 2000, pages: 1000, wireBytes: 1000 }));
  expect(meter.meanPagesPerMs).toBeCloseTo(1, 9);
});

test("of the bulk round only literal pages say what dirty pages will cost", () => {
  const meter = new LinkMeter();
  const pagesByForm = { zero: 1000, disk: 1000, literal: 100 };
  meter.onRound(aRound({ round: 0, pagesByForm, wireBytesByForm: { zero: 10, disk: 20_000, literal: 200_000 } }));
  expect(meter.wireBytesPerPage).toBe(2000);
});

test("a link that stands still is noticed, and the time is counted", () => {
  const meter = new LinkMeter();
  for (let atMs = 0; atMs <= 1000; atMs += 100) meter.onTick(aTick({ atMs, wireBytes: atMs * 1000 }));
  const wireBytes = 1_000_000;
  expect(meter.isStill).toBe(false);
  for (let atMs = 1100; atMs <= 11_000; atMs += 100) expect(meter.onTick(aTick({ atMs, wireBytes }))).toBe(true);
  expect(meter.isStill).toBe(true);
  expect(meter.stillMs).toBe(10_000);
  meter.onTick(aTick({ atMs: 11_100, wireBytes: wireBytes + 100_000 }));
  expect([meter.isStill, meter.stillMs]).toEqual([false, 10_000]);
});

test("zero pages need no link: memory that is dealt with is no standstill", () => {
  const meter = new LinkMeter();
  for (let i = 0; i < 20; i++) meter.onTick(aTick({ atMs: i * 100, wireBytes: 10, remainingBytes: 1e9 - i * 1e7 }));
  expect(meter.isStill).toBe(false);
});

test("a clock that went back, and a gap in which nothing came, are not decided on", () => {
  const meter = new LinkMeter();
  meter.onTick(aTick({ atMs: 1000, wireBytes: 5 }));
  expect(meter.onTick(aTick({ atMs: 900, wireBytes: 5e6 }))).toBe(false);
  expect(meter.onTick(aTick({ atMs: 1_000_000, wireBytes: 6 }))).toBe(false);
  expect(meter.stillMs).toBe(999_000);
  expect(meter.onTick(aTick({ atMs: 1_000_100, wireBytes: 100_006 }))).toBe(true);
});

test("until dirty pages have been sent, they may be packed less well than those of the bulk round", () => {
  const meter = new LinkMeter();
  meter.onTick(aTick({ goodputBytesPerSecond: 4096e3 }));
  meter.onRound(aRound({ round: 0, goodputBytesPerSecond: 4096e3, pages: 1000, wireBytes: 1024e3 }));
  const { expected, high } = meter.sendMs(1000);
  expect(expected).toBeCloseTo(250, 6); // 4 pages a ms
  expect(high).toBeCloseTo(1000, 6);
  meter.onRound(aRound({ round: 1, goodputBytesPerSecond: 4096e3, pages: 8000, wireBytes: 8000 * 1024 }));
  expect(meter.sendMs(1000).high).toBeLessThan(500);
});
