import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { type Disk, diskAt, listDisks } from "../../src/qemu/disks.ts";
import { QmpClient } from "../../src/qemu/qmp.ts";
import { FakeQmp } from "./support/fake-qmp.ts";

/** What query-block tells of a disk, in as far as it is read. */
function block(drv: string, filename: string, image: object = {}) {
  const inserted = {
    ...{ file: filename, "node-name": "node0", ro: false, drv },
    image: { filename, format: drv, "virtual-size": 4096, ...image },
  };
  return { device: "", qdev: "/machine/peripheral/disk0/virtio-backend", removable: false, inserted };
}

async function disksOf(...blocks: object[]): Promise<Disk[]> {
  const fake = await FakeQmp.start({ commands: { "query-block": blocks } });
  onTestFinished(() => fake[Symbol.asyncDispose]());
  using qmp = await QmpClient.connect(fake.path);
  return await listDisks(qmp);
}

async function diskOf(drv: string, filename: string, image: object = {}): Promise<Disk> {
  return (await disksOf(block(drv, filename, image)))[0]!;
}

const optionsOf = ({ sharedName }: Disk) => sharedName && JSON.parse(sharedName.replace(/^json:/, ""));
const shared = { "read-only": true, "force-share": true };

test("drives that no device uses and devices without a medium are no disks", async () => {
  const { inserted: _, ...empty } = block("raw", "");
  const { qdev: __, ...unused } = block("raw", "/a");
  expect(await disksOf(empty, unused)).toEqual([]);
});

test.each(["raw", "file", "host_device"])("%s at a path is read as it is", async (driver) => {
  const disk = await diskOf(driver, "/dev/vg/a b,c");
  expect(disk).toMatchObject({
    id: "disk0",
    nodeName: "node0",
    driver,
    rawPath: "/dev/vg/a b,c",
    files: ["/dev/vg/a b,c"],
  });
  expect(disk).toMatchObject({ virtualSizeBytes: 4096, readOnly: false });
  expect(optionsOf(disk)).toEqual({ driver: "raw", file: { filename: "/dev/vg/a b,c" }, ...shared });
});

test("raw with an offset is only opened with it", async () => {
  const options = { driver: "raw", offset: 512, file: { driver: "file", filename: "/a" } };
  const disk = await diskOf("raw", `json:${JSON.stringify(options)}`);
  expect(disk).toMatchObject({ rawPath: null, files: ["/a"] });
  expect(optionsOf(disk)).toEqual({ ...options, ...shared });
});

const throttled = (file: object) => `json:${JSON.stringify({ driver: "throttle", "throttle-group": "g", file })}`;
const atPath = { driver: "file", filename: "/a" };

test("under filters, as a management puts them there, a disk is what they read from", async () => {
  const raw = await diskOf("throttle", throttled({ driver: "raw", file: atPath }));
  expect(raw).toMatchObject({ nodeName: "node0", driver: "raw", rawPath: "/a", files: ["/a"] });
  expect(optionsOf(raw)).toEqual({ driver: "raw", file: { filename: "/a" }, ...shared });

  const twice = { driver: "copy-on-read", file: { driver: "qcow2", file: atPath } };
  const qcow2 = await diskOf("throttle", throttled(twice));
  expect(qcow2).toMatchObject({ driver: "qcow2", rawPath: null, files: ["/a"] });
  expect(optionsOf(qcow2)).toEqual({ driver: "qcow2", file: { filename: "/a" }, ...shared });
  expect(diskAt(qcow2, "/there")).toMatchObject({ driver: "qcow2", rawPath: null });

  const part = { driver: "raw", offset: 512, file: atPath };
  const options = await diskOf("throttle", throttled(part));
  expect(options).toMatchObject({ driver: "raw", rawPath: null, files: ["/a"] });
  expect(optionsOf(options)).toEqual({ ...part, ...shared });

  const relative = await diskOf("throttle", throttled({ driver: "raw", file: { ...atPath, filename: "a" } }));
  expect(relative).toMatchObject({ driver: "raw", rawPath: null, sharedName: null, files: null });
});

test.each([
  ["of nothing", throttled({})],
  ["too long for QEMU", throttled({ driver: "raw", file: atPath }).slice(0, -9)],
])("a filter %s has no image that others can read", async (_, filename) => {
  expect(await diskOf("throttle", filename)).toMatchObject({ driver: "throttle", rawPath: null });
});

test.each([
  ["relative", "disk.raw"],
  ["over the network", "nbd://host/disk"],
  ["a descriptor that was passed to QEMU", "/dev/fdset/3"],
  ["relative, with options", 'json:{"driver":"raw","offset":512,"file":{"driver":"file","filename":"disk.raw"}}'],
  ["too long for QEMU", 'json:{"driver":"raw","offset":512,"file":{"driver":"file","filen'],
])("only its QEMU can open it: %s", async (_, filename) => {
  expect(await diskOf("raw", filename)).toMatchObject({ rawPath: null, sharedName: null, files: null });
});

test("qcow2: all files of the chain, the data file too", async () => {
  const base = { filename: "/base.raw", format: "raw", "virtual-size": 4096 };
  const middle = { filename: "/middle.qcow2", format: "qcow2", "virtual-size": 4096, "backing-image": base };
  const specific = { type: "qcow2", data: { "data-file": "/data.raw" } };
  const disk = await diskOf("qcow2", "/top.qcow2", { "backing-image": middle, "format-specific": specific });
  expect(disk).toMatchObject({ rawPath: null, files: ["/top.qcow2", "/data.raw", "/middle.qcow2", "/base.raw"] });
  expect(optionsOf(disk)).toEqual({ driver: "qcow2", file: { filename: "/top.qcow2" }, ...shared });

  const remote = { "backing-image": { ...base, filename: 'json:{"driver":"rbd","pool":"p","image":"i"}' } };
  expect((await diskOf("qcow2", "/top.qcow2", remote)).files).toBeNull();
});

test("a disk that is elsewhere keeps its driver", async () => {
  const there = diskAt(await diskOf("qcow2", "nbd://host/disk"), "/mnt/there");
  expect(there).toMatchObject({ id: "disk0", driver: "qcow2", rawPath: null, files: ["/mnt/there"] });
  expect(optionsOf(there)).toMatchObject({ driver: "qcow2", file: { filename: "/mnt/there" } });
  expect(diskAt(await diskOf("raw", "disk.raw"), "/mnt/there").rawPath).toBe("/mnt/there");
});

test("a path that a user gives is a path, whatever it looks like", async () => {
  const path = 'json:{"driver":"raw"}';
  expect(diskAt(await diskOf("raw", "/a"), path).rawPath).toBe(join(process.cwd(), path));
});
