import { expect, onTestFinished, test } from "vitest";
import type { GodwitError } from "../../src/errors.ts";
import {
  assertCanBeDestination,
  assertCanBeSource,
  holdAfterLoad,
  migrationCapabilities,
  migrationProgress,
  setCapabilities,
  waitForMigrationStatus,
} from "../../src/qemu/migrate.ts";
import { QmpClient } from "../../src/qemu/qmp.ts";
import { FakeQmp, type FakeRequest } from "./support/fake-qmp.ts";

async function pair(commands: Record<string, unknown>): Promise<{ fake: FakeQmp; qmp: QmpClient }> {
  const fake = await FakeQmp.start({ commands });
  onTestFinished(() => fake[Symbol.asyncDispose]());
  const qmp = await QmpClient.connect(fake.path);
  onTestFinished(() => qmp.close());
  return { fake, qmp };
}

async function errorOf(promise: Promise<unknown>): Promise<GodwitError> {
  return promise.then(
    () => expect.fail("it did not fail"),
    (error) => error,
  );
}

const count = (fake: FakeQmp, command: string) => fake.requests.filter(({ execute }) => execute === command).length;

test("progress of an active migration, and of none", async () => {
  const ram = {
    transferred: 10,
    remaining: 20,
    total: 30,
    duplicate: 4,
    normal: 5,
    "normal-bytes": 20480,
    "dirty-pages-rate": 6,
    mbps: 8,
    "dirty-sync-count": 7,
    "page-size": 4096,
  };
  const active = { status: "active", ram, "xbzrle-cache": { pages: 3 }, "cpu-throttle-percentage": 20 };
  const answers = [{}, { ...active, "expected-downtime": 300, "total-time": 1234, "setup-time": 2 }];
  const { qmp } = await pair({ "query-migrate": () => answers.shift() });
  expect(await migrationProgress(qmp)).toMatchObject({ status: "none", ramTotalBytes: 0, totalTimeMs: null });
  expect(await migrationProgress(qmp)).toEqual({
    status: "active",
    ramRemainingBytes: 20,
    ramTransferredBytes: 10,
    ramTotalBytes: 30,
    dirtySyncCount: 7,
    dirtyPagesRatePagesPerSecond: 6,
    pageSizeBytes: 4096,
    normalPages: 5,
    zeroPages: 4,
    sentPages: 5 + 4 + 3,
    throttlePercent: 20,
    bytesPerSecond: 1_000_000,
    expectedDowntimeMs: 300,
    downtimeMs: null,
    totalTimeMs: 1234,
    setupTimeMs: 2,
    errorDesc: null,
  });
});

test("capabilities are set where they exist and differ, and can be put back", async () => {
  const state = new Map([
    ["events", false],
    ["return-path", false],
    ["xbzrle", true],
  ]);
  const { fake, qmp } = await pair({
    "query-migrate-capabilities": () => [...state].map(([capability, on]) => ({ capability, state: on })),
    "migrate-set-capabilities": ({ arguments: args }: FakeRequest) => {
      for (const each of args!.capabilities as { capability: string; state: boolean }[]) {
        state.set(each.capability, each.state);
      }
      return {};
    },
  });
  const before = await migrationCapabilities(qmp);
  const changed = await setCapabilities(qmp, { events: true, xbzrle: true, "return-path": false, "from-11.9": true });
  expect(changed).toEqual({ events: false });
  expect(state.get("events")).toBe(true);
  expect(await setCapabilities(qmp, changed)).toEqual({ events: true });
  expect(state).toEqual(before);
  await setCapabilities(qmp, changed);
  expect(count(fake, "migrate-set-capabilities")).toBe(2);
});

test("a status is seen by question, by event, and by polling where QEMU sends no events", async () => {
  let status = "active";
  const { fake, qmp } = await pair({ "query-migrate": () => ({ status }) });
  expect(await waitForMigrationStatus(qmp, ["active"])).toBe("active");
  expect(count(fake, "query-migrate")).toBe(1);

  const byEvent = waitForMigrationStatus(qmp, ["completed", "failed"]);
  fake.event("MIGRATION", { status: "device" });
  fake.event("MIGRATION", { status: "completed" });
  expect(await byEvent).toBe("completed");
  expect(count(fake, "query-migrate")).toBeLessThanOrEqual(2);

  const asked = count(fake, "query-migrate");
  const byPoll = waitForMigrationStatus(qmp, ["cancelled"]);
  await expect.poll(() => count(fake, "query-migrate")).toBeGreaterThan(asked);
  status = "cancelled";
  expect(await byPoll).toBe("cancelled");
});

test("waiting for a status ends by timeout, signal and loss of QEMU", async () => {
  const { fake, qmp } = await pair({ "query-migrate": { status: "active" } });
  const late = await errorOf(waitForMigrationStatus(qmp, ["completed", "failed"], { timeoutMs: 30 }));
  expect(late.code).toBe("QMP_TIMEOUT");
  expect(late.message).toBe("the migration did not become completed or failed within 0.03 s");
  const reason = new Error("enough");
  expect(await errorOf(waitForMigrationStatus(qmp, ["failed"], { signal: AbortSignal.abort(reason) }))).toBe(reason);
  const lost = errorOf(waitForMigrationStatus(qmp, ["failed"]));
  fake.drop();
  expect((await lost).code).toBe("QMP_CLOSED");
});

const states = (status: string, migrate: object = {}) => ({
  "query-status": { status, running: status === "running" },
  "query-migrate": migrate,
});

test.each(["running", "paused", "prelaunch", "shutdown", "io-error", "suspended"])(
  "a VM that is %s can leave",
  async (status) => {
    const { qmp } = await pair(states(status, { status: "cancelled" }));
    expect(await assertCanBeSource(qmp)).toBe(status);
  },
);

test.each([
  ["inmigrate", {}, "waits for an incoming migration"],
  ["postmigrate", { status: "completed" }, "migrated already"],
  ["finish-migrate", { status: "device" }, "just ending"],
  ["running", { status: "active" }, "under way"],
  ["running", { "blocked-reasons": ["disk does not support it"] }, "disk does not support it"],
])("a VM that is %s with %j cannot leave", async (status, migrate, text) => {
  const { fake, qmp } = await pair(states(status, migrate));
  const error = await errorOf(assertCanBeSource(qmp));
  expect(error.code).toBe("QMP_WRONG_STATE");
  expect(error.message).toContain(text);
  expect(error.details).toMatchObject({ path: fake.path, runState: status });
});

test("a destination waits, nobody has begun, and it can be held", async () => {
  const { fake, qmp } = await pair({ ...states("inmigrate"), stop: {} });
  await assertCanBeDestination(qmp);
  await holdAfterLoad(qmp);
  expect(fake.requests.at(-1)?.execute).toBe("stop");
});

test.each([
  ["running", {}, "it is running; start it with -incoming defer -S"],
  ["inmigrate", { "socket-address": [{ type: "unix", path: "in" }] }, "begun already"],
  ["inmigrate", { status: "active" }, "begun already"],
])("a QEMU that is %s with %j is no destination", async (status, migrate, text) => {
  const { qmp } = await pair(states(status, migrate));
  const error = await errorOf(assertCanBeDestination(qmp));
  expect(error.code).toBe("QMP_WRONG_STATE");
  expect(error.message).toContain(text);
});
