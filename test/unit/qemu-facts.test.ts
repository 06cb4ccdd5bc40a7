import { expect, onTestFinished, test } from "vitest";
import type { GodwitError } from "../../src/errors.ts";
import { compareFacts, readFacts, type VmFacts, vmFactsSchema } from "../../src/qemu/facts.ts";
import { QmpClient } from "../../src/qemu/qmp.ts";
import { FakeQmp } from "./support/fake-qmp.ts";

const MIB = 2 ** 20;
const NO_UUID = "00000000-0000-0000-0000-000000000000";
const UUID = "3d0f6a6e-6d3c-4f0e-9d6a-2c6f9f6f0001";

function facts(changes: Partial<VmFacts> = {}): VmFacts {
  return {
    qemuVersion: { major: 7, minor: 2, micro: 22, package: "Debian" },
    machineType: "pc-q35-7.2",
    memoryBytes: 1024 * MIB,
    cpus: 2,
    blockDevices: [
      { id: "disk0", readOnly: false, virtualSizeBytes: 512 * MIB },
      { id: "ide2-cd0", readOnly: false, virtualSizeBytes: null },
    ],
    name: "guest",
    uuid: NO_UUID,
    ...changes,
  };
}

const disk = (id: string, virtualSizeBytes: number | null, readOnly = false) => ({ id, readOnly, virtualSizeBytes });
const qemu = (major: number, minor: number, micro = 0) => ({ major, minor, micro, package: "" });
const lines = (destination: Partial<VmFacts>, source: Partial<VmFacts> = {}) =>
  compareFacts(facts(source), facts(destination)).map(({ text }) => text);

test("equal facts have no mismatch, nor does what may differ", () => {
  expect(lines({})).toEqual([]);
  expect(lines({ name: "other", qemuVersion: qemu(7, 2, 1) })).toEqual([]);
  expect(lines({ qemuVersion: qemu(10, 0) })).toEqual([]);
  expect(lines({ uuid: UUID })).toEqual([]);
  expect(lines({ uuid: UUID }, { uuid: UUID.toUpperCase() })).toEqual([]);
  expect(lines({ blockDevices: facts().blockDevices.toReversed() })).toEqual([]);
});

test("each mismatch is one line", () => {
  expect(lines({ memoryBytes: 2048 * MIB })).toEqual(["memory size: 1024 MiB here, 2048 MiB at the destination"]);
  expect(lines({ memoryBytes: 1024 * MIB + 1 })).toEqual([
    "memory size: 1024 MiB here, 1073741825 bytes at the destination",
  ]);
  expect(lines({ cpus: 4 })).toEqual(["cpus: 2 here, 4 at the destination"]);
  expect(lines({ machineType: "pc-i440fx-7.2" })).toEqual([
    "machine type: pc-q35-7.2 here, pc-i440fx-7.2 at the destination",
  ]);
  const otherUuid = UUID.replace("0001", "0002");
  expect(lines({ uuid: otherUuid }, { uuid: UUID })).toEqual([`UUID: ${UUID} here, ${otherUuid} at the destination`]);
  expect(compareFacts(facts(), facts({ cpus: 4 }))).toEqual([
    { what: "cpus", source: "2", destination: "4", text: "cpus: 2 here, 4 at the destination" },
  ]);
});

test("disks: missing, extra, other size, read-only, no medium", () => {
  const source = { blockDevices: [disk("a", 10 * MIB), disk("b", MIB), disk("c", MIB), disk("d", MIB, true)] };
  const destination = { blockDevices: [disk("a", 20 * MIB), disk("b", MIB, true), disk("d", null), disk("e", MIB)] };
  expect(lines(destination, source)).toEqual([
    "disk a: 10 MiB here, 20 MiB at the destination",
    "disk b: 1 MiB here, 1 MiB read-only at the destination",
    "disk c: 1 MiB here, none at the destination",
    "disk d: 1 MiB read-only here, no medium at the destination",
    "disk e: none here, 1 MiB at the destination",
  ]);
});

test("an older QEMU at the destination must be allowed", () => {
  const newer = facts({ qemuVersion: qemu(10, 0, 3) });
  const older = facts({ qemuVersion: qemu(9, 2, 1) });
  expect(compareFacts(newer, older).map(({ text }) => text)).toEqual([
    "QEMU version: 10.0.3 here, 9.2.1 at the destination; going back to an older QEMU is best effort only",
  ]);
  expect(compareFacts(newer, older, { allowOlderQemu: true })).toEqual([]);
  expect(compareFacts(facts({ qemuVersion: qemu(10, 1) }), newer)).toHaveLength(1);
});

