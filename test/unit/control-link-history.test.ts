import { describe, expect, test } from "vitest";
import { LinkHistory } from "../../src/control/link-history.ts";

/** 1 MB/s is 1,000 bytes/ms. */
const MB = 1e6;

function historyOf(...stretches: [ms: number, bytesPerSecond: number][]): LinkHistory {
  const history = new LinkHistory();
  // In ticks of 100 ms, as samples come.
  for (const [ms, bytesPerSecond] of stretches) {
    for (let at = 0; at < ms; at += 100) history.add(100, bytesPerSecond);
  }
  return history;
}

describe("the level", () => {
  test("follows a link that changes a little, and rises at once", () => {
    expect(new LinkHistory().levelBytesPerSecond).toBe(0);
    const history = historyOf([1000, MB]);
    expect(history.levelBytesPerSecond).toBe(MB);
    history.add(2000, 0.8 * MB); // for as long as it takes to follow by 1 − 1/e
    expect(history.levelBytesPerSecond).toBeCloseTo(MB * (0.8 + 0.2 / Math.E), 3);
    history.add(100, 2 * MB);
    expect(history.levelBytesPerSecond).toBe(2 * MB);
  });

  test("stays in a dip, until the dip has lasted too long for one", () => {
    const history = historyOf([10_000, MB], [3000, 0.2 * MB]);
    expect([history.isDip, history.levelBytesPerSecond]).toEqual([true, MB]);
    history.add(100, 0.2 * MB);
    expect([history.isDip, history.levelBytesPerSecond]).toEqual([false, 0.2 * MB]);
  });

  test("dips that were seen tell how long one may last: three times the longest", () => {
    const history = historyOf([10_000, MB], [2000, 0.2 * MB], [1000, MB], [6000, 0.2 * MB]);
    expect(history.isDip).toBe(true);
    history.add(100, 0.2 * MB);
    expect(history.isDip).toBe(false);
  });

  test("what looked like another link and came back was a dip too", () => {
    const history = historyOf([10_000, MB], [8000, 0.2 * MB]);
    expect(history.isDip).toBe(false);
    history.add(100, MB);
    for (let at = 0; at < 24_000; at += 100) history.add(100, 0.2 * MB);
    expect(history.isDip).toBe(true);
    history.add(100, 0.2 * MB);
    expect(history.isDip).toBe(false);
  });

  test("a link that stands still says nothing of it", () => {
    const history = historyOf([1000, MB], [10_000, 0]);
    expect([history.isDip, history.levelBytesPerSecond]).toEqual([false, MB]);
  });
});

describe("how long bytes take", () => {
  test("over a steady link what they take at its speed", () => {
    expect(historyOf([5000, MB]).sendMs(2 * MB, MB)).toEqual({ expected: 2000, low: 2000, high: 2000 });
    expect(new LinkHistory().sendMs(MB, MB).expected).toBe(1000);
    expect(historyOf([5000, MB]).sendMs(0, MB)).toEqual({ expected: 0, low: 0, high: 0 });
  });

  test("over one that stands still for 2 s out of 10: mostly the same, at worst 2 s more", () => {
    const history = historyOf([8000, MB], [2000, 0]);
    expect(history.sendMs(MB, MB)).toEqual({ expected: 1000, low: 1000, high: 3000 });
    // 8 MB take the fast 8 s, wherever in them it begins, and the 2 s between.
    expect(history.sendMs(8 * MB, MB).low).toBeCloseTo(10_000, 3);
    // As many again for each 8 MB more.
    expect(history.sendMs(80 * MB, MB).expected).toBeCloseTo(100_000, 3);
  });

  test("from within a dip: what is left of it counts", () => {
    // In the dip 100 bytes a ms: 50 kB take 0.5 s. From its middle on that is the median.
    const history = historyOf([8000, MB], [2000, 0.1 * MB]);
    const { expected, low, high } = history.sendMs(50_000, 0.1 * MB);
    expect(expected).toBeCloseTo(500, 0);
    expect(high).toBeCloseTo(500, 0);
    expect(low).toBeLessThan(200);
  });

  test("a thousand changes are kept in a few hundred stretches", () => {
    const history = new LinkHistory();
    for (let i = 0; i < 1000; i++) history.add(100, i % 2 === 0 ? MB : 1.25 * MB);
    const { expected } = history.sendMs(100 * MB, MB);
    expect(expected).toBeGreaterThan(80_000);
    expect(expected).toBeLessThan(100_000);
  });

  test("whatever was seen: finite, and in order", () => {
    for (const speed of [0, 1, MB, 1e12]) {
      const { expected, low, high } = historyOf([500, speed], [500, MB], [500, 0]).sendMs(123_456_789, speed);
      expect([low, expected, high].every(Number.isFinite)).toBe(true);
      expect(low <= expected && expected <= high).toBe(true);
    }
  });
});
