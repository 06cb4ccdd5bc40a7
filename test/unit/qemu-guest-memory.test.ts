import { readFileSync } from "node:fs";
import { expect, onTestFinished, test } from "vitest";
import { parseMemoryMap, readMemoryMap } from "../../src/qemu/guest-memory.ts";
import { QmpClient } from "../../src/qemu/qmp.ts";
import { FakeQmp } from "./support/fake-qmp.ts";

/** What a real QEMU has printed for `info mtree -f`. */
const printed = (name: string) => readFileSync(new URL(`memory-map/${name}.txt`, import.meta.url), "utf8");
const GIB_PAGES = 2 ** 18;

test("QEMU 10.0, q35 with 512 MiB and a DIMM of 128 MiB, its BIOS write-protected", () => {
  expect(parseMemoryMap(printed("10.0-q35-dimm"), new Set(["pc.ram", "dimm0"]))).toEqual([
    { firstPage: 0, pages: 0xa0 },
    { firstPage: 0xca, pages: 0x3 },
    { firstPage: 0xe4, pages: 0xc },
    { firstPage: 0x100, pages: 0x20000 - 0x100 },
    { firstPage: 0x100000, pages: 0x8000 },
  ]);
});

test("QEMU 7.2, pc with 512 MiB and two displays", () => {
  expect(parseMemoryMap(printed("7.2-pc"), new Set(["pc.ram"]))).toEqual([
    { firstPage: 0, pages: 0xa0 },
    { firstPage: 0xca, pages: 0x3 },
    { firstPage: 0xe8, pages: 0x8 },
    { firstPage: 0x100, pages: 0x20000 - 0x100 },
  ]);
});

test("QEMU 7.2, pc with 4 GiB from a backend of its own, above 4 GiB too", () => {
  expect(parseMemoryMap(printed("7.2-pc-named"), new Set(["mem0", "shm"]))).toEqual([
    { firstPage: 0, pages: 0xa0 },
    { firstPage: 0x100, pages: 3 * GIB_PAGES - 0x100 },
    { firstPage: 4 * GIB_PAGES, pages: GIB_PAGES },
  ]);
});

/** A view of the address space "memory" with these lines. */
const view = (...lines: string[]) =>
  ["FlatView #0", ' AS "memory", root: system', " Root memory region: system", ...lines, ""].join("\r\n");
const RAM = "  0000000000000000-0000000000ffffff (prio 0, ram): pc.ram KVM";

test("an accelerator behind the name, kinds of memory that can't be read or are not the guest's", () => {
  const map = view(
    RAM,
    "  0000000001000000-0000000001ffffff (prio 0, nv-ram): pc.ram KVM",
    "  0000000002000000-0000000002ffffff (prio 0, ramd): pc.ram KVM",
    "  0000000003000000-0000000003ffffff (prio 0, rom): pc.ram @0000000003000000 KVM",
    "  0000000004000000-0000000004ffffff (prio -1, ram): vga.vram KVM",
    "  0000000005000000-0000000005ffffff (prio 0, ram): pc.ram @0000000005000000 KVM gmemfd=20",
  );
  expect(parseMemoryMap(map, new Set(["pc.ram"]))).toEqual([
    { firstPage: 0, pages: 0x1000 },
    { firstPage: 0x5000, pages: 0x1000 },
  ]);
});

test.each([
  ["", 'it has no address space "memory"'],
  [view(), "it has no memory"],
  [view(RAM.replace("ram)", "i/o)")), "it has no memory"],
  [view(RAM, "  0-f (prio 0, ram): pc.ram"), 'a line of it is "  0-f (prio 0, ram): pc.ram"'],
  [view(RAM, RAM), "its ranges overlap"],
  [view(RAM.replace("ffffff ", "fffffe ")), "a range of memory is not of whole pages"],
  [view(RAM.replace("0000000000ffffff", "0100000000ffffff")), "a range of memory lies where none can be"],
  [view(RAM.replace("0000000000000000", "0000000002000000")), "a range of memory lies where none can be"],
])("what is not known is not guessed (%#)", (text, message) => {
  expect(() => parseMemoryMap(text, new Set(["pc.ram"]))).toThrow(message);
});

test("QEMU is asked which regions are memory; what virtio-mem plugs in and out is left alone", async () => {
  const region = (from: string, name: string) => `  0000000${from}000000-0000000${from}ffffff (prio 0, ram): ${name}`;
  const answers = [view(RAM, region("001", "/objects/old"), region("002", "vmem")), "nothing of the kind"];
  const fake = await FakeQmp.start({
    commands: {
      "human-monitor-command": () => answers.shift(),
      "query-memdev": [{ id: "pc.ram" }, { id: "old" }, { id: "vmem" }, {}],
      "query-memory-devices": [{ type: "virtio-mem", data: { memdev: "/objects/vmem" } }],
    },
  });
  onTestFinished(() => fake[Symbol.asyncDispose]());
  using qmp = await QmpClient.connect(fake.path);
  expect(await readMemoryMap(qmp)).toEqual([
    { firstPage: 0, pages: 0x1000 },
    { firstPage: 0x1000, pages: 0x1000 },
  ]);
  await expect(readMemoryMap(qmp)).rejects.toMatchObject({ code: "QMP_MEMORY_MAP" });
});
