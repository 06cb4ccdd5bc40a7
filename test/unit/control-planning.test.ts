import { describe, expect, test } from "vitest";
import { curveOf, type DirtyWindow, dirtiedIn, fitParts } from "../../src/control/planning/dirty-curve.ts";
import type { Findings } from "../../src/control/planning/findings.ts";
import {
  type ClusterSample,
  changedBytesOf,
  redrawn,
  sharesOf,
  windowOf,
  withCopies,
  withUnseen,
} from "../../src/control/planning/page-costs.ts";
import { percentiles, predict } from "../../src/control/planning/prediction.ts";

const PAGES = 2 ** 18;
const window = (windowMs: number, pages: number): DirtyWindow => ({ windowMs, pages, deviationPages: pages * 0.05 });

describe("the curve of what is dirtied", () => {
  test("of a working set that is written at random is met, within the windows and after", () => {
    const pages = (ms: number) => 10_000 * -Math.expm1(-ms / 300);
    const parts = fitParts(
      [100, 300, 1000, 3000].map((ms) => window(ms, pages(ms))),
      PAGES,
      9000,
    );
    for (const ms of [100, 300, 1000, 3000]) expect(dirtiedIn(parts, ms) / pages(ms)).toBeCloseTo(1, 1);
    expect(dirtiedIn(parts, 20_000)).toBeGreaterThan(9500);
    expect(dirtiedIn(parts, 20_000)).toBeLessThan(11_500);
  });

  test("goes on for as long as it is thought to", () => {
    const windows = [100, 1000, 3000].map((ms) => window(ms, 2 * ms));
    const long = fitParts(windows, PAGES, 90_000);
    const short = fitParts(windows, PAGES, 3000);
    expect(dirtiedIn(long, 9000)).toBeGreaterThan(15_000);
    expect(dirtiedIn(short, 9000)).toBeLessThan(0.8 * dirtiedIn(long, 9000));
    for (const parts of [long, short]) expect(dirtiedIn(parts, 1000) / 2000).toBeCloseTo(1, 0);
  });

  test("never has more pages than the guest", () => {
    const parts = fitParts([window(1000, 900), window(3000, 2700)], 1000, 90_000);
    expect(parts.reduce((sum, { pages }) => sum + pages, 0)).toBeLessThanOrEqual(1000.001);
  });

  test("of a guest that writes nothing has no parts", () => {
    expect(fitParts([], PAGES, 1000)).toEqual([]);
    expect(fitParts([{ windowMs: 1000, pages: 0, deviationPages: 16 }], PAGES, 1000)).toEqual([]);
  });

  test("of a steady load: the windows differ by no more than their samples do", () => {
    const steady = [window(100, 190), window(100, 210), window(1000, 1900), window(1000, 2100), window(3000, 6000)];
    const { parts, variance } = curveOf(steady, PAGES, 30_000);
    expect(variance).toBeLessThan(0.001);
    expect(dirtiedIn(parts, 1000) / 2000).toBeCloseTo(1, 1);
  });

  test("of a load that comes and goes: the mean, and how much short windows differ from it", () => {
    // 4 pages/ms for half of the time: two of four short windows met it.
    const windows = [window(100, 0), window(100, 400), window(300, 1200), window(300, 0), window(3000, 6000)];
    const { parts, variance } = curveOf(windows, PAGES, 9000);
    for (const ms of [100, 300, 3000]) expect(dirtiedIn(parts, ms) / (2 * ms)).toBeCloseTo(1, 0);
    // On for a share p of the time: (1 − p) / p = 1.
    expect(variance).toBeGreaterThan(0.7);
    expect(variance).toBeLessThan(1.3);
  });

  test("windows that tell of their samples more than of the load say nothing of its coming and going", () => {
    const few = [0, 40, 0, 40].map((pages) => ({ windowMs: 100, pages, deviationPages: 26 }));
    expect(curveOf([...few, window(3000, 600)], PAGES, 9000).variance).toBe(0);
    expect(curveOf([], PAGES, 9000)).toMatchObject({ parts: [], variance: 0 });
  });
});

/** 32 pages: `zero` of them zero, `disk` in one run on a disk, the rest packed to a half by zstd. */
function cluster(zero: number, disk: number, changed = 0, againMs = 1000): ClusterSample {
  const rest = (32 - zero - disk) * 4096;
  return {
    pages: 32,
    zeroPages: zero,
    diskPages: disk,
    diskRuns: disk > 0 ? 1 : 0,
    copies: { ofPairs: 0, ofMore: 0 },
    restBytes: { none: rest, lz4: rest * 0.6, zstd: rest * 0.5 },
    changedPages: changed,
    againMs,
  };
}

