// Settings of QEMU that a program which was killed has left changed: noted before, and put back by the next one.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { noteSettingsOf, putBackLeftSettings } from "../../src/migration/left-settings.ts";
import { SourceVm } from "../../src/migration/source-vm.ts";
import { QmpClient } from "../../src/qemu/qmp.ts";
import { SessionStore } from "../../src/store/session-store.ts";
import { FakeQmp, type FakeRequest, refuse } from "./support/fake-qmp.ts";
import { spoilJournal } from "./support/spoil-journal.ts";

const VM = {
  qemuVersion: { major: 10, minor: 0, micro: 0, package: "" },
  machineType: "pc",
  memoryBytes: 1 << 30,
  cpus: 1,
  blockDevices: [],
  name: "web1",
  uuid: "3d0f6a6e-6d3c-4f0e-9d6a-2c6f9f6f0001",
};
const SETTINGS = {
  capabilities: { events: false, "return-path": false, "switchover-ack": false },
  parameters: { "max-bandwidth": 134_217_728, "downtime-limit": 300, "cpu-throttle-tailslow": false },
};

/** A QEMU that keeps its settings, with a process of its own. */
async function fakeQemu() {
  const child = spawn("sleep", ["1000"], { argv0: "qemu-system-fake", stdio: "ignore" });
  await once(child, "spawn");
  const capabilities: Record<string, boolean> = { ...SETTINGS.capabilities, "pause-before-switchover": false };
  const parameters: Record<string, unknown> = { ...SETTINGS.parameters };
  let status = "none";
  const fake = await FakeQmp.start({
    commands: {
      "query-status": { running: true, status: "running" },
      "query-migrate": () => ({ status }),
      "query-cpus-fast": [{ "cpu-index": 0, "thread-id": child.pid }],
      "query-migrate-capabilities": () =>
        Object.entries(capabilities).map(([capability, state]) => ({ capability, state })),
      "migrate-set-capabilities": ({ arguments: given }: FakeRequest) => {
        for (const { capability, state } of given!.capabilities as { capability: string; state: boolean }[])
          capabilities[capability] = state;
        return {};
      },
      "query-migrate-parameters": () => parameters,
      "migrate-set-parameters": ({ arguments: given }: FakeRequest) => Object.assign(parameters, given) && {},
      migrate: () => {
        if (status !== "none") throw refuse("GenericError", "There's a migration process in progress");
        return {};
      },
    },
  });
  const qmp = await QmpClient.connect(fake.path);
  const stateDir = mkdtempSync(join(tmpdir(), "godwit-settings-"));
  onTestFinished(async () => {
    child.kill("SIGKILL");
    qmp.close();
    await fake[Symbol.asyncDispose]();
    rmSync(stateDir, { recursive: true });
  });
  const settings = () => ({ capabilities: { ...capabilities }, parameters: { ...parameters } });
  const sessions = await SessionStore.open(stateDir);
  const changeStatus = (to: string) => {
    status = to;
  };
  return { qmp, settings, sessions, stateDir, changeStatus };
}

type Qemu = Awaited<ReturnType<typeof fakeQemu>>;

/** Changes settings as `checkpoint save` does, and lets go of the journal as a kill does. */
async function killedInTheMiddle({ qmp, sessions }: Qemu): Promise<void> {
  await using notes = await noteSettingsOf(qmp, VM, sessions);
  const vm = await SourceVm.open(qmp);
  const limit = { downtimeLimitMs: 1, bandwidthBytesPerSecond: 64e6 };
  await vm.start("/nowhere", { limit, capabilities: { "switchover-ack": true }, noteSettings: notes.note });
}

const unexpected = (message: string) => expect.unreachable(message);

test("what is changed was noted before, and what is put back is noted too", async () => {
  const qemu = await fakeQemu();
  const before = qemu.settings();
  const noted: unknown[] = [];
  const vm = await SourceVm.open(qemu.qmp);
  const noteSettings = async (settings: unknown) => {
    noted.push(settings, qemu.settings());
  };
  await vm.start("/nowhere", { limit: { downtimeLimitMs: 1, bandwidthBytesPerSecond: null }, noteSettings });
  expect(noted).toEqual([
    { capabilities: before.capabilities, parameters: before.parameters },
    before, // nothing was changed yet
  ]);
  expect(qemu.settings()).not.toEqual(before);
  await vm.restoreSettings();
  expect(noted.slice(2)).toEqual([null, before]);
});

