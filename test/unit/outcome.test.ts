import { expect, test } from "vitest";
import { GodwitError } from "../../src/errors.ts";
import { sourceGone } from "../../src/migration/outcome.ts";

test.each([
  [undefined, "the source QEMU is gone: lost the QMP connection"],
  [
    { guest: true, reason: "guest-shutdown" },
    "the guest has shut itself down (guest-shutdown), and its QEMU has ended",
  ],
  [{ guest: false, reason: "host-qmp-quit" }, "the source QEMU was ended (host-qmp-quit)"],
])("a source QEMU that ends says why, if it can: %j", (shutdown, message) => {
  const cause = new GodwitError("QMP_CLOSED", "lost the QMP connection");
  expect(sourceGone(cause, shutdown)).toMatchObject({ code: "MIGRATION_SOURCE_GONE", message, cause });
});