describe("a sample of memory", () => {
  test("tells the shares of forms, and what their pages cost", () => {
    const shares = sharesOf([cluster(16, 8), cluster(32, 0), cluster(0, 8)]);
    expect(shares).toMatchObject({ zero: 0.5, disk: 16 / 96, rest: 32 / 96 });
    expect(shares.restBytesPerPage).toEqual({ none: 4096, lz4: expect.closeTo(2457.6), zstd: 2048 });
    expect(shares.diskBytesPerPage).toBeCloseTo((2 * 22) / 16);
  });

  test("that was read twice is a window, as sure as its clusters are alike", () => {
    // Shares 1 and 0: a half of 1,000 pages, and of that the mean's deviation is √(½ / 2) = ½.
    const { windowMs, pages, deviationPages } = windowOf([cluster(0, 0, 32, 1000), cluster(0, 0, 0, 2000)], 1000)!;
    expect([windowMs, pages, deviationPages]).toEqual([1500, 500, 500]);
    // None has changed: one of 64 might have.
    expect(windowOf([cluster(0, 0), cluster(0, 0)], 6400)).toMatchObject({ pages: 0, deviationPages: 100 });
    expect(windowOf([cluster(0, 0)], 1000)).toBeUndefined();
  });

  test("says what a changed page costs, the more of them the more", () => {
    const shares = sharesOf([cluster(0, 0)]);
    const sample = (pages: number) => ({
      clusters: [],
      changed: { pages, bytes: { none: 76, lz4: 46, zstd: 36 } },
      packBytesPerSecond: { lz4: 1, zstd: 1 },
    });
    expect(changedBytesOf(sample(0), shares, "zstd")).toBe(2048);
    expect(changedBytesOf(sample(4), shares, "zstd")).toBe((40 + 2048) / 2);
    expect(changedBytesOf(sample(396), shares, "none")).toBeCloseTo(80 * 0.99 + 4096 * 0.01);
  });

  test("leaves room for what it has not met: the less was seen the more", () => {
    const shares = sharesOf([cluster(16, 8)]);
    expect(withUnseen(shares, 1, () => 0.4)).toMatchObject({ zero: 0.2, disk: 0.1, rest: 0.7 });
    expect(withUnseen(shares, 128, () => 0.05).rest).toBeCloseTo(0.25 + 0.75 * (3 / 128), 2);
    expect(withUnseen(shares, 128, () => 1)).toEqual(shares);
  });

  test("pages that equal others: twice in a sample of the share f with f², more often with f, and what is usual where little was seen", () => {
    // 10 clusters of rest, of a memory of 20: f is 1/2, and 160 pages were compared with all others.
    const clusters = Array.from({ length: 10 }, () => cluster(0, 0));
    const shares = sharesOf(clusters);
    const withSome = (ofPairs: number, ofMore: number) => [
      { ...cluster(0, 0), copies: { ofPairs, ofMore } },
      ...clusters.slice(1),
    ];
    const copied = (some: readonly ClusterSample[], random: number) =>
      withCopies(shares, some, 640, () => random).copied;
    expect(copied(clusters, 0)).toBe(0);
    expect(copied(clusters, 1)).toBeCloseTo((320 * 0.15) / (160 + 320));
    expect(copied(withSome(24, 0), 0)).toBeCloseTo(24 / (160 + 320));
    expect(copied(withSome(0, 32), 0)).toBeCloseTo(0.1);
    // A large guest: what one pair tells is next to nothing.
    expect(withCopies(shares, withSome(1, 0), 2 ** 28, () => 0.5).copied).toBeCloseTo(0.075 + 1 / 320);
    expect(withCopies(sharesOf([cluster(32, 0)]), [cluster(32, 0)], 64, () => 1)).toMatchObject({ copied: 0, zero: 1 });
    const all = withCopies(shares, withSome(320, 320), 320, () => 1);
    expect(all).toMatchObject({ copied: 1, rest: 0 });
  });

  test("is drawn again from itself", () => {
    const clusters = [cluster(1, 0), cluster(2, 0), cluster(3, 0)];
    const numbers = [0.9, 0.9, 0.1];
    expect(redrawn(clusters, () => numbers.shift()!).map(({ zeroPages }) => zeroPages)).toEqual([3, 3, 1]);
  });
});

