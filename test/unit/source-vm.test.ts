// What the source QEMU's events mean: who has stopped the guest, and who has ended the migration.
import { expect, onTestFinished, test } from "vitest";
import { SourceVm } from "../../src/migration/source-vm.ts";
import type { QmpEvent, RunState } from "../../src/qemu/commands.ts";
import { QmpClient } from "../../src/qemu/qmp.ts";
import { FakeQmp } from "./support/fake-qmp.ts";

const event = (name: "STOP" | "RESUME"): QmpEvent => ({ name, data: {}, timestampMs: 0, receivedMs: 0 });

/** The source of a migration, and what its QEMU will say of itself. */
async function source(status: RunState = "running") {
  const says: { status: RunState; migration: object } = { status, migration: { status: "none" } };
  const fake = await FakeQmp.start({
    commands: {
      "query-status": () => ({ status: says.status, running: says.status === "running" }),
      "query-migrate": () => says.migration,
      "query-migrate-capabilities": [],
      "query-migrate-parameters": {},
    },
  });
  onTestFinished(() => fake[Symbol.asyncDispose]());
  const qmp = await QmpClient.connect(fake.path);
  onTestFinished(() => qmp.close());
  return { vm: await SourceVm.open(qmp), says };
}

test.each([
  ["finish-migrate", true],
  ["postmigrate", true],
  ["paused", false],
  ["shutdown", false], // by itself, with -no-shutdown, as libvirt starts its QEMUs
  ["guest-panicked", false],
  ["io-error", false],
  ["internal-error", false],
] as const)("a guest found %s: the migration has stopped it: %s", async (status, byMigration) => {
  const { vm, says } = await source();
  says.status = status;
  expect(await vm.onEvent(event("STOP"))).toBe(byMigration);
  // What has stopped otherwise is not run at the destination.
  expect(vm.guestRuns).toBe(byMigration);
});

test("a guest that a user stops and lets go on at once runs, whatever QEMU answered in between", async () => {
  const { vm, says } = await source();
  for (const status of ["paused", "running"] as const) {
    says.status = status;
    const stop = vm.onEvent(event("STOP"));
    vm.onEvent(event("RESUME"));
    expect(await stop).toBe(false);
    expect(vm.guestRuns).toBe(true);
  }
});

test("a guest that sleeps is not one that was paused: it is to be able to wake up at the destination", async () => {
  const { vm } = await source("suspended");
  expect(vm.guestRuns).toBe(true);
  await vm.giveBack(); // and is not made to run here
});

test.each(["cancelled", "failed"])(
  "migrate_cancel by somebody else is said, though QEMU ends as %s",
  async (status) => {
    const { vm, says } = await source();
    says.migration = { status, "error-desc": "Channel error: Input/output error" };
    const data = { status: "cancelling" } as const;
    vm.onEvent({ name: "MIGRATION", data, timestampMs: 0, receivedMs: 0 });
    const message = "the source QEMU ended the migration: it was cancelled by someone else";
    await expect(vm.completed(new AbortController().signal)).rejects.toThrow(message);
  },
);