test("facts of a peer are bounded and safe to show", () => {
  expect(vmFactsSchema.parse(JSON.parse(JSON.stringify(facts())))).toEqual(facts());
  const bad: [string, unknown][] = [
    ["name", "x".repeat(2000)],
    ["name", "\u001b[2J"],
    ["name", "\u202etxt"],
    ["machineType", ""],
    ["memoryBytes", -1],
    ["memoryBytes", 2 ** 60],
    ["cpus", 1.5],
    ["uuid", "7"],
    ["blockDevices", Array.from({ length: 5000 }, (_, i) => disk(`d${i}`, 1))],
    ["blockDevices", [disk("", 1)]],
    ["surprise", 1],
  ];
  for (const [member, value] of bad) {
    expect(vmFactsSchema.safeParse({ ...facts(), [member]: value }).success, member).toBe(false);
  }
});

/** Answers of QEMU 7.2 with -M q35: each way to give a guest a disk, and drives that no device uses. */
const ANSWERS = {
  "query-version": { qemu: { micro: 22, minor: 2, major: 7 }, package: "Debian 1:7.2" },
  "qom-get": "pc-q35-7.2-machine",
  "query-memory-size-summary": { "base-memory": 128 * MIB, "plugged-memory": 16 * MIB },
  "query-memory-devices": [{ type: "dimm", data: { memdev: "/objects/mem1", size: 16 * MIB } }],
  "query-cpus-fast": [{ "cpu-index": 0 }, { "cpu-index": 1 }],
  "query-name": {},
  "query-uuid": { UUID: NO_UUID },
  "query-block": [
    block("virtio0", "/machine/peripheral-anon/device[1]/virtio-backend", 16 * MIB),
    block("dd", "hd0", 16 * MIB),
    block("", "/machine/peripheral/disk1/virtio-backend", 16 * MIB),
    block("", "/machine/peripheral-anon/device[0]/virtio-backend", 16 * MIB, true),
    { device: "ide2-cd0", qdev: "/machine/unattached/device[19]", removable: true, locked: false, type: "unknown" },
    { device: "sd0", removable: true, locked: false, type: "unknown" },
  ],
};

function block(device: string, qdev: string, size: number, ro = false): object {
  const inserted = { ro, file: "f", drv: "raw", image: { filename: "f", format: "raw", "virtual-size": size } };
  return { device, qdev, removable: false, inserted };
}

async function readFrom(answers: Record<string, unknown>): Promise<VmFacts> {
  const fake = await FakeQmp.start({ commands: answers });
  onTestFinished(() => fake[Symbol.asyncDispose]());
  using qmp = await QmpClient.connect(fake.path);
  return await readFacts(qmp);
}

test("facts are read from QEMU", async () => {
  expect(await readFrom(ANSWERS)).toEqual({
    qemuVersion: { major: 7, minor: 2, micro: 22, package: "Debian 1:7.2" },
    machineType: "pc-q35-7.2",
    memoryBytes: 144 * MIB,
    cpus: 2,
    blockDevices: [
      disk("virtio0", 16 * MIB),
      disk("hd0", 16 * MIB),
      disk("disk1", 16 * MIB),
      disk("/machine/peripheral-anon/device[0]/virtio-backend", 16 * MIB, true),
      disk("ide2-cd0", null),
    ],
    name: null,
    uuid: NO_UUID,
  });
});

test("a virtio-mem counts whole, however much of it is plugged: at a destination nothing is, before the VM is loaded", async () => {
  const virtioMem = (size: number) => ({
    "query-memory-size-summary": { "base-memory": 128 * MIB, "plugged-memory": size },
    "query-memory-devices": [{ type: "virtio-mem", data: { memdev: "/objects/m", size, "max-size": 1024 * MIB } }],
  });
  const [source, destination] = [
    await readFrom({ ...ANSWERS, ...virtioMem(256 * MIB) }),
    await readFrom({ ...ANSWERS, ...virtioMem(0) }),
  ];
  expect(source.memoryBytes).toBe(1152 * MIB);
  expect(compareFacts(source, destination)).toEqual([]);
});

test("an answer that could not be told to a peer is an error here", async () => {
  const error: GodwitError = await readFrom({ ...ANSWERS, "query-name": { name: "a\nb" } }).catch((e) => e);
  expect(error.code).toBe("QMP_BAD_FACTS");
  expect(error.message).toBe("QEMU's answer about name is not usable");
});
