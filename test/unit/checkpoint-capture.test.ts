import { writeFileSync } from "node:fs";
import fc from "fast-check";
import { expect, onTestFinished, test } from "vitest";
import { keepCheckpoint } from "../../src/migration/checkpoint-keep.ts";
import { CheckpointPages } from "../../src/migration/checkpoint-pages.ts";
import { captureStopped } from "../../src/migration/checkpoint-stopped.ts";
import type { PageSink } from "../../src/migration/checkpoint-take.ts";
import type { MigrationEvent } from "../../src/migration/events.ts";
import { createKernels } from "../../src/migration/kernels.ts";
import { openCheckpoints } from "../../src/migration/open-checkpoints.ts";
import { RawWindow } from "../../src/migration/window.ts";
import type { VmFacts } from "../../src/qemu/facts.ts";
import { QmpClient } from "../../src/qemu/qmp.ts";
import { MAX_HELD_BYTES, StreamParser } from "../../src/stream/parser.ts";
import { stateFolder } from "./support/checkpoint-stores.ts";
import { FakeQmp, type FakeRequest, refuse } from "./support/fake-qmp.ts";
import { filled, StreamBuilder } from "./support/streams.ts";

const PAGE_BYTES = 4096;
const WINDOW_BYTES = 8 * 1024 * 1024;

/** Keeps the first byte of each page; pages of zeros go. */
class FakeWriter implements PageSink {
  readonly pages = new Map<number, number>();
  add(first: number, pages: Uint8Array): void {
    for (let at = 0; at < pages.length; at += PAGE_BYTES) {
      const page = Buffer.from(pages.subarray(at, at + PAGE_BYTES));
      if (!page.equals(filled(page[0]!))) throw new Error("a page is torn");
      this.pages.set(first + at / PAGE_BYTES, page[0]!);
    }
  }
  zero(first: number, count: number): void {
    for (let i = 0; i < count; i++) this.pages.delete(first + i);
  }
  async drained(): Promise<void> {}
}

const kernels = createKernels(MAX_HELD_BYTES + WINDOW_BYTES);

/** What a stream, given in chunks, leaves in a checkpoint. */
function captured(stream: Uint8Array, cuts: readonly number[]): Map<number, number> {
  const window = new RawWindow(kernels, WINDOW_BYTES);
  const writer = new FakeWriter();
  const parser = new StreamParser(kernels.scanner, new CheckpointPages(kernels.bytes, writer));
  for (let at = 0, i = 0; at < stream.length; i++) {
    const chunk = stream.subarray(at, at + cuts[i % cuts.length]!);
    window.nextRegion().set(chunk);
    window.commit(chunk.length);
    window.parsed(parser.push(window.bytes, window.parseAt, window.writeAt));
    at += chunk.length;
  }
  return writer.pages;
}

const BLOCKS = { "pc.ram": 64 * PAGE_BYTES, "vga.vram": 8 * PAGE_BYTES, "pc.rom": 4 * PAGE_BYTES };
const FIRST_PAGES = { "pc.ram": 0, "vga.vram": 64, "pc.rom": 72 };
const block = fc.constantFrom("pc.ram", "vga.vram", "pc.rom");
const record = fc.record({ block, page: fc.nat(3), count: fc.integer({ min: 1, max: 4 }), byte: fc.nat(3) });

test("of a stream the last version of each page is taken, ramblock after ramblock, however it is cut", () => {
  const cuts = fc.array(fc.integer({ min: 1, max: 20_000 }), { minLength: 1, maxLength: 5 });
  fc.assert(
    fc.property(fc.array(record, { maxLength: 20 }), cuts, (records, cuts) => {
      const stream = new StreamBuilder().header().ramStart(2, BLOCKS).part(2);
      const expected = new Map<number, number>();
      let last: string | undefined;
      for (const { block, page, count, byte } of records) {
        for (let i = 0; i < count; i++) {
          const name = block === last ? undefined : block;
          last = block;
          // QEMU writes pages of zeros either way.
          if (byte === 0) stream.zero(page + i, name);
          else stream.page(page + i, filled(byte - 1), name);
          const number = FIRST_PAGES[block] + page + i;
          if (byte > 1) expected.set(number, byte - 1);
          else expected.delete(number);
        }
      }
      const bytes = stream.eos().footer(2).u8(0).build();
      const found = captured(bytes, cuts);
      for (const [number, byte] of found) if (byte === 0) found.delete(number); // the store's part
      expect(found).toEqual(expected);
    }),
  );
});

test("pages of a ramblock that was not announced are left out", () => {
  const stream = new StreamBuilder().header().ramStart(2, BLOCKS).part(2);
  stream.page(0, filled(1), "other").page(1, filled(2)).page(1, filled(3), "pc.ram").eos().footer(2);
  expect(captured(stream.build(), [1 << 16])).toEqual(new Map([[1, 3]]));
});

/** 16 MiB and a page below 4 GiB, 20 MiB above. */
const MAP = [
  "FlatView #0",
  ' AS "memory", root: system',
  " Root memory region: system",
  "  0000000000000000-0000000001000fff (prio 0, ram): pc.ram KVM",
  "  0000000100000000-00000001013fffff (prio 0, ram): pc.ram @0000000001001000 KVM",
  "",
].join("\r\n");
const LOW_PAGES = 4097;
const HIGH_PAGES = 5120;
const HIGH = 2 ** 20;

