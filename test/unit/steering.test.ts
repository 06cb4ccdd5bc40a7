import { expect, test } from "vitest";
import type { Decision, LimitSetting } from "../../src/control/policy.ts";
import type { MigrationEvent } from "../../src/migration/events.ts";
import { Steering } from "../../src/migration/steering.ts";

const limit = (downtimeLimitMs: number, bandwidthBytesPerSecond: number | null = 1e6): LimitSetting => ({
  downtimeLimitMs,
  bandwidthBytesPerSecond,
});
const toLimit = (ms: number): Decision => ({ kind: "limit", limit: limit(ms), reason: `down to ${ms} MB` });

/** A QEMU that takes a limit only when it is told to answer. */
function steering(hasSwitchoverBandwidth = true) {
  const events: MigrationEvent[] = [];
  const set: unknown[] = [];
  const gaveUp: string[] = [];
  const waiting: PromiseWithResolvers<void>[] = [];
  const take = (value: unknown) => {
    set.push(value);
    waiting.push(Promise.withResolvers());
    return waiting.at(-1)!.promise;
  };
  const answer = async (error?: Error) => {
    const { resolve, reject } = waiting.shift()!;
    if (error === undefined) resolve();
    else reject(error);
    await new Promise(setImmediate);
  };
  const steering = new Steering({
    vm: { hasSwitchoverBandwidth, setLimit: take, setThrottle: take },
    onEvent: (event) => events.push(event),
    giveUp: ({ code, message }) => gaveUp.push(`${code}: ${message}`),
  });
  steering.begin(limit(1));
  return { steering, events, set, gaveUp, answer };
}

test("one command at a time; of the limits that wait only the last counts", async () => {
  const { steering: it, set, answer } = steering();
  for (const ms of [10, 20, 30]) it.apply(toLimit(ms), ms);
  expect(set).toEqual([limit(10)]);
  await answer();
  expect(set).toEqual([limit(10), limit(30)]);
  await answer();
  it.apply({ kind: "throttle", percent: 40, reason: "too busy" }, 40);
  expect(set).toEqual([limit(10), limit(30), 40]);
});

test("a switch is a limit that every VM meets", async () => {
  const exact = steering();
  exact.steering.apply({ kind: "switch", reason: "now" }, 5);
  expect(exact.set).toEqual([limit(2_000_000, 1e12)]);
  expect(exact.steering.isMetBy(2 ** 42, 0, 6)).toBe(true);
  const old = steering(false);
  old.steering.apply({ kind: "switch", reason: "now" }, 5);
  expect(old.set).toEqual([limit(2_000_000, null)]);
});

test("giving up is an error of its own, and says why", () => {
  const { steering: it, gaveUp, set } = steering();
  it.apply({ kind: "abort", reason: "no way" }, 5);
  expect(gaveUp).toEqual(["CONTROL_GIVEN_UP: no way"]);
  expect(set).toEqual([]);
});

test("each decision is an event; one that only has other figures says so", async () => {
  const { steering: it, events } = steering();
  it.apply(toLimit(10), 1);
  it.apply(toLimit(12.5), 2);
  it.apply({ kind: "go-on", reason: "the downtime gives" }, 3);
  expect(events).toMatchObject([
    { event: "decision", elapsedMs: 1, isRefined: false, kind: "limit", limit: limit(10) },
    { event: "decision", elapsedMs: 2, isRefined: true, kind: "limit", limit: limit(12.5) },
    { event: "decision", elapsedMs: 3, isRefined: false, kind: "go-on" },
  ]);
});

test("a QEMU that refuses is said, and asked again the next time", async () => {
  const { steering: it, events, set, answer } = steering();
  it.apply(toLimit(10), 1);
  await answer(new Error("QEMU refused"));
  expect(events.at(-1)).toMatchObject({ event: "warning", message: expect.stringMatching(/QEMU refused$/) });
  it.apply(toLimit(20), 2);
  expect(set).toEqual([limit(10), limit(20)]);
});

test("a sync is met by the limit in force, and for 200 ms by the one before", () => {
  const { steering: it } = steering();
  expect([it.isMetBy(999, 0, 0), it.isMetBy(1000, 0, 0)]).toEqual([true, false]);
  it.apply(toLimit(50), 1000);
  it.apply(toLimit(2), 2000);
  expect(it.isMetBy(40_000, 0, 2150)).toBe(true);
  expect(it.isMetBy(40_000, 0, 2250)).toBe(false);
  expect(it.isMetBy(1999, 0, 2250)).toBe(true);
  // Without a bandwidth of ours QEMU takes its own.
  it.apply({ kind: "limit", limit: limit(10, null), reason: "" }, 5000);
  expect([it.isMetBy(40_000, 5e6, 5300), it.isMetBy(40_000, 1e6, 5300)]).toEqual([true, false]);
});
