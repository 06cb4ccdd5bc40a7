// The chaos lab's own parts: plans that follow from their seed, and a witness that would see two VMs run.
import { expect, onTestFinished, test } from "vitest";
import { FAULTS, nameOf, planOf, STEPS } from "../../lab/chaos/plan.ts";
import { Watch } from "../../lab/chaos/watch.ts";
import type { Vm } from "../../lab/vm.ts";
import { QmpClient } from "../../src/qemu/qmp.ts";
import { FakeQmp } from "./support/fake-qmp.ts";
import { passes } from "./support/passes.ts";

test("plans that follow each other: every fault meets every step once, in another order for each seed, the same each time", () => {
  const combinations = FAULTS.length * Object.keys(STEPS).length;
  const orders = [0, 1, 49, 12_345].map((seed) => {
    const plans = Array.from({ length: combinations }, (_, number) => planOf(seed, number + 500));
    expect(plans).toEqual(plans.map(({ number }) => planOf(seed, number)));
    const names = plans.map(({ fault, step }) => `${nameOf(fault)} / ${step}`);
    expect(new Set(names).size).toBe(combinations);
    return names.join();
  });
  expect(new Set(orders).size).toBe(orders.length);
});

/** A QEMU that says that its guest runs, or not. */
async function fakeVm(name: string) {
  const state = { running: false };
  const qemu = await FakeQmp.start({ commands: { "query-status": () => ({ ...state, status: "running" }) } });
  const qmp = await QmpClient.connect(qemu.path);
  const exited = Promise.withResolvers<never>();
  onTestFinished(async () => {
    qmp.close();
    await qemu[Symbol.asyncDispose]();
  });
  const vm = { name, qmp, exited: exited.promise } as unknown as Vm;
  const say = (event: "STOP" | "RESUME", seconds: number) => qemu.event(event, {}, { seconds, microseconds: 0 });
  return { vm, say, state };
}

test("two that run by QEMU's events, for however short, are seen", async () => {
  const [one, other] = [await fakeVm("one"), await fakeVm("other")];
  await using watch = new Watch();
  watch.add(one.vm);
  watch.add(other.vm);
  one.say("RESUME", 100);
  one.say("STOP", 200);
  other.say("RESUME", 200);
  await passes(() => expect(watch.hasRun(other.vm)).toBe(true));
  expect(watch.verdict()).toBeUndefined();
  one.say("RESUME", 300);
  await passes(() => expect(watch.verdict()).toMatch(/by QEMU's events both one and other ran/));
});

test("two that say that they run are seen, though no event came", async () => {
  const [one, other] = [await fakeVm("one"), await fakeVm("other")];
  await using watch = new Watch();
  watch.add(one.vm);
  watch.add(other.vm);
  one.state.running = true;
  await passes(() => expect(watch.samples).toBeGreaterThan(10));
  one.state.running = false;
  const before = watch.samples;
  await passes(() => expect(watch.samples).toBeGreaterThan(before + 4)); // both have been asked since
  other.state.running = true;
  await passes(() => expect(watch.samples).toBeGreaterThan(before + 20));
  expect(watch.verdict()).toBeUndefined();
  one.state.running = true;
  await passes(() => expect(watch.verdict()).toMatch(/by their answers both one and other ran/));
});
