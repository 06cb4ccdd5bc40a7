import { describe, expect, test } from "vitest";
import { Pacer } from "../../src/migration/pacer.ts";
import { BACKLOG_MS, Backlog } from "../../src/wire/backlog.ts";

/** A link of `bytesPerSecond` and `rttMs`, fed as fast as the backlog lets; returns what was in flight at most at the end. */
function run(backlog: Backlog, bytesPerSecond: number, rttMs: number, forMs: number): number {
  backlog.roundTrip(rttMs);
  const acks: { atMs: number; bytes: number }[] = [];
  let [sent, linkFreeAtMs, worst] = [0, 0, 0];
  for (let nowMs = 0; nowMs < forMs; nowMs++) {
    while (acks[0] !== undefined && acks[0].atMs <= nowMs) acked(backlog, acks.shift()!.bytes, nowMs);
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

/** The peer is done with all that it has received. */
function acked(backlog: Backlog, bytes: number, nowMs: number): void {
  backlog.acked(bytes, bytes, nowMs);
}

describe("the backlog", () => {
  test.each([
    { mbit: 100, rttMs: 0.2 },
    { mbit: 500, rttMs: 1 },
    { mbit: 10_000, rttMs: 0.1 },
    { mbit: 1000, rttMs: 50 },
    { mbit: 200, rttMs: 200 },
    { mbit: 1000, rttMs: 100 },
  ])("finds a link of $mbit Mbit/s and $rttMs ms, fills it, and keeps little waiting", ({ mbit, rttMs }) => {
    const bytesPerSecond = (mbit * 1e6) / 8;
    const backlog = new Backlog();
    const worstBytes = run(backlog, bytesPerSecond, rttMs, 4000);
    expect(backlog.goodputBytesPerSecond / bytesPerSecond).toBeGreaterThan(0.9);
    expect(backlog.goodputBytesPerSecond / bytesPerSecond).toBeLessThan(1.1);
    const backlogMs = Math.max(BACKLOG_MS, Math.min(50, rttMs / 4));
    const boundBytes = Math.max(512 * 1024, (bytesPerSecond * (rttMs + backlogMs)) / 1000) * 1.1 + 64 * 1024;
    expect(worstBytes).toBeLessThan(boundBytes);
  });

  test("a source that is slower than the link does not make the link look slow", () => {
    const backlog = new Backlog();
    run(backlog, 125e6, 0.2, 2000);
    const before = backlog.goodputBytesPerSecond;
    let sent = before * 2;
    backlog.sent(sent);
    acked(backlog, Number.MAX_SAFE_INTEGER, 2000);
    for (let nowMs = 2010; nowMs < 6000; nowMs += 10) {
      backlog.sent(1000);
      sent += 1000;
      acked(backlog, Number.MAX_SAFE_INTEGER, nowMs);
    }
    expect(backlog.goodputBytesPerSecond).toBeGreaterThan(before * 0.8);
  });

  test("a peer that is slower than the link does not make the link look slow, and is waited for all the same", () => {
    const backlog = new Backlog();
    run(backlog, 125e6, 0.2, 2000);
    let sent = backlog.inFlightBytes;
    const before = backlog.goodputBytesPerSecond;
    for (let nowMs = 2010; nowMs < 6000; nowMs += 10) {
      backlog.sent(100_000);
      sent += 100_000;
      backlog.acked(sent - 1e6, 250e6 + sent, nowMs);
    }
    expect(backlog.goodputBytesPerSecond).toBeGreaterThan(before * 0.8);
    expect(backlog.onLinkBytes).toBe(0);
    expect(backlog.hasRoom).toBe(false);
  });

  test("acknowledgements of more than was sent count as all of it", () => {
    const backlog = new Backlog();
    backlog.sent(1000);
    acked(backlog, 5000, 1);
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