const GIB = 2 ** 30;
/** Half of 1 GiB is zero, the rest packs to a half; `rate` pages a second are written all over a working set. */
function findings(rate: number, changes: Partial<Findings> = {}): Findings {
  return {
    memoryBytes: GIB,
    hasSwitchoverBandwidth: true,
    goodputBytesPerSecond: { expected: 60e6, low: 59e6, high: 61e6 },
    roundTripMs: { expected: 0.4, low: 0.3, high: 0.8 },
    windows: [100, 300, 1000, 3000].map((ms) => window(ms, 20_000 * -Math.expm1((-rate * ms) / 1000 / 20_000))),
    sample: {
      clusters: Array.from({ length: 256 }, (_, i) => cluster(i % 2 === 0 ? 32 : 0, 0)),
      changed: { pages: 500, bytes: { none: 4096, lz4: 4096, zstd: 4096 } },
      packBytesPerSecond: { lz4: 500e6, zstd: 370e6 },
    },
    disks: "unused",
    threads: 1,
    earlier: [],
    ...changes,
  };
}

describe("a prediction", () => {
  test("of a quiet guest: half of its memory at a half, over the link", async () => {
    const { asked, stock } = await predict(findings(50), { onStall: "switch" });
    const seconds = GIB / 2 / 2 / 60e6;
    expect(asked).toMatchObject({ endShare: 1, keepShare: 1 });
    expect(asked.totalMs.expected / 1000).toBeGreaterThan(seconds * 0.95);
    expect(asked.totalMs.expected / 1000).toBeLessThan(seconds * 1.3 + 1);
    expect(asked.totalMs.low).toBeLessThan(asked.totalMs.expected);
    expect(asked.totalMs.high).toBeGreaterThan(asked.totalMs.expected);
    expect(asked.wireBytes.expected).toBeGreaterThan(GIB / 4 / 1.1);
    expect(asked.downtimeMs!.expected).toBeLessThan(150);
    expect(stock.endShare).toBe(1);
  });

  test("is the same each time", async () => {
    expect(await predict(findings(2000), { onStall: "switch" })).toEqual(
      await predict(findings(2000), { onStall: "switch" }),
    );
  });

  test("gives others their turn between the simulated migrations, and ends when told so", async () => {
    let turns = 0;
    const enough = new Error("enough");
    const between = async () => {
      if (++turns === 5) throw enough;
    };
    await expect(predict(findings(50), { onStall: "switch" }, between)).rejects.toBe(enough);
    expect(turns).toBe(5);
  });

  test("of a guest that writes faster than the link: QEMU alone never ends, and the least downtime is told", async () => {
    const { asked, free, throttled, stock } = await predict(findings(30_000), { maxDowntimeMs: 300, onStall: "abort" });
    expect(stock.endShare).toBe(0);
    expect(stock.downtimeMs).toBeNull();
    expect(free.endShare).toBe(1);
    // Its working set of 20,000 pages takes 1.3 s.
    expect(free.downtimeMs!.expected).toBeGreaterThan(500);
    expect(free.downtimeMs!.expected).toBeLessThan(1700);
    expect(asked.keepShare).toBe(0);
    expect(throttled!.throttlePercent.expected).toBeGreaterThan(40);
  });

  test("keeps within what is asked where that is wide", async () => {
    const asked = { maxDowntimeMs: 3000, deadlineMs: 120_000, maxBytes: 4 * GIB, onStall: "switch" } as const;
    const prediction = await predict(findings(2000), asked);
    expect(prediction.asked.keepShare).toBe(1);
    expect(prediction.throttled).toBeUndefined();
    expect((await predict(findings(2000), { deadlineMs: 2000, onStall: "switch" })).asked.keepShare).toBe(0);
  });

  test("is wide where nobody knows what stands on the disks", async () => {
    const known = (await predict(findings(50), { onStall: "switch" })).asked.wireBytes;
    const unknown = (await predict(findings(50, { disks: "unknown" }), { onStall: "switch" })).asked.wireBytes;
    expect(unknown.low).toBeLessThan(0.5 * known.low);
    expect(unknown.high).toBeGreaterThan(0.8 * known.high);
  });

  test("of a VM that has earlier migrations has their parts of the downtime", async () => {
    const parts = { residualMs: 20, transferMs: 5, loadMs: 400, handoffMs: 3, resumeMs: 10 };
    const earlier = Array.from({ length: 8 }, () => ({ parts, roundTripMs: 0.4 }));
    const with8 = (await predict(findings(50, { earlier }), { onStall: "switch" })).asked.downtimeMs!;
    const without = (await predict(findings(50), { onStall: "switch" })).asked.downtimeMs!;
    expect(with8.expected - without.expected).toBeGreaterThan(250);
  });

  test("has its percentiles from all draws", () => {
    const values = Array.from({ length: 21 }, (_, i) => 20 - i);
    expect(percentiles(values)).toEqual({ expected: 10, low: 1, high: 19 });
    expect(percentiles([7])).toEqual({ expected: 7, low: 7, high: 7 });
  });
});
