import { expect, test } from "vitest";
import { DowntimeModel } from "../../src/control/downtime.ts";
import type { Forecast } from "../../src/control/policy.ts";
import type { MigrationEvent } from "../../src/migration/events.ts";
import { NOTHING_PREDICTED, Predictions } from "../../src/migration/predictions.ts";

const sendMs = { expected: 0, low: 0, high: 0 };
const residual = { sendMs, goodputBytesPerSecond: 1e6, roundTripMs: 1, isLinkBound: false };
const downtimeParts = new DowntimeModel().predict(residual);
const estimate = (expected: number) => ({ expected, low: expected / 2, high: expected * 2 });
const forecast = (ms: number, totalMs: number | null = null): Forecast => ({
  isAtBest: false,
  downtimeMs: estimate(ms),
  downtimeParts,
  totalMs: totalMs === null ? null : estimate(totalMs),
});

test("the last downtime and the first total time are kept; what changes by more than 5 % is shown", () => {
  const events: MigrationEvent[] = [];
  const predictions = new Predictions((event) => events.push(event));
  expect(predictions.all).toEqual(NOTHING_PREDICTED);
  predictions.update(forecast(100), undefined, 1);
  predictions.update(forecast(104), undefined, 2);
  predictions.update(forecast(110, 5000), undefined, 3);
  predictions.update(forecast(111, 6000), undefined, 4);
  predictions.update(undefined, undefined, 5);
  expect(predictions.all).toEqual({
    predictedDowntimeMs: estimate(111),
    predictedDowntimeParts: downtimeParts,
    predictedTotalMs: { ...estimate(5000), atMs: 3 },
  });
  expect(events).toEqual([
    { event: "predicted", elapsedMs: 1, isAtBest: false, downtimeMs: estimate(100), downtimeParts, totalMs: null },
    {
      event: "predicted",
      elapsedMs: 3,
      isAtBest: false,
      downtimeMs: estimate(110),
      downtimeParts,
      totalMs: estimate(5000),
    },
  ]);
});

test("what is hoped for is told from what is expected, also where it comes to the same", () => {
  const events: MigrationEvent[] = [];
  const predictions = new Predictions((event) => events.push(event));
  const limit = { downtimeLimitMs: 1, bandwidthBytesPerSecond: null };
  // Before anything is forecast, a limit says what it will be if rounds shrink so far.
  predictions.update(undefined, { kind: "limit", limit, reason: "", predictedMs: estimate(50) }, 1);
  predictions.update(forecast(50), undefined, 2);
  predictions.update({ ...forecast(50), isAtBest: true }, undefined, 3);
  predictions.update({ ...forecast(59), isAtBest: true }, undefined, 3);
  predictions.update(undefined, { kind: "switch", reason: "", predictedMs: estimate(50) }, 4);
  expect(events.map((event) => event.event === "predicted" && event.isAtBest)).toEqual([true, false, true, false]);
});

test("a policy that forecasts nothing is taken by its decisions", () => {
  const predictions = new Predictions(() => {});
  predictions.update(undefined, { kind: "switch", reason: "due", predictedMs: estimate(70) }, 1);
  predictions.update(undefined, { kind: "go-on", reason: "" }, 2);
  expect(predictions.all).toEqual({ ...NOTHING_PREDICTED, predictedDowntimeMs: estimate(70) });
});
