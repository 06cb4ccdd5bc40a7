// A destination QEMU that others have a monitor of too: what is not ours is neither stopped nor ended.
import { expect, onTestFinished, test } from "vitest";
import { DestinationVm } from "../../src/migration/destination-vm.ts";
import { QmpClient } from "../../src/qemu/qmp.ts";
import { FakeQmp, refuse } from "./support/fake-qmp.ts";

const WAITS = { status: "inmigrate", running: false };

async function opened(commands: Record<string, unknown>) {
  const answers = {
    "query-status": WAITS,
    "query-migrate": {},
    "query-migrate-capabilities": [],
    "query-migrate-parameters": {},
    "migrate-set-capabilities": {},
    stop: {},
    "migrate-incoming": {},
    quit: {},
  };
  const fake = await FakeQmp.start({ commands: { ...answers, ...commands } });
  onTestFinished(() => fake[Symbol.asyncDispose]());
  const qmp = await QmpClient.connect(fake.path);
  onTestFinished(() => qmp.close());
  const asked = () => fake.requests.map(({ execute }) => execute);
  return { vm: await DestinationVm.open(qmp), asked };
}

test("one that runs a VM by now is left alone", async () => {
  let isFirst = true;
  const status = () => {
    const answer = isFirst ? WAITS : { status: "running", running: true };
    isFirst = false;
    return answer;
  };
  const { vm, asked } = await opened({ "query-status": status });
  await expect(vm.start("/nowhere/socket")).rejects.toMatchObject({ code: "QMP_WRONG_STATE" });
  await vm.giveUp();
  expect(vm.hasStarted).toBe(false);
  expect(asked()).not.toContain("stop");
  expect(asked()).not.toContain("quit");
});

test("one that refuses to take a VM of ours is not ended, as it may take another's", async () => {
  const already = () => {
    throw refuse("GenericError", "The incoming migration has already been started");
  };
  const { vm, asked } = await opened({ "migrate-incoming": already });
  await expect(vm.start("/nowhere/socket")).rejects.toMatchObject({ code: "QMP_COMMAND_FAILED" });
  await vm.giveUp();
  expect(vm.hasStarted).toBe(false);
  expect(asked()).not.toContain("quit");
});

test("what is given up before it has begun does not begin", async () => {
  const { vm, asked } = await opened({});
  const started = vm.start("/nowhere/socket");
  const refused = expect(started).rejects.toMatchObject({ code: "MIGRATION_CANCELLED" });
  await vm.giveUp();
  await refused;
  expect(asked()).not.toContain("migrate-incoming");
  expect(asked()).not.toContain("quit");
});
