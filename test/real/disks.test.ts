// What godwit reads of a VM's disks, in each way, is what qemu-img makes of the image; and nothing is left running.
import { existsSync, readFileSync } from "node:fs";
import { open, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { temporaryFolder } from "../../lab/leftovers.ts";
import { type QemuVersion, qemuImg, qemuNbd } from "../../lab/qemus.ts";
import { run } from "../../lab/run.ts";
import { startSavedVm } from "../../lab/saved-vm.ts";
import { stockMigration } from "../../lab/stock.ts";
import { startVm, type Vm } from "../../lab/vm.ts";
import { openDestinationDisks, openSourceDisks } from "../../src/migration/disk-readers.ts";
import { WriteWatch } from "../../src/qemu/dirty-bitmap.ts";
import { exportDisks } from "../../src/qemu/disk-export.ts";
import { type Disk, diskAt, listDisks } from "../../src/qemu/disks.ts";
import type { DiskReader, Extent } from "../../src/store/disk-reader.ts";
import { startPair } from "./support/pair.ts";

const MIB = 2 ** 20;
const versions: QemuVersion[] = ["10.0", "7.2"];

/** Images in several formats whose first MiB is told apart by a letter, and the arguments that attach them. */
async function attachImages(folder: string): Promise<{ extraArgs: string[]; converted: Map<string, string> }> {
  const img = await qemuImg();
  const path = (name: string) => join(folder, name);
  const raw = async (name: string, letter: string) => {
    await writeFile(path(name), Buffer.alloc(MIB, letter));
    await truncate(path(name), 16 * MIB);
  };
  await raw("boot.raw", "B");
  await raw("plain.raw", "p");
  await raw("base.raw", "b");
  await raw("part.raw", "o");
  await run([...img, "create", "-q", "-f", "qcow2", "-b", path("base.raw"), "-F", "raw", path("mid.qcow2")]);
  await run([...img, "create", "-q", "-f", "qcow2", "-b", path("mid.qcow2"), "-F", "qcow2", path("top.qcow2")]);
  await raw("other.raw", "t");
  await run([...img, "convert", "-O", "qcow2", path("other.raw"), path("other.qcow2")]);
  await run([...img, "create", "-q", "-f", "qcow2", path("over.qcow2"), "16M"]);

  const file = (name: string) => ({ driver: "file", filename: path(name) });
  const nodes = {
    part: { driver: "raw", offset: 65536, size: 8 * MIB, file: file("part.raw") },
    // Not the backing file that the image names: it names none.
    over: { driver: "qcow2", file: file("over.qcow2"), backing: { driver: "qcow2", file: file("other.qcow2") } },
  };
  const extraArgs = [
    ...["-drive", `file=${path("plain.raw")},format=raw,if=none,id=plain`, "-device", "virtio-blk-pci,drive=plain"],
    ...["-drive", `file=${path("top.qcow2")},format=qcow2,if=none,id=top`, "-device", "virtio-blk-pci,drive=top"],
    ...Object.entries(nodes).flatMap(([name, node]) => [
      ...["-blockdev", JSON.stringify({ "node-name": name, ...node })],
      ...["-device", `virtio-blk-pci,drive=${name},id=${name}`],
    ]),
  ];
  const converted = new Map<string, string>();
  const convert = async (id: string, args: string[]) => {
    converted.set(id, path(`${id}.converted`));
    await run([...img, "convert", "-O", "raw", ...args, path(`${id}.converted`)]);
  };
  await convert("plain", [path("plain.raw")]);
  await convert("top", [path("top.qcow2")]);
  for (const [id, node] of Object.entries(nodes)) await convert(id, [`json:${JSON.stringify(node)}`]);
  return { extraArgs, converted };
}

/** Reads all of a disk in pieces of odd sizes, several at once, into shared memory, and compares it. */
async function expectContent(reader: DiskReader, path: string): Promise<void> {
  const memory = new WebAssembly.Memory({ initial: 160, maximum: 160, shared: true });
  const file = await open(path);
  const wanted = Buffer.alloc(memory.buffer.byteLength);
  const pieces = [4096, 512, 3 * MIB, 4096, 65536, 1000, 2 * MIB - 1];
  expect(reader.sizeBytes).toBe((await file.stat()).size);
  for (let offset = 0; offset < reader.sizeBytes; ) {
    const reads: Promise<void>[] = [];
    const start = offset;
    for (const piece of pieces) {
      const length = Math.min(piece, reader.sizeBytes - offset);
      if (length > 0) reads.push(reader.read(offset, new Uint8Array(memory.buffer, offset - start, length)));
      offset += length;
    }
    await Promise.all(reads);
    await file.read(wanted, 0, offset - start, start);
    expect(Buffer.compare(Buffer.from(memory.buffer, 0, offset - start), wanted.subarray(0, offset - start))).toBe(0);
  }
  await file.close();
}

/** All that is not in the allocated extents is zero. */
async function expectExtents(reader: DiskReader, path: string): Promise<number> {
  const content = readFileSync(path);
  let allocatedBytes = 0;
  let endBytes = 0;
  for await (const { offsetBytes, lengthBytes } of reader.allocatedExtents()) {
    expect(offsetBytes).toBeGreaterThanOrEqual(endBytes);
    expect(content.subarray(endBytes, offsetBytes).every((byte) => byte === 0)).toBe(true);
    endBytes = offsetBytes + lengthBytes;
    allocatedBytes += lengthBytes;
  }
  expect(content.subarray(endBytes).every((byte) => byte === 0)).toBe(true);
  return allocatedBytes;
}

test.each(versions)("QEMU %s: every kind of disk, at the source and at the destination", async (qemu) => {
  using folder = temporaryFolder();
  const { extraArgs, converted } = await attachImages(folder.path);
  const options = { qemu, extraArgs, disk: join(folder.path, "boot.raw") };
  const programs = { qemuNbd: await qemuNbd(qemu) };
  await using source = await startVm({ ...options, paused: true });
  const disks = await listDisks(source.qmp);
  const listed = disks.map(({ id, driver }) => `${id} ${driver}`).sort();
  expect(listed).toEqual(["over qcow2", "part raw", "plain raw", "top qcow2", "virtio-disk0 raw"]);
  const top = disks.find(({ id }) => id === "top")!;
  expect(top.files).toEqual(["top.qcow2", "mid.qcow2", "base.raw"].map((name) => join(folder.path, name)));

  let readers: DiskReader[];
  {
    await using open = await openSourceDisks(source.qmp, disks, programs);
    expect(Object.fromEntries(open.unreadable)).toEqual({});
    expect(kinds(open.readers)).toEqual({
      "virtio-disk0": "file",
      plain: "file",
      part: "nbd",
      over: "nbd",
      top: "nbd",
    });
    for (const [id, path] of converted) {
      const reader = open.readers.get(id)!;
      await expectContent(reader, path);
      expect(await expectExtents(reader, path)).toBeLessThanOrEqual(MIB);
      expect(await reader.identity()).not.toBeNull();
    }
    readers = [...open.readers.values()];
    expect(readers.filter(isListening)).toHaveLength(3);
  }
  expect(readers.filter(isListening)).toEqual([]);
  await expectNoExports(source);

  await using destination = await startVm({ ...options, incoming: true });
  const theirs = await listDisks(destination.qmp);
  expect(theirs.map(withoutNode)).toEqual(disks.map(withoutNode));
  {
    await using open = await openDestinationDisks(destination.qmp, theirs, programs);
    expect(Object.fromEntries(open.unreadable)).toEqual({});
    expect(qemuNbdChildren()).toHaveLength(3);
    for (const [id, path] of converted) await expectContent(open.readers.get(id)!, path);
    readers = [...open.readers.values()];
  }
  expect(qemuNbdChildren()).toEqual([]);
  expect(readers.filter(isListening)).toEqual([]);
});

test.each(versions)("QEMU %s: a running guest on qcow2 writes and moves while its disk is read", async (qemu) => {
  using folder = temporaryFolder();
  const programs = { qemuNbd: await qemuNbd(qemu) };
  await using pair = await startPair({ qemu, diskFormat: "qcow2" });
  const { source, destination } = pair;
  const [disk] = await listDisks(source.qmp);
  const content = async () => {
    const path = join(folder.path, "converted");
    await run([...(await qemuImg()), "convert", "-U", "-O", "raw", source.disk, path]);
    return path;
  };

  await using here = await openSourceDisks(source.qmp, [disk!], programs);
  const reader = here.readers.get("virtio-disk0")!;
  const reading = readOverAndOver(reader);
  source.console.send("dd if=/dev/urandom of=/root/new bs=1M count=8 conv=fsync 2>/dev/null; sha256sum /root/new");
  const [, hash] = await source.console.waitFor(/^([0-9a-f]{64}) /, 60_000);
  await source.qmp.execute("stop");
  await expectContent(reader, await content());
  {
    await using there = await openDestinationDisks(destination.qmp, await listDisks(destination.qmp), programs);
    await expectContent(there.readers.get("virtio-disk0")!, await content());
    await source.qmp.execute("cont");

    const readingThere = readOverAndOver(there.readers.get("virtio-disk0")!);
    expect(await stockMigration(source, destination)).toMatchObject({ status: "completed" });
    expect(await readingThere.end()).toBeGreaterThan(0);
  }
  expect(await reading.end()).toBeGreaterThan(0);
  destination.console.send("echo 3 >/proc/sys/vm/drop_caches; sha256sum /root/new");
  expect((await destination.console.waitFor(/^([0-9a-f]{64}) /, 60_000))[1]).toBe(hash);
  await here[Symbol.asyncDispose]();
  await expectNoExports(source);
  expect(qemuNbdChildren()).toEqual([]);
});

test.each([
  ["10.0", "raw"],
  ["10.0", "qcow2"],
  ["7.2", "raw"],
  ["7.2", "qcow2"],
] as const)("QEMU %s, %s: what the guest has written since is known", async (qemu, diskFormat) => {
  await using vm = await startSavedVm({ qemu, diskFormat });
  const [disk] = await listDisks(vm.qmp);
  const node = disk!.nodeName!;
  const dirty = async (bitmap: string) => {
    await using open = await openSourceDisks(vm.qmp, [disk!], { bitmaps: new Map([[disk!.id, bitmap]]) });
    expect(Object.fromEntries(open.unreadable)).toEqual({});
    expect(open.readers.get(disk!.id)!.place.kind).toBe(diskFormat === "raw" ? "file" : "nbd");
    let bytes = 0;
    for await (const { lengthBytes } of open.changes.get(disk!.id)!()) bytes += lengthBytes;
    return bytes;
  };
  const write = async (mib: number) => {
    vm.console.send(
      `dd if=/dev/urandom of=/root/new${mib} bs=1M count=${mib} conv=fsync 2>/dev/null; echo wrote ${mib}`,
    );
    await vm.console.waitFor(new RegExp(`^wrote ${mib}$`), 60_000);
  };

  const first = await WriteWatch.begin(vm.qmp, node, null);
  await write(4);
  const second = await WriteWatch.begin(vm.qmp, node, first.bitmap);
  expect(second.previous).toBe(first.bitmap);
  await write(8);
  const inFirst = await dirty(first.bitmap);
  expect(inFirst).toBeGreaterThanOrEqual(4 * MIB);
  expect(inFirst).toBeLessThan(8 * MIB); // metadata of the file system too, in units of 64 KiB

  await second.undo(); // the first one has noted all of it
  const third = await WriteWatch.begin(vm.qmp, node, first.bitmap);
  const inBoth = await dirty(third.previous!);
  expect(inBoth).toBeGreaterThanOrEqual(12 * MIB);
  expect(inBoth).toBeLessThan(20 * MIB);
  await third.keep();
  expect(await WriteWatch.begin(vm.qmp, node, first.bitmap)).toMatchObject({ previous: undefined }); // superseded, and so gone
  expect(await bitmapsOf(vm)).toHaveLength(1);
  const last = await WriteWatch.begin(vm.qmp, node, "godwit-other");
  await last.drop();
  expect(await bitmapsOf(vm)).toEqual([]);
  await expectNoExports(vm);
});

test("what cannot be read is said, and the rest is read", async () => {
  using folder = temporaryFolder();
  const { extraArgs, converted } = await attachImages(folder.path);
  await using vm = await startVm({ extraArgs, disk: join(folder.path, "boot.raw"), paused: true });
  const disks = await listDisks(vm.qmp);
  const plain = disks.find(({ id }) => id === "plain")!;
  const top = disks.find(({ id }) => id === "top")!;

  // Somebody else's NBD server: it is not touched.
  const theirs = { addr: { type: "unix", data: { path: join(folder.path, "theirs") } } } as const;
  await vm.qmp.execute("nbd-server-start", theirs);
  {
    await using open = await openSourceDisks(vm.qmp, disks);
    expect([...open.readers.keys()].sort()).toEqual(["plain", "virtio-disk0"]);
    expect(open.unreadable.get("top")).toMatch(/in use by another program/);
  }
  await vm.qmp.execute("nbd-server-stop");

  // Missing, no image, no qemu-nbd; and a raw disk that is elsewhere is read where it is said to be.
  const cases = [diskAt(plain, "/nonexistent"), { ...diskAt(top, converted.get("top")!), id: "bad" }];
  const command = { qemuNbd: await qemuNbd() };
  {
    await using open = await openDestinationDisks(vm.qmp, [...cases, diskAt(plain, converted.get("plain")!)], command);
    expect([...open.readers.keys()]).toEqual(["plain"]);
    expect(open.unreadable.get("bad")).toMatch(/qemu-nbd does not serve the image: .*not in qcow2 format/);
    await expectContent(open.readers.get("plain")!, converted.get("plain")!);
  }
  {
    await using open = await openDestinationDisks(vm.qmp, [cases[0]!, top], { qemuNbd: ["/nonexistent/qemu-nbd"] });
    expect([...open.readers.keys()]).toEqual([]);
    expect(open.unreadable.get("plain")).toMatch(/qemu-nbd does not serve the image: it is not on the PATH/);
    expect(open.unreadable.get("top")).toMatch(/qemu-nbd does not serve the image: it is not on the PATH/);
  }
});

test("a godwit that is killed leaves no qemu-nbd, and its exports do not stand in the way", async () => {
  using folder = temporaryFolder();
  const { extraArgs, converted } = await attachImages(folder.path);
  await using vm = await startVm({ extraArgs, disk: join(folder.path, "boot.raw"), paused: true });
  const [disk] = (await listDisks(vm.qmp)).filter(({ id }) => id === "top");
  const socketPath = join(folder.path, "nbd");
  const script = `
    const { QmpClient } = await import("./src/qemu/qmp.ts");
    const { exportDisks } = await import("./src/qemu/disk-export.ts");
    const { openImage } = await import("./src/qemu/image-server.ts");
    const qmp = await QmpClient.connect(${JSON.stringify(vm.qmpPath)});
    await exportDisks(qmp, [${JSON.stringify(disk)}], ${JSON.stringify(join(folder.path, "lost"))});
    const command = ${JSON.stringify(await qemuNbd())};
    const { pid } = await openImage(${JSON.stringify(disk!.sharedName)}, ${JSON.stringify(socketPath)}, { command });
    console.log(pid);
    process.kill(process.pid, "SIGKILL");`;
  const killed = await run(["bash", "-c", '"$@" || true', "", process.execPath, "-e", script]);
  const pid = Number(killed);
  expect(pid).toBeGreaterThan(0);
  await expect.poll(() => isRunning(pid)).toBe(false);

  expect(await vm.qmp.execute("query-block-exports")).toHaveLength(1);
  await using open = await openSourceDisks(vm.qmp, [disk!]);
  await expectContent(open.readers.get("top")!, converted.get("top")!);
  await open[Symbol.asyncDispose]();
  await expectNoExports(vm);
});

test("QEMU refuses one node and exports the other", async () => {
  using folder = temporaryFolder();
  const { extraArgs } = await attachImages(folder.path);
  await using vm = await startVm({ extraArgs, disk: join(folder.path, "boot.raw"), paused: true });
  const disks = [
    { id: "a", nodeName: "no-such-node" },
    { id: "b", nodeName: "over" },
    { id: "c", nodeName: null },
  ];
  {
    await using exports = await exportDisks(vm.qmp, disks, join(folder.path, "nbd"));
    expect([...exports.names.keys()]).toEqual(["b"]);
    expect(exports.refusals.get("a")).toMatch(/no-such-node/);
    expect(exports.refusals.get("c")).toMatch(/does not name/);
  }
  await expectNoExports(vm);
});

/**
 * Reads what is allocated, again and again, until told to end; returns how many bytes. What is allocated is asked once, since
 * a source that has handed over still lets its disks be read but, since QEMU 10.0, not that be asked.
 */
function readOverAndOver(reader: DiskReader): { end(): Promise<number> } {
  let ended = false;
  const target = new Uint8Array(MIB);
  const work = (async () => {
    let bytes = 0;
    const extents: Extent[] = [];
    for await (const extent of reader.allocatedExtents()) extents.push(extent);
    while (!ended) {
      for (const { offsetBytes, lengthBytes } of extents) {
        for (let at = 0; at < lengthBytes && !ended; at += MIB) {
          const part = target.subarray(0, Math.min(MIB, lengthBytes - at));
          await reader.read(offsetBytes + at, part);
          bytes += part.length;
        }
      }
    }
    return bytes;
  })();
  work.catch(() => {}); // it is heard at the end
  return {
    end() {
      ended = true;
      return work;
    },
  };
}

function kinds(readers: ReadonlyMap<string, DiskReader>): Record<string, string> {
  return Object.fromEntries([...readers].map(([id, { place }]) => [id, place.kind]));
}

function isListening({ place }: DiskReader): boolean {
  return place.kind === "nbd" && existsSync(place.socketPath);
}

function withoutNode({ nodeName: _, ...disk }: Disk): Omit<Disk, "nodeName"> {
  return disk;
}

/** The command lines of the qemu-nbds that this process has started. */
function qemuNbdChildren(): string[] {
  const pids = readFileSync(`/proc/${process.pid}/task/${process.pid}/children`, "utf8").split(" ").filter(Boolean);
  return pids.map((pid) => readFileSync(`/proc/${pid}/cmdline`, "utf8")).filter((line) => line.includes("qemu-nbd"));
}

/** Whether a process runs; one that has ended but was not waited for has no command line. */
function isRunning(pid: number): boolean {
  const path = `/proc/${pid}/cmdline`;
  return existsSync(path) && readFileSync(path).length > 0;
}

async function expectNoExports({ qmp }: Vm): Promise<void> {
  expect(await qmp.execute("query-block-exports")).toEqual([]);
  await expect(qmp.execute("nbd-server-stop")).rejects.toThrow(/not running/);
}

async function bitmapsOf({ qmp }: Vm): Promise<unknown[]> {
  const nodes = await qmp.execute("query-named-block-nodes", { flat: true });
  return nodes.flatMap((each) => each["dirty-bitmaps"] ?? []);
}
