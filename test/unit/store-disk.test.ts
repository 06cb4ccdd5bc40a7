import { execFileSync } from "node:child_process";
import { mkdtemp, rename, rm, symlink, truncate, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { GodwitError } from "../../src/errors.ts";
import { type DiskReader, FileDisk, identityOf } from "../../src/store/disk-reader.ts";
import { readBatch } from "../../src/store/read-batch.ts";

const content = Buffer.from(Uint32Array.from({ length: 2 ** 18 }, (_, index) => index * 2654435761).buffer); // 1 MiB

async function folder(): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), "godwit-disk-"));
  onTestFinished(() => rm(path, { recursive: true }));
  return path;
}

async function disk(sizeBytes = content.length): Promise<{ path: string; reader: FileDisk }> {
  const path = join(await folder(), "disk");
  await writeFile(path, content);
  const reader = await FileDisk.open(path, sizeBytes);
  onTestFinished(() => reader[Symbol.asyncDispose]());
  return { path, reader };
}

async function codeOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => "none",
    (error) => error.code,
  );
}

test("reads a file into shared memory, at once or later", async () => {
  const { reader, path } = await disk();
  const memory = new WebAssembly.Memory({ initial: 16, maximum: 16, shared: true });
  const target = new Uint8Array(memory.buffer, 4095, 100_001);
  await reader.read(4097, target);
  expect(Buffer.compare(Buffer.from(target), content.subarray(4097, 104_098))).toBe(0);
  target.fill(0);
  reader.readSync(4098, target);
  expect(Buffer.compare(Buffer.from(target), content.subarray(4098, 104_099))).toBe(0);
  expect(reader).toMatchObject({ sizeBytes: content.length, place: { kind: "file", path } });
});

test("reads into one place after the other, and in as many calls as it takes", async () => {
  const { reader, path } = await disk();
  const memory = new Uint8Array(2 * content.length);
  const targets = [1, 4096, 0, 10_000, 4095].map((bytes, index) => memory.subarray(index * 20_000).subarray(0, bytes));
  await reader.readScattered(777, targets);
  expect(Buffer.compare(Buffer.concat(targets), content.subarray(777, 777 + 18_192))).toBe(0);
  const pages = Array.from({ length: 200 }, (_, index) => memory.subarray(index * 4104 + 8, (index + 1) * 4104));
  await reader.readScattered(4096, pages);
  expect(Buffer.compare(Buffer.concat(pages), content.subarray(4096, 201 * 4096))).toBe(0);
  await truncate(path, 8000);
  expect(await codeOf(reader.readScattered(4096, pages))).toBe("STORE_DISK_READ");
});

test("closing waits for the reads that are under way", async () => {
  const { path } = await disk();
  const reader = await FileDisk.open(path, content.length);
  const targets = Array.from({ length: 20 }, () => new Uint8Array(content.length));
  const reads = targets.map((target) => reader.read(0, target));
  await reader[Symbol.asyncDispose]();
  await Promise.all(reads);
  expect(targets.every((target) => Buffer.compare(target, content) === 0)).toBe(true);
  expect(await codeOf(reader.read(0, targets[0]!))).toBe("STORE_DISK_READ");
});

test("a range that is not on the disk, a file that has become shorter", async () => {
  const { reader, path } = await disk();
  const target = new Uint8Array(4096);
  const readBoth = async (offset: number) => {
    expect(() => reader.readSync(offset, target)).toThrow(GodwitError);
    return codeOf(reader.read(offset, target));
  };
  expect(await readBoth(content.length - 4095)).toBe("STORE_DISK_READ");
  expect(await readBoth(-1)).toBe("STORE_DISK_READ");
  await truncate(path, 6000);
  expect(await readBoth(4096)).toBe("STORE_DISK_READ");
  expect(await codeOf(reader.read(0, target))).toBe("none");
});

test("what cannot be a disk is not opened", async () => {
  const path = await folder();
  execFileSync("mkfifo", [join(path, "fifo")]);
  await symlink("nowhere", join(path, "dangling"));
  for (const name of ["none", "fifo", "dangling", "."]) {
    expect(await codeOf(FileDisk.open(join(path, name), 1))).toBe("STORE_DISK_OPEN");
  }
  expect(await identityOf([join(path, "none")])).toBeNull();
  expect(await identityOf(["/dev/null"])).toBeNull();
});

