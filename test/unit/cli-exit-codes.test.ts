import { expect, test } from "vitest";
import { exitCodeOf } from "../../src/cli/exit-codes.ts";

test.each([
  ["completed", undefined, 0],
  ["failed", undefined, 1],
  ["refused", undefined, 2],
  ["in-doubt", undefined, 3],
  ["cancelled", "SIGHUP", 129],
  ["cancelled", "SIGINT", 130],
  ["cancelled", "SIGTERM", 143],
  // How it ended counts, not what was asked for: Ctrl-C may come too late, or meet a failure.
  ["completed", "SIGINT", 0],
  ["in-doubt", "SIGINT", 3],
] as const)("%s after %s is %i", (status, signal, code) => {
  expect(exitCodeOf(status, signal)).toBe(code);
});