/** Each page is filled with its number's last byte. */
function writeMemory({ arguments: args }: FakeRequest): object {
  const { val, size, filename } = args as { val: number; size: number; filename: string };
  const pages = Array.from({ length: size / PAGE_BYTES }, (_, i) => filled((val / PAGE_BYTES + i) % 256));
  writeFileSync(filename, Buffer.concat(pages));
  return {};
}

async function fakeQemu(pmemsave: (request: FakeRequest) => unknown): Promise<{ fake: FakeQmp; qmp: QmpClient }> {
  const fake = await FakeQmp.start({
    commands: {
      "human-monitor-command": MAP,
      "query-memdev": [{ id: "pc.ram" }],
      "query-memory-devices": [],
      pmemsave,
    },
  });
  onTestFinished(() => fake[Symbol.asyncDispose]());
  const qmp = await QmpClient.connect(fake.path);
  onTestFinished(() => qmp.close());
  return { fake, qmp };
}

test("a stopped VM is read piece by piece, each page under the number of its address", async () => {
  const { fake, qmp } = await fakeQemu(writeMemory);
  const writer = new FakeWriter();
  const progress: number[] = [];
  await captureStopped(qmp, { writer, onProgress: (done, total) => progress.push(done / total) });
  const expected = new Map<number, number>();
  for (let page = 0; page < LOW_PAGES; page++) expected.set(page, page % 256);
  for (let page = HIGH; page < HIGH + HIGH_PAGES; page++) expected.set(page, page % 256);
  expect(writer.pages).toEqual(expected);
  expect(progress).toEqual(progress.toSorted((a, b) => a - b));
  expect(progress.at(-1)).toBe(1);
  const sizes = fake.requests.filter(({ execute }) => execute === "pmemsave").map(({ arguments: args }) => args!.size);
  expect(sizes).toEqual([1 << 24, PAGE_BYTES, 1 << 24, 1 << 22]);
});

const refuseToWrite = () => {
  throw refuse("GenericError", "Could not open");
};

test.each([
  ["QEMU can't write", refuseToWrite, "QMP_COMMAND_FAILED"],
  ["QEMU writes elsewhere", () => ({}), "MIGRATION_MEMORY_UNREAD"],
  [
    "a file that is cut off",
    (request: FakeRequest) => {
      writeFileSync(String(request.arguments!.filename), filled(1));
      return {};
    },
    "MIGRATION_MEMORY_UNREAD",
  ],
])("%s: that is the error", async (_, pmemsave, code) => {
  const { qmp } = await fakeQemu(pmemsave);
  const capture = { writer: new FakeWriter(), onProgress: () => {} };
  await expect(captureStopped(qmp, capture)).rejects.toMatchObject({ code });
});

test("it can be ended", async () => {
  const ending = new AbortController();
  const { fake, qmp } = await fakeQemu(writeMemory);
  const capture = {
    writer: new FakeWriter(),
    signal: ending.signal,
    onProgress: () => ending.abort(new Error("enough")),
  };
  await expect(captureStopped(qmp, capture)).rejects.toThrow("enough");
  expect(fake.requests.filter(({ execute }) => execute === "pmemsave").length).toBeLessThan(3);
});

const vm: VmFacts = {
  qemuVersion: { major: 10, minor: 0, micro: 2, package: "" },
  machineType: "pc-q35-10.0",
  memoryBytes: (LOW_PAGES + HIGH_PAGES) * PAGE_BYTES,
  cpus: 1,
  blockDevices: [],
  name: "web1",
  uuid: "00000000-0000-0000-0000-000000000000",
};

test("what is kept after a migration is in the store, and told", async () => {
  const { qmp } = await fakeQemu(writeMemory);
  const stateDir = await stateFolder();
  const events: MigrationEvent[] = [];
  const kept = await keepCheckpoint({ qmp, vm, place: { stateDir }, onEvent: (event) => events.push(event) });
  const zeroPages = Math.ceil(LOW_PAGES / 256) + HIGH_PAGES / 256;
  expect(kept).toMatchObject({ pages: LOW_PAGES + HIGH_PAGES - zeroPages });
  expect(events[0]).toMatchObject({ event: "keeping", readBytes: 0 });
  expect(events.at(-1)).toEqual({ event: "checkpoint", ...kept });
  const store = await openCheckpoints(stateDir);
  expect(await store.latest("name:web1")).toMatchObject({ id: kept?.id, vmName: "web1", origin: "migration" });
  expect(await store.check(kept!.id)).toMatchObject({ damagedPages: 0 });
});

test.each([
  ["no name", { ...vm, name: null }, writeMemory, /neither a UUID nor a name.*; start QEMU with -uuid or -name$/],
  ["no memory to be had", vm, () => ({}), /QEMU's file can't be read/],
] as const)("%s: one warning, and nothing is kept", async (_, vm, pmemsave, warning) => {
  const { qmp } = await fakeQemu(pmemsave);
  const stateDir = await stateFolder();
  const events: MigrationEvent[] = [];
  expect(await keepCheckpoint({ qmp, vm, place: { stateDir }, onEvent: (event) => events.push(event) })).toBeNull();
  expect(events.filter(({ event }) => event !== "keeping")).toEqual([
    { event: "warning", message: expect.stringMatching(warning) },
  ]);
  expect(await (await openCheckpoints(stateDir)).list()).toEqual([]);
});