test("a program that ends well leaves no journal", async () => {
  const { qmp, sessions } = await fakeQemu();
  {
    await using notes = await noteSettingsOf(qmp, VM, sessions);
    await notes.note(SETTINGS);
    expect(await sessions.list()).toMatchObject([{ role: "settings", content: { settings: SETTINGS } }]);
    await notes.note(null);
  }
  expect(await sessions.list()).toEqual([]);
});

test("the next program puts back what a killed one has left", async () => {
  const qemu = await fakeQemu();
  const before = qemu.settings();
  await killedInTheMiddle(qemu);
  expect(qemu.settings()).toMatchObject({
    capabilities: { "switchover-ack": true, events: true },
    parameters: { "downtime-limit": 1, "max-bandwidth": 0 },
  });
  await putBackLeftSettings(qemu.qmp, qemu.sessions, unexpected);
  expect(qemu.settings()).toEqual(before);
  expect(await qemu.sessions.list()).toEqual([]);
});

test("not of another QEMU at the same place", async () => {
  const qemu = await fakeQemu();
  await killedInTheMiddle(qemu);
  const changed = qemu.settings();
  const other = await fakeQemu();
  await putBackLeftSettings(other.qmp, qemu.sessions, unexpected);
  expect(other.settings()).toMatchObject(SETTINGS);
  expect(qemu.settings()).toEqual(changed);
  expect(await qemu.sessions.list()).toHaveLength(1);
});

test("nor what a program that lives has changed, or an open session has", async () => {
  const qemu = await fakeQemu();
  await using notes = await noteSettingsOf(qemu.qmp, VM, qemu.sessions);
  await notes.note({ capabilities: {}, parameters: { "downtime-limit": 77 } });
  const [listed] = await qemu.sessions.list();
  const journal = await qemu.sessions.create({ ...listed!.content!.header, session: "1".repeat(32), role: "source" });
  await journal.noteSettings({ capabilities: {}, parameters: { "downtime-limit": 78 } });
  await journal.note({ state: "streaming" });
  await journal.close();
  const before = qemu.settings();
  await putBackLeftSettings(qemu.qmp, qemu.sessions, unexpected);
  expect(qemu.settings()).toEqual(before);
  // Once it is settled, what it has left is put back by whoever comes next.
  const settled = await qemu.sessions.take("1".repeat(32), "source");
  await settled.note({ state: "aborted", settled: true });
  await settled.close();
  await putBackLeftSettings(qemu.qmp, qemu.sessions, unexpected);
  expect(qemu.settings().parameters).toMatchObject({ "downtime-limit": 78 });
  expect(await qemu.sessions.find("1111")).toMatchObject([{ content: { settings: null, isSettled: true } }]);
  await notes.note(null);
});

test("what can't be put back is said, and stays noted", async () => {
  const qemu = await fakeQemu();
  await killedInTheMiddle(qemu);
  qemu.changeStatus("active");
  const warnings: string[] = [];
  const late = putBackLeftSettings(qemu.qmp, qemu.sessions, (message) => warnings.push(message));
  await late;
  expect(warnings).toEqual([expect.stringContaining("the migration did not become")]);
  expect(await qemu.sessions.list()).toMatchObject([
    { content: { settings: { parameters: { "downtime-limit": 300 } } } },
  ]);
}, 20_000);

test("what can't be read is said, unless it is of another QEMU", async () => {
  const qemu = await fakeQemu();
  await killedInTheMiddle(qemu);
  const [left] = await qemu.sessions.list();
  await spoilJournal(qemu.stateDir, left!.session, "settings", "record");
  const other = await fakeQemu();
  await putBackLeftSettings(other.qmp, qemu.sessions, unexpected);
  const warnings: string[] = [];
  await putBackLeftSettings(qemu.qmp, qemu.sessions, (message) => warnings.push(message));
  expect(warnings).toEqual([expect.stringMatching(/can't be read .*; see godwit status, session [0-9a-f]{8}$/)]);
});
