// The loop around the policy, with a QEMU that answers late, forgets events or refuses. Only timers of the loop itself run.
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { PAGE_BYTES } from "../../src/control/samples.ts";
import { type Trace, TraceReader } from "../../src/control/trace.ts";
import type { MigrationEvent, SourceSummary } from "../../src/migration/events.ts";
import { type ControlOptions, SourceRounds } from "../../src/migration/source-rounds.ts";
import type { SourceSetup } from "../../src/migration/source-vm.ts";
import type { QmpEventOf } from "../../src/qemu/commands.ts";
import { QmpClient } from "../../src/qemu/qmp.ts";
import { FakeQmp, type FakeRequest, NO_ANSWER } from "./support/fake-qmp.ts";
import { passes } from "./support/passes.ts";
import { sampled } from "./support/sampled.ts";

const facts = {
  qemuVersion: { major: 10, minor: 0, micro: 0, package: "" },
  machineType: "pc",
  memoryBytes: 1000 * PAGE_BYTES,
  cpus: 1,
  blockDevices: [],
  name: "test",
  uuid: "00000000-0000-0000-0000-000000000000",
};

const ram = (given: object) => ({
  ...{ transferred: 0, remaining: 0, total: 1000 * PAGE_BYTES, duplicate: 0, normal: 0, "normal-bytes": 0 },
  ...{ "dirty-pages-rate": 0, mbps: 160, "dirty-sync-count": 1, "page-size": 4096, ...given },
});

interface Fixture {
  readonly rounds: SourceRounds;
  readonly at: ReturnType<typeof sampled>;
  readonly fake: FakeQmp;
  readonly events: MigrationEvent[];
  readonly setups: SourceSetup[];
  readonly limits: unknown[];
  readonly gaveUp: string[];
  readonly tracePath: string;
  /** QEMU has ended the migration. */
  end(): Promise<Trace>;
}

