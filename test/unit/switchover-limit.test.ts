import { expect, test } from "vitest";
import { FIRST_LIMIT_MS, SwitchoverLimit } from "../../src/control/switchover-limit.ts";

test("the limit stays low while rounds shrink, and is raised once when they don't", () => {
  const limit = new SwitchoverLimit(300);
  expect(limit.limitMs).toBe(FIRST_LIMIT_MS);
  expect(limit.onRound(100 * 2 ** 20)).toBeUndefined(); // the bulk round
  expect(limit.onRound(80 * 2 ** 20)).toBeUndefined(); // just shrinking
  expect(limit.onRound(65 * 2 ** 20)).toEqual({
    limitMs: 300,
    reason: "rounds stopped shrinking: 65.0 MiB were left after 80.0 MiB",
  });
  expect(limit.onRound(70 * 2 ** 20)).toBeUndefined();
  expect(limit.limitMs).toBe(300);
});

test("a limit that a user set lower is never raised above", () => {
  const limit = new SwitchoverLimit(10);
  expect(limit.limitMs).toBe(10);
  limit.onRound(1e6);
  expect(limit.onRound(1e6)).toBeUndefined();
  expect(limit.limitMs).toBe(10);
});
