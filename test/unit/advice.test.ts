import { expect, test } from "vitest";
import { GodwitError } from "../../src/errors.ts";
import { errorEvent } from "../../src/migration/advice.ts";

const lost = new GodwitError("MIGRATION_LINK_LOST", "the connection was lost");

test.each(["source", "destination"] as const)("who is in doubt at the %s is told to end no QEMU", (side) => {
  expect(errorEvent(lost, "it may run at the destination", side).advice).toMatch(/start the destination .*afresh/);
  const { code, advice } = errorEvent(lost, "it may run at the destination", side, true);
  expect(code).toBe("MIGRATION_LINK_LOST");
  expect(advice).toMatch(/godwit resolve; never let both run$/);
  expect(advice).not.toMatch(/afresh/);
});