test("the identity tells another file, another time, another size", async () => {
  const { reader, path } = await disk();
  const first = await reader.identity();
  expect(await reader.identity()).toEqual(first);
  await utimes(path, 1, 1);
  const second = await reader.identity();
  expect(second).not.toEqual(first);
  await truncate(path, 4096);
  await utimes(path, 1, 1);
  expect(await reader.identity()).not.toEqual(second);
  const last = await reader.identity();
  expect(await identityOf([path])).toEqual(last);
  await writeFile(`${path}.new`, content.subarray(0, 4096));
  await rename(`${path}.new`, path);
  await utimes(path, 1, 1);
  expect(await reader.identity()).toEqual(last); // it still reads the old file
  expect(await identityOf([path])).not.toEqual(last);
});

test("a file that ends within QEMU's last sector", async () => {
  const { path } = await disk();
  await truncate(path, 10_000);
  await using reader = await FileDisk.open(path, 10_240);
  expect(reader.sizeBytes).toBe(10_000);
});

test("only a sparse file is asked for its extents", async () => {
  const { path } = await disk();
  const part = { offsetBytes: 0, lengthBytes: 4096 };
  const extentsOf = async (sizeBytes: number) => {
    const extents = async function* () {
      yield part;
    };
    await using reader = await FileDisk.open(path, sizeBytes, { extents });
    const found: unknown[] = [];
    for await (const extent of reader.allocatedExtents()) found.push(extent);
    return found;
  };
  expect(await extentsOf(content.length)).toEqual([{ offsetBytes: 0, lengthBytes: content.length }]);
  await truncate(path, 64 * content.length);
  expect(await extentsOf(64 * content.length)).toEqual([part]);
});

/** Counts the reads of a disk, and fails those that touch `badOffset`. */
function counting(reader: DiskReader, badOffset = -1): DiskReader & { reads: [number, number][] } {
  const reads: [number, number][] = [];
  const readScattered = async (offset: number, targets: readonly Uint8Array[]) => {
    const length = targets.reduce((sum, target) => sum + target.length, 0);
    reads.push([offset, length]);
    if (offset <= badOffset && badOffset < offset + length) throw new GodwitError("STORE_DISK_READ", "bad block");
    return reader.readScattered(offset, targets);
  };
  return Object.assign(Object.create(reader) as DiskReader, { reads, readScattered });
}

function pageAt(offsetBytes: number) {
  const target = new Uint8Array(4096);
  return { offsetBytes, target, targets: [target] };
}

test("a batch: neighbours are read as one, in whatever order they are asked for", async () => {
  const reader = counting((await disk()).reader);
  const offsets = [8192, 4096, 524_288, 4096, 12_288, 45_056, 77_825, 1_044_480];
  const reads = offsets.map(pageAt);
  expect(await readBatch(reader, reads)).toEqual(offsets.map(() => undefined));
  for (const { offsetBytes, target } of reads) {
    expect(Buffer.compare(target, content.subarray(offsetBytes, offsetBytes + 4096))).toBe(0);
  }
  expect(reader.reads).toEqual([
    [4096, 4096], // asked for twice
    [4096, 77_825],
    [524_288, 4096],
    [1_044_480, 4096],
  ]);
  expect(await readBatch(reader, [])).toEqual([]);
});

test("a batch: a bad block costs no more than itself", async () => {
  const reader = counting((await disk()).reader, 8200);
  const reads = [4096, 8192, 12_288, 10_000_000].map(pageAt);
  const failures = await readBatch(reader, reads);
  expect(failures.map((failure) => failure?.code)).toEqual([
    undefined,
    "STORE_DISK_READ",
    undefined,
    "STORE_DISK_READ",
  ]);
  expect(Buffer.compare(reads[2]!.target, content.subarray(12_288, 16_384))).toBe(0);
});

test("a batch: no span grows without limit", async () => {
  const reader = counting((await disk()).reader);
  const reads = Array.from({ length: 256 }, (_, index) => pageAt(index * 4096));
  expect((await readBatch(reader, reads)).every((failure) => failure === undefined)).toBe(true);
  expect(Buffer.compare(Buffer.concat(reads.map(({ target }) => target)), content)).toBe(0);
  expect(reader.reads.map(([, length]) => length)).toEqual([262_144, 262_144, 262_144, 262_144]);
});