/** A migration that has begun. `answer` is what QEMU says of its memory; undefined: it does not answer. */
async function begin(
  answer: (request: FakeRequest) => object | undefined,
  options: ControlOptions = {},
): Promise<Fixture> {
  const folder = mkdtempSync(join(tmpdir(), "godwit-test-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const tracePath = join(folder, "trace");
  const asked = (request: FakeRequest) => {
    const given = answer(request);
    return given === undefined ? NO_ANSWER : { status: "active", ram: ram(given) };
  };
  const fake = await FakeQmp.start({ commands: { "query-migrate": asked } });
  onTestFinished(() => fake[Symbol.asyncDispose]());
  const qmp = await QmpClient.connect(fake.path);
  onTestFinished(() => qmp.close());
  const at = sampled();
  const [events, setups, limits, gaveUp]: [MigrationEvent[], SourceSetup[], unknown[], string[]] = [[], [], [], []];
  const vm = {
    guestRuns: true,
    hasSwitchoverBandwidth: true,
    start: async (_path: string, setup: SourceSetup) => void setups.push(setup),
    setLimit: async (limit: unknown) => void limits.push(limit),
    setThrottle: async () => {},
  };
  const parts = {
    ...{ qmp, vm, facts, ...at, offers: { tell: () => {} }, startMs: performance.now() },
    onEvent: (event: MigrationEvent) => void events.push(event),
    giveUp: ({ code }: { code: string }) => void gaveUp.push(code),
  };
  const rounds = await SourceRounds.open(parts, { tracePath, ...options });
  await rounds.start("/socket");
  const completed = Promise.withResolvers<void>();
  const until = rounds.until(completed.promise);
  const end = async () => {
    completed.resolve();
    await until;
    const summary = { status: "completed", totalMs: 1, wireBytes: 2, downtimeMs: null, downtimeParts: null };
    await rounds.close({ ...summary, roundTripMs: 1, session: "0".repeat(32) } as SourceSummary);
    const reader = new TraceReader();
    for (const line of readFileSync(tracePath, "utf8").trimEnd().split("\n")) reader.push(line);
    return reader.finish();
  };
  return { rounds, at, fake, events, setups, limits, gaveUp, tracePath, end };
}

function pass(count: number): QmpEventOf<"MIGRATION_PASS"> {
  return { name: "MIGRATION_PASS", data: { pass: count }, timestampMs: 0, receivedMs: performance.now() };
}

const eventsOf = <N extends MigrationEvent["event"]>({ events }: Fixture, name: N) =>
  events.filter((event): event is Extract<MigrationEvent, { event: N }> => event.event === name);

test("samples are recorded, the policy decides on them, and QEMU is set", async () => {
  const fixture = await begin(() => ({ remaining: 600 * PAGE_BYTES, normal: 400 }));
  expect(fixture.setups).toMatchObject([
    { limit: { downtimeLimitMs: 1 }, maxBytesPerSecond: null, canThrottle: false },
  ]);
  fixture.rounds.onSync(pass(1));
  await passes(() => expect(fixture.limits.length).toBeGreaterThan(0));
  expect(eventsOf(fixture, "decision")[0]).toMatchObject({ kind: "limit", isRefined: false });
  const trace = await fixture.end();
  expect(trace.header).toMatchObject({ identity: "name:test", policy: "adaptive", promises: { onStall: "switch" } });
  expect(trace.ticks[0]).toMatchObject({ round: 0, remainingBytes: 600 * PAGE_BYTES });
  expect(trace.decisions.length).toBe(eventsOf(fixture, "decision").length);
  expect(trace.outcome).toMatchObject({
    status: "completed",
    predictedMs: eventsOf(fixture, "predicted").at(-1)!.downtimeMs,
  });
});

test("a QEMU that does not answer is asked once, and samples go on", async () => {
  let count = 0;
  const fixture = await begin(() => (count++ === 0 ? { remaining: 600 * PAGE_BYTES } : undefined));
  fixture.rounds.onSync(pass(1));
  await passes(() =>
    expect(fixture.fake.requests.filter(({ execute }) => execute === "query-migrate")).toHaveLength(2),
  );
  fixture.at.sender.counts.literalPages += 100;
  for (const count of [2, 3, 4]) fixture.rounds.onSync(pass(count));
  await passes(() => expect(readFileSync(fixture.tracePath, "utf8").split("\n").length).toBeGreaterThan(8));
  expect(count).toBe(2);
  const { ticks, rounds } = await fixture.end();
  // What QEMU said last, and how long ago.
  expect(ticks.at(-1)).toMatchObject({ round: 0, remainingBytes: 500 * PAGE_BYTES });
  expect(ticks.at(-1)!.ageMs).toBeGreaterThan(300);
  expect(rounds).toEqual([]);
});

test("no event comes: rounds are known by QEMU's answers", async () => {
  let syncs = 1;
  const fixture = await begin(() => ({ "dirty-sync-count": syncs, remaining: 500 * PAGE_BYTES, normal: 500 * syncs }));
  await passes(() => expect(eventsOf(fixture, "progress").length).toBeGreaterThan(0));
  syncs = 2;
  await passes(() => expect(eventsOf(fixture, "round")).toMatchObject([{ round: 0 }]));
  expect(fixture.rounds.begun).toBe(2);
  const { rounds } = await fixture.end();
  expect(rounds).toMatchObject([{ round: 0, dirtiedPages: 500, remainingBytes: 500 * PAGE_BYTES }]);
});

test("what QEMU was asked before a sync is asked again after it", async () => {
  const answers = [{ "dirty-sync-count": 1, remaining: 0, normal: 1000 }];
  const fixture = await begin(
    () => answers.shift() ?? { "dirty-sync-count": 2, remaining: 80 * PAGE_BYTES, normal: 1000 },
  );
  fixture.rounds.onSync(pass(1));
  fixture.rounds.onSync(pass(2)); // the first answer is under way
  await passes(() => expect(eventsOf(fixture, "round")).toHaveLength(1));
  const { rounds } = await fixture.end();
  expect(rounds).toMatchObject([{ round: 0, dirtiedPages: 80 }]);
});

test("a sync that meets QEMU's threshold is not decided on: the guest is about to stop", async () => {
  let remaining = 600 * PAGE_BYTES;
  let syncs = 1;
  const fixture = await begin(() => ({ "dirty-sync-count": syncs, remaining, normal: 400 }));
  fixture.rounds.onSync(pass(1));
  await passes(() => expect(fixture.limits.length).toBeGreaterThan(0));
  const decided = () => eventsOf(fixture, "decision").length;
  [remaining, syncs] = [0, 2];
  fixture.rounds.onSync(pass(2));
  await passes(() => expect(eventsOf(fixture, "round")).toHaveLength(1));
  const before = decided();
  const { predictedDowntimeMs } = fixture.rounds.predicted;
  fixture.at.sender.counts.literalPages += 3;
  fixture.rounds.onStop();
  fixture.at.sender.counts.literalPages += 4;
  await fixture.end();
  expect(decided()).toBe(before);
  expect(fixture.rounds.predicted.predictedDowntimeMs).toBe(predictedDowntimeMs);
  expect(fixture.rounds.residualBytes).toBe(7 * PAGE_BYTES);
});

test("what a round has left is not made up where the next sync comes before QEMU's answer", async () => {
  let isSilent = false;
  const fixture = await begin(() => (isSilent ? undefined : { remaining: 600 * PAGE_BYTES, normal: 400 }));
  fixture.rounds.onSync(pass(1));
  await passes(() => expect(fixture.limits.length).toBeGreaterThan(0));
  isSilent = true;
  for (const count of [2, 3]) fixture.rounds.onSync(pass(count));
  expect(eventsOf(fixture, "round")).toMatchObject([{ round: 0, remainingBytes: null }]);
  await fixture.end();
});

test("a user who stops the guest and lets it go on leaves things as they were", async () => {
  const fixture = await begin(() => ({ remaining: 600 * PAGE_BYTES, normal: 400 }));
  fixture.rounds.onStop();
  expect(fixture.rounds.residualBytes).toBe(0);
  fixture.rounds.onOtherStop();
  expect(fixture.rounds.residualBytes).toBeNull();
  fixture.rounds.onSync(pass(1));
  await passes(() => expect(fixture.limits.length).toBeGreaterThan(0));
  await fixture.end();
});

test("the policies that others ship set QEMU as those do", async () => {
  const { setups, end } = await begin(() => undefined, { policy: "proxmox" });
  expect(setups).toMatchObject([
    { limit: { downtimeLimitMs: 100, bandwidthBytesPerSecond: null }, capabilities: { "auto-converge": true } },
  ]);
  await end();
  const throttling = await begin(() => undefined, { promises: { maxDowntimeMs: 500, onStall: "throttle" } });
  expect(throttling.setups).toMatchObject([{ canThrottle: true }]);
  await throttling.end();
});

test("a promise that can't be kept, with --on-stall abort, gives the migration up", async () => {
  const fixture = await begin(() => ({ remaining: 600 * PAGE_BYTES, normal: 400 }), {
    promises: { maxDowntimeMs: 1, onStall: "abort" },
  });
  fixture.rounds.onSync(pass(1));
  await passes(() => expect(fixture.gaveUp).toEqual(["CONTROL_GIVEN_UP"]));
  expect(eventsOf(fixture, "decision").at(-1)).toMatchObject({ kind: "abort" });
  await fixture.end();
});
