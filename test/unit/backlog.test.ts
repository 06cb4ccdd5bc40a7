import { describe, expect, test } from "vitest";
import { CodecChoice } from "../../src/compact/codec.ts";
import { Pacer } from "../../src/migration/pacer.ts";
import { BACKLOG_MS, Backlog } from "../../src/wire/backlog.ts";

/** A link of `bytesPerSecond` and `rttMs`, fed as fast as the backlog lets; returns what was in flight at most at the end. */
function run(backlog: Backlog, bytesPerSecond: number, rttMs: number, forMs: number): number {
  backlog.roundTrip(rttMs);
  const acks: { atMs: number; bytes: number }[] = [];
  let [sent, linkFreeAtMs, worst] = [0, 0, 0];
  for (let nowMs = 0; nowMs < forMs; nowMs++) {
    while (acks[0] !== undefined && acks[0].atMs <= nowMs) backlog.acked(acks.shift()!.bytes, nowMs);
    while (backlog.hasRoom) {
      const bytes = 64 * 1024;
      backlog.sent(bytes);
      sent += bytes;
      linkFreeAtMs = Math.max(linkFreeAtMs, nowMs) + (bytes / bytesPerSecond) * 1000;
      acks.push({ atMs: linkFreeAtMs + rttMs, bytes: sent });
    }
    if (nowMs > forMs / 2) worst = Math.max(worst, backlog.inFlightBytes);
  }
  return worst;
}

describe("the backlog", () => {
  test.each([
    { mbit: 100, rttMs: 0.2 },
    { mbit: 500, rttMs: 1 },
    { mbit: 10_000, rttMs: 0.1 },
    { mbit: 1000, rttMs: 50 },
  ])("finds a link of $mbit Mbit/s and $rttMs ms, fills it, and keeps little waiting", ({ mbit, rttMs }) => {
    const bytesPerSecond = (mbit * 1e6) / 8;
    const backlog = new Backlog();
    const worstBytes = run(backlog, bytesPerSecond, rttMs, 4000);
    expect(backlog.goodputBytesPerSecond / bytesPerSecond).toBeGreaterThan(0.9);
    expect(backlog.goodputBytesPerSecond / bytesPerSecond).toBeLessThan(1.1);
    const boundBytes = Math.max(512 * 1024, (bytesPerSecond * (rttMs + BACKLOG_MS)) / 1000) * 1.1 + 64 * 1024;
    expect(worstBytes).toBeLessThan(boundBytes);
    expect(backlog.isLimiting(4000)).toBe(true);
  });

  test("a source that is slower than the link does not make the link look slow", () => {
    const backlog = new Backlog();
    run(backlog, 125e6, 0.2, 2000);
    const before = backlog.goodputBytesPerSecond;
    let sent = before * 2;
    backlog.sent(sent);
    backlog.acked(Number.MAX_SAFE_INTEGER, 2000);
    for (let nowMs = 2010; nowMs < 6000; nowMs += 10) {
      backlog.sent(1000);
      sent += 1000;
      backlog.acked(Number.MAX_SAFE_INTEGER, nowMs);
    }
    expect(backlog.goodputBytesPerSecond).toBeGreaterThan(before * 0.8);
    expect(backlog.isLimiting(6000)).toBe(false);
  });

  test("acknowledgements of more than was sent count as all of it", () => {
    const backlog = new Backlog();
    backlog.sent(1000);
    backlog.acked(5000, 1);
    expect(backlog.inFlightBytes).toBe(0);
  });
});

describe("the pacer", () => {
  test("lets a burst through, then holds to the rate", () => {
    const pacer = new Pacer(1_000_000);
    pacer.sent(512 * 1024, 0);
    expect(pacer.waitMs(0)).toBeLessThanOrEqual(0);
    pacer.sent(100_000, 0);
    expect(pacer.waitMs(0)).toBeCloseTo(100);
    expect(pacer.limitingBytesPerSecond(10)).toBe(1_000_000);
    expect(pacer.waitMs(100)).toBeLessThanOrEqual(0);
    pacer.isLifted = true;
    pacer.sent(1e9, 100);
    expect(pacer.waitMs(100)).toBe(0);
  });

  test("without a rate never waits", () => {
    const pacer = new Pacer(undefined);
    pacer.sent(1e12, 0);
    expect(pacer.waitMs(0)).toBe(0);
    expect(pacer.limitingBytesPerSecond(0)).toBe(Number.POSITIVE_INFINITY);
  });
});

describe("the choice of codec", () => {
  test("packs where the link is the limit and packing is faster, else not", () => {
    const choice = new CodecChoice(2);
    expect(choice.choose(undefined)).toBe("none"); // the source is the limit
    expect(choice.choose(62.5e6)).toBe("zstd"); // 500 Mbit/s
    expect(choice.choose(1.25e9)).toBe("none"); // 10 Gbit/s: zstd would be the limit
  });

  test("packs for a stopped guest only what arrives sooner for it", () => {
    const choice = new CodecChoice(2);
    for (let i = 0; i < 50; i++) choice.packed(256 * 1024, 64 * 1024, 2.6); // 100 MB/s, to a quarter
    expect(choice.choose(90e6)).toBe("zstd");
    expect(choice.choose(90e6, true)).toBe("none");
    expect(choice.choose(60e6, true)).toBe("zstd");
  });

  test("gives up on what does not shrink, and looks again now and then", () => {
    const choice = new CodecChoice(2);
    for (let i = 0; i < 50; i++) choice.packed(256 * 1024, 256 * 1024, 1.3);
    const choices = Array.from({ length: 64 }, () => choice.choose(62.5e6));
    expect(choices.filter((codec) => codec === "zstd")).toHaveLength(2);
  });
});
