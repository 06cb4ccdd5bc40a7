import { expect, onTestFinished, test } from "vitest";
import { dirtiedPagesOf, dirtyRateUnit, measureDirtyRate } from "../../src/qemu/dirty-rate.ts";
import { QmpClient } from "../../src/qemu/qmp.ts";
import { type FakeOptions, FakeQmp, refuse } from "./support/fake-qmp.ts";

const HALF_GIB = 2 ** 29;

async function qemu(commands: NonNullable<FakeOptions["commands"]>) {
  const fake = await FakeQmp.start({ commands });
  const qmp = await QmpClient.connect(fake.path);
  onTestFinished(async () => {
    qmp.close();
    await fake[Symbol.asyncDispose]();
  });
  return { fake, qmp };
}

// As QEMU 10.0.13 and 7.2.22 have answered in the lab.
const measured10 = {
  status: "measured",
  "sample-pages": 16384,
  "dirty-rate": 9,
  mode: "page-sampling",
  "calc-time-unit": "second",
  "start-time": 1795376323,
  "calc-time": 1,
};
const { "calc-time-unit": _, ...measured7 } = measured10;
const measuring = { ...measured10, status: "measuring", "dirty-rate": undefined };

test("QEMU 10.0 measures in milliseconds, and is asked until it is through", async () => {
  const answers = [measuring, measuring, measured10];
  const { fake, qmp } = await qemu({ "calc-dirty-rate": {}, "query-dirty-rate": () => answers.shift() });
  const rate = await measureDirtyRate(qmp, HALF_GIB, 60, "millisecond");
  expect(rate).toEqual({ windowMs: 60, mibPerSecond: 9, samples: 8192 });
  expect(fake.requests.find(({ execute }) => execute === "calc-dirty-rate")?.arguments).toEqual({
    "calc-time": 60,
    "calc-time-unit": "millisecond",
    "sample-pages": 16384,
  });
});

test("QEMU 7.2 does not know the unit, and is asked in seconds", async () => {
  const { fake, qmp } = await qemu({
    "calc-dirty-rate": ({ arguments: given }: { arguments?: Record<string, unknown> }) => {
      if (given && "calc-time-unit" in given) throw refuse("GenericError", "Parameter 'calc-time-unit' is unexpected");
      return {};
    },
    "query-dirty-rate": measured7,
  });
  expect(await dirtyRateUnit(qmp, HALF_GIB)).toBe("second");
  await measureDirtyRate(qmp, HALF_GIB, 1000, "second");
  expect(fake.requests.findLast(({ execute }) => execute === "calc-dirty-rate")?.arguments).toEqual({
    "calc-time": 1,
    "sample-pages": 16384,
  });
});

test("that another measurement is under way is said", async () => {
  const desc = "the dirty rate is already being measured.";
  const { qmp } = await qemu({
    "calc-dirty-rate": () => {
      throw refuse("GenericError", desc);
    },
  });
  await expect(dirtyRateUnit(qmp, HALF_GIB)).rejects.toMatchObject({
    code: "QMP_DIRTY_RATE",
    message: `QEMU does not measure the dirty rate: ${desc}`,
  });
});

test("a QEMU that does not know the command is named as the reason", async () => {
  const { qmp } = await qemu({
    "calc-dirty-rate": () => {
      throw refuse("CommandNotFound", "The command calc-dirty-rate has not been found");
    },
  });
  await expect(dirtyRateUnit(qmp, HALF_GIB)).rejects.toMatchObject({ code: "QMP_DIRTY_RATE" });
});

test("a measurement can be cancelled", async () => {
  const { qmp } = await qemu({ "calc-dirty-rate": {}, "query-dirty-rate": measuring });
  const signal = AbortSignal.timeout(30);
  await expect(measureDirtyRate(qmp, HALF_GIB, 5000, "millisecond", signal)).rejects.toMatchObject({
    name: "AbortError",
  });
});

test("samples are as many for guests of any size, within QEMU's limits for a GiB", async () => {
  const { fake, qmp } = await qemu({ "calc-dirty-rate": {}, "query-dirty-rate": measured10 });
  for (const gib of [1, 16, 4096]) await measureDirtyRate(qmp, gib * 2 ** 30, 50, "millisecond");
  const asked = fake.requests.filter(({ execute }) => execute === "calc-dirty-rate");
  expect(asked.map((request) => request.arguments?.["sample-pages"])).toEqual([16384, 4096, 128]);
});

test("a rate stands for the middle of what QEMU cuts off, with the deviation of its samples", () => {
  // 9.5 MiB are 2,432 of 131,072 pages: 1.86 % of 8,192 samples, so 131,072 √(0.01855 · 0.98145 / 8,192) = 195.4 pages;
  // and 256 pages / √12 = 73.9 as only whole MiB/s are told.
  const { windowMs, pages, deviationPages } = dirtiedPagesOf(
    { windowMs: 1000, mibPerSecond: 9, samples: 8192 },
    HALF_GIB,
  );
  expect([windowMs, pages]).toEqual([1000, 2432]);
  expect(deviationPages).toBeCloseTo(208.9, 1);
});

test("more than the guest has is never dirty, and none is not certain", () => {
  expect(dirtiedPagesOf({ windowMs: 1000, mibPerSecond: 9000, samples: 8192 }, HALF_GIB).pages).toBe(131_072);
  const { pages, deviationPages } = dirtiedPagesOf({ windowMs: 100, mibPerSecond: 0, samples: 8192 }, HALF_GIB);
  expect(pages).toBeCloseTo(12.8);
  expect(deviationPages).toBeGreaterThan(16); // one sample stands for 16 pages
});
