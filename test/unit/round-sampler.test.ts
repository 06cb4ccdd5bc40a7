import { expect, test } from "vitest";
import { PAGE_BYTES } from "../../src/control/samples.ts";
import { RoundSampler } from "../../src/migration/round-sampler.ts";
import { aProgress, sampled } from "./support/sampled.ts";

/** A guest of 1000 pages whose bulk round began at 0. */
function begin(): { at: ReturnType<typeof sampled>; sampler: RoundSampler } {
  const at = sampled();
  const sampler = new RoundSampler(at, 0);
  sampler.onSync(1, 0);
  sampler.onAnswer(aProgress({ dirtySyncCount: 1, ramRemainingBytes: 1000 * PAGE_BYTES }), 2);
  return { at, sampler };
}

/** So many pages more were sent, by our count and by QEMU's. */
function send(at: ReturnType<typeof sampled>, pages: number, wireBytes: number): void {
  at.sender.counts.literalPages += pages;
  at.sentPages.distinctPages += pages;
  at.peer.wireBytes += wireBytes;
}

test("QEMU's counters tell what a sync found, whenever it answers", () => {
  const { at, sampler } = begin();
  send(at, 980, 4_000_000);
  // 20 were left when the sync found 200 others; then 30 were sent before QEMU answered.
  expect(sampler.onSync(2, 510)).toBe(true);
  send(at, 30, 120_000);
  const round = sampler.onAnswer(
    aProgress({ dirtySyncCount: 2, ramRemainingBytes: 190 * PAGE_BYTES, sentPages: 1010 }),
    525,
  );
  expect(round).toMatchObject({
    atMs: 510,
    round: 0,
    durationMs: 510,
    pages: 980,
    distinctPages: 980,
    leftPages: 20,
    dirtiedPages: 200,
    remainingBytes: 220 * PAGE_BYTES,
    wireBytes: 4_000_000,
    pagesByForm: { literal: 980 },
    ageMs: 15,
  });
  expect(sampler.pagesSinceSync).toBe(30);
});

test("what was sent before a sync was known, but after it, belongs to the next round", () => {
  const { at, sampler } = begin();
  send(at, 1000, 4_000_000);
  // The event waited for 25 ms of 1000, in which 25 pages were sent.
  sampler.onSync(2, 975, 1000);
  expect(sampler.pagesSinceSync).toBe(25);
  const progress = { dirtySyncCount: 2, ramRemainingBytes: 175 * PAGE_BYTES, sentPages: 1000 };
  expect(sampler.onAnswer(aProgress(progress), 1001)).toMatchObject({
    pages: 975,
    dirtiedPages: 175,
    remainingBytes: 200 * PAGE_BYTES,
    leftPages: 25,
  });
});

test("QEMU answers only after three rounds: one sample stands for them, their mean", () => {
  const { at, sampler } = begin();
  send(at, 1000, 4_000_000);
  sampler.onSync(2, 500);
  sampler.onAnswer(aProgress({ dirtySyncCount: 2, ramRemainingBytes: 300 * PAGE_BYTES, sentPages: 1000 }), 500);
  for (const ms of [600, 700, 800]) {
    send(at, 300, 900_000);
    sampler.onSync(2 + (ms - 500) / 100, ms);
  }
  const round = sampler.onAnswer(
    aProgress({ dirtySyncCount: 5, ramRemainingBytes: 270 * PAGE_BYTES, sentPages: 1900 }),
    3800,
  );
  expect(round).toMatchObject({ atMs: 800, round: 3, durationMs: 100, pages: 300, wireBytes: 900_000, ageMs: 3000 });
  // 300 + what three syncs found − 900 = 270
  expect(round).toMatchObject({ dirtiedPages: 290, remainingBytes: 270 * PAGE_BYTES, leftPages: 0 });
});

test("an event that got lost is made up for by the next answer, and one that comes late is none", () => {
  const { at, sampler } = begin();
  send(at, 1000, 4_000_000);
  const round = sampler.onAnswer(
    aProgress({ dirtySyncCount: 2, ramRemainingBytes: 50 * PAGE_BYTES, sentPages: 1000 }),
    700,
  );
  expect(round).toMatchObject({ atMs: 700, round: 0, durationMs: 700, dirtiedPages: 50 });
  expect(sampler.onSync(2, 710)).toBe(false);
});

test("an answer from before the sync says nothing of what the sync found", () => {
  const { at, sampler } = begin();
  send(at, 1000, 4_000_000);
  sampler.onSync(2, 500);
  const before = aProgress({ dirtySyncCount: 1, ramRemainingBytes: 0, sentPages: 1000 });
  expect(sampler.onAnswer(before, 501)).toBeUndefined();
  const after = aProgress({ dirtySyncCount: 2, ramRemainingBytes: 80 * PAGE_BYTES, sentPages: 1000 });
  expect(sampler.onAnswer(after, 505)).toMatchObject({ durationMs: 500, dirtiedPages: 80 });
});

test("events only come when the second round runs: the first is of all memory", () => {
  const at = sampled();
  const sampler = new RoundSampler(at, 0);
  send(at, 900, 3_600_000);
  const progress = { dirtySyncCount: 2, ramRemainingBytes: 150 * PAGE_BYTES, sentPages: 900 };
  expect(sampler.onAnswer(aProgress(progress), 800)).toMatchObject({ round: 0, dirtiedPages: 50, leftPages: 100 });
});

test("a tick: what remains by the last answer, less what was sent since, and how old that answer is", () => {
  const at = sampled();
  const sampler = new RoundSampler(at, 0);
  expect(sampler.tick(5)).toBeUndefined();
  sampler.onSync(1, 10);
  const progress = { ramRemainingBytes: 900 * PAGE_BYTES, bytesPerSecond: 3e7, throttlePercent: 30 };
  sampler.onAnswer(aProgress({ dirtySyncCount: 1, ...progress }), 100);
  send(at, 40, 150_000);
  expect(sampler.tick(2100)).toMatchObject({
    atMs: 2100,
    round: 0,
    remainingBytes: 860 * PAGE_BYTES,
    qemuBytesPerSecond: 3e7,
    wireBytes: 150_000,
    throttlePercent: 30,
    ageMs: 2000,
  });
  send(at, 5000, 0);
  expect(sampler.tick(2200)).toMatchObject({ remainingBytes: 0 });
});

test("the destination is what was waited for where it was for most of the round", () => {
  for (const [heldMs, expected] of [
    [300, 5e7],
    [200, null],
  ]) {
    const at = sampled();
    const sampler = new RoundSampler(at, 0);
    sampler.onSync(1, 0);
    at.sender.restoring = { bytesPerSecond: 5e7, heldMs: heldMs! };
    sampler.onSync(2, 500);
    const round = sampler.onAnswer(aProgress({ dirtySyncCount: 2, ramRemainingBytes: PAGE_BYTES }), 501);
    expect(round).toMatchObject({ restoreBytesPerSecond: expected });
  }
});

test("a migration that does not run, or has no sync yet, gives no samples", () => {
  const sampler = new RoundSampler(sampled(), 0);
  for (const status of ["setup", "device", "completed", "cancelled"] as const) {
    expect(sampler.onAnswer(aProgress({ status, dirtySyncCount: 3 }), 5)).toBeUndefined();
  }
  expect(sampler.onAnswer(aProgress({ dirtySyncCount: 0 }), 5)).toBeUndefined();
  expect(sampler.tick(6)).toBeUndefined();
});
