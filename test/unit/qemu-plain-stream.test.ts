// What management has left in a QEMU's migration settings: put aside for the migration, or refused in words that say what to change.
import { readFileSync } from "node:fs";
import { expect, onTestFinished, test } from "vitest";
import { DestinationVm } from "../../src/migration/destination-vm.ts";
import { SourceVm } from "../../src/migration/source-vm.ts";
import { PLAIN_STREAM } from "../../src/qemu/plain-stream.ts";
import { QmpClient } from "../../src/qemu/qmp.ts";
import { FakeQmp, type FakeRequest } from "./support/fake-qmp.ts";

/** A QEMU that keeps what it is set to. */
async function qemuSetTo(runState: string, on: readonly string[], parameters: Record<string, unknown> = {}) {
  const names = [
    "events",
    "late-block-activate",
    "return-path",
    "multifd",
    "postcopy-ram",
    "x-ignore-shared",
    "xbzrle",
  ];
  const capabilities = new Map([...names, ...on].map((name) => [name, on.includes(name)]));
  const fake = await FakeQmp.start({
    commands: {
      "query-status": { status: runState, running: runState === "running" },
      "query-migrate": {},
      "query-migrate-capabilities": () => [...capabilities].map(([capability, state]) => ({ capability, state })),
      "migrate-set-capabilities": ({ arguments: given }: FakeRequest) => {
        for (const { capability, state } of given!.capabilities as { capability: string; state: boolean }[])
          capabilities.set(capability, state);
        return {};
      },
      "query-migrate-parameters": { mode: "normal", "tls-creds": "", ...parameters },
      "migrate-set-parameters": {},
      migrate: {},
      "migrate-incoming": {},
      stop: {},
    },
  });
  onTestFinished(() => fake[Symbol.asyncDispose]());
  const qmp = await QmpClient.connect(fake.path);
  onTestFinished(() => qmp.close());
  return { qmp, on: () => [...capabilities].flatMap(([name, isOn]) => (isOn ? [name] : [])).sort() };
}

const LEFT = ["multifd", "postcopy-ram", "x-ignore-shared", "xbzrle"];

test("a source sends one plain stream of all memory, whatever it was set to, and is set back", async () => {
  const { qmp, on } = await qemuSetTo("running", LEFT);
  const vm = await SourceVm.open(qmp);
  await vm.start("/nowhere", { limit: { downtimeLimitMs: 1, bandwidthBytesPerSecond: null } });
  expect(on()).toEqual(["events", "return-path"]);
  await vm.restoreSettings();
  expect(on()).toEqual(LEFT);
});

test("a destination waits for one plain stream, and is set back", async () => {
  const { qmp, on } = await qemuSetTo("inmigrate", LEFT);
  const vm = await DestinationVm.open(qmp);
  await vm.start("/nowhere");
  expect(on()).toEqual(["events", "late-block-activate"]);
  await vm.restoreSettings();
  expect(on()).toEqual(LEFT);
});

test("docs/management.md names all that is put aside", () => {
  const document = readFileSync(new URL("../../docs/management.md", import.meta.url), "utf8");
  for (const name of Object.keys(PLAIN_STREAM)) expect(document).toContain(`\`${name}\``);
});

test.each([
  [["background-snapshot"], {}, "QMP_CAPABILITY", "background-snapshot is on, with which it saves the VM"],
  [["block"], {}, "QMP_CAPABILITY", "block is on, with which it copies disks"],
  [[], { mode: "cpr-reboot" }, "QMP_PARAMETER", 'mode is "cpr-reboot", and has to be "normal"'],
  [[], { "tls-creds": "tls0" }, "QMP_PARAMETER", 'tls-creds is "tls0", and has to be ""'],
])("refused before anything is changed: %j %j", async (capabilities, parameters, code, message) => {
  for (const [runState, Vm] of [
    ["running", SourceVm],
    ["inmigrate", DestinationVm],
  ] as const) {
    const { qmp, on } = await qemuSetTo(runState, capabilities, parameters);
    await expect(Vm.open(qmp)).rejects.toMatchObject({ code, message: expect.stringContaining(message) });
    expect(on()).toEqual(capabilities);
  }
});
