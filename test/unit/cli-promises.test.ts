import { Command } from "commander";
import { describe, expect, test } from "vitest";
import { parseDuration } from "../../src/cli/duration.ts";
import { addPromiseOptions, type PromiseOptions, promisesOf } from "../../src/cli/promise-options.ts";

function promisesFrom(...args: string[]) {
  const command = addPromiseOptions(new Command())
    .exitOverride()
    .configureOutput({ writeErr: () => {} });
  return promisesOf(command.parse(args, { from: "user" }).opts<PromiseOptions>());
}

test.each<[string, "ms" | "s", number]>([
  ["500", "ms", 500],
  ["90", "s", 90_000],
  ["0.5", "s", 500],
  ["1.5s", "ms", 1500],
  ["500 ms", "s", 500],
  ["10min", "s", 600_000],
  ["2h", "ms", 7_200_000],
])("%j in %s is %d ms", (text, unit, ms) => expect(parseDuration(text, unit)).toBe(ms));

test.each(["", "-1", "1e3", "ms", "5m", "5 sec", "NaN", "Infinity", "0x10", "1,5s", `${"9".repeat(400)}`])(
  "%j is no time",
  (text) => {
    expect(() => parseDuration(text, "ms")).toThrow(
      /^the time ".*" is none: write 500, 500ms, 1\.5s; a plain number is in ms$/,
    );
  },
);

describe("promises", () => {
  test("none asked for: the downtime gives", () => expect(promisesFrom()).toEqual({ onStall: "switch" }));

  test("all of them", () => {
    const args = ["--max-downtime", "500", "--deadline", "10min", "--max-bytes", "20G", "--on-stall", "throttle"];
    expect(promisesFrom(...args)).toEqual({
      maxDowntimeMs: 500,
      deadlineMs: 600_000,
      maxBytes: 20 * 2 ** 30,
      onStall: "throttle",
    });
  });

  test.each<[string[], RegExp]>([
    [["--max-downtime", "0"], /^--max-downtime must be more than 0$/],
    [["--max-downtime", "-5"], /^the time "-5" is none/],
    [["--max-downtime", "1h"], /^--max-downtime is more than 2000 s, the most that QEMU can be set to$/],
    [["--deadline", "99ms"], /^no migration ends within 99 ms/],
    [["--deadline", "745h"], /^--deadline is more than a month$/],
    [["--max-bytes", "0"], /^--max-bytes must be more than 0$/],
    [
      ["--max-downtime", "2s", "--deadline", "2"],
      /^--max-downtime is not less than --deadline, so it would never count$/,
    ],
    [
      ["--on-stall", "throttle", "--deadline", "90"],
      /^--on-stall throttle slows the guest down for --max-downtime only/,
    ],
    [["--on-stall", "abort"], /^--on-stall abort needs something to break: --max-downtime, --deadline or --max-bytes$/],
    [["--on-stall", "panic"], /argument 'panic' is invalid/],
  ])("%j: refused in one line", (args, message) => {
    expect(() => promisesFrom(...args)).toThrow(message);
  });

  test("other policies keep none", () => {
    expect(() => promisesOf({ deadline: 1000 }, "nova")).toThrow(
      "the policy nova knows no --deadline: only adaptive keeps promises",
    );
    expect(promisesOf({}, "nova")).toEqual({ onStall: "switch" });
  });
});
