import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import type { Inspection } from "../../src/stream/inspection.ts";
import { StreamInspector } from "../../src/stream/inspector.ts";
import { StreamParser } from "../../src/stream/parser.ts";
import { RoundTracker, type SeenPages } from "../../src/stream/rounds.ts";
import { ReferenceScanner } from "../../src/stream/scanner.ts";
import { keep, newStore, pageOf, pagesOf, stateFolder } from "./support/checkpoint-stores.ts";
import { goldenStream, inspectBytes } from "./support/golden.ts";
import { filled, mutated, StreamBuilder } from "./support/streams.ts";

const RAM = { "pc.ram": 1 << 24, "vga.vram": 1 << 20 };

/** Inspects with the plain reference. */
function inspect(stream: Uint8Array): Inspection {
  const inspector = new StreamInspector(stream);
  const taken = new StreamParser(new ReferenceScanner(), inspector).push(stream, 0, stream.length);
  return inspector.finish(stream.length - taken);
}

const begin = () => new StreamBuilder().header().ramStart(2, RAM);

/** A VM description of devices given as [name, instance]. */
function withDescription(builder: StreamBuilder, devices: readonly (readonly [string, number])[]): StreamBuilder {
  const text = JSON.stringify({ devices: devices.map(([name, instance_id]) => ({ name, instance_id })) });
  return builder.u8(0).u8(6).u32(text.length).text(text);
}

describe("pages", () => {
  test("are counted by form and ramblock", () => {
    const stream = begin().part(2).page(0, filled(1), "pc.ram").page(1, filled(2)).page(2, filled(0)).zero(3).zero(4);
    stream.zero(0, "vga.vram").zero(1).zero(2, undefined, 9);
    stream
      .u64(3 * 4096 + 0x60)
      .u8(1)
      .u16(5)
      .bytes(Uint8Array.of(1, 2, 3, 4, 5));
    const { pages, ramblocks, rounds, byteCounts } = inspect(stream.eos().footer(2).u8(0).build());
    const none = { zero: 0, literal: 0, blank: 0, namedZero: 0, namedPage: 0, filled: 0, xbzrle: 0, compressed: 0 };
    expect(ramblocks).toEqual([
      { name: "pc.ram", lengthBytes: 1 << 24, pages: { ...none, namedPage: 1, literal: 1, blank: 1, zero: 2 } },
      { name: "vga.vram", lengthBytes: 1 << 20, pages: { ...none, namedZero: 1, zero: 1, filled: 1, xbzrle: 1 } },
    ]);
    expect(pages).toEqual({ ...none, namedPage: 1, literal: 1, blank: 1, zero: 3, namedZero: 1, filled: 1, xbzrle: 1 });
    expect(rounds.length).toBe(1);
    expect(byteCounts.pages).toBe(2 * 4104 + 3 * 9);
    expect(byteCounts.rawPages).toBe(4104 + 7 + 9 + 9 + 9 + 8 + 3 + 5);
  });

  test("that repeat begin a round, whatever their form", () => {
    const stream = begin().part(2).zero(0, "pc.ram").zero(1).zero(2).zero(0, "vga.vram");
    stream.page(1, filled(1), "pc.ram").zero(2).zero(3);
    stream.zero(0, "vga.vram").zero(0, "vga.vram");
    const { rounds } = inspect(stream.eos().footer(2).u8(0).build());
    expect(rounds.map(({ pages }) => Object.values(pages).reduce((sum, count) => sum + count))).toEqual([4, 4, 1]);
    expect(rounds.map(({ bytes }) => bytes)).toEqual([3 * 9 + 7 + 9 + 9, 4104 + 7 + 2 * 9 + 9 + 9, 9 + 9]);
  });

  test("that a long run repeats are divided where the repetition begins", () => {
    const stream = begin().part(2).zero(0, "pc.ram").zero(70);
    for (let page = 1; page < 200; page++) stream.zero(page);
    const { rounds } = inspect(stream.eos().footer(2).u8(0).build());
    expect(rounds.map(({ pages }) => pages.zero)).toEqual([70, 130]);
  });

  test("after the last sync are a round of their own", () => {
    const stream = begin().part(2).zero(0, "pc.ram").eos().footer(2).part(2, "end").zero(1).eos().footer(2).u8(0);
    expect(inspect(stream.build()).rounds.length).toBe(2);
    const idle = begin().part(2).zero(0, "pc.ram").eos().footer(2).part(2, "end").eos().footer(2).u8(0);
    expect(inspect(idle.build()).rounds.length).toBe(1);
  });

  test("of a ramblock without a name in the list are counted", () => {
    const { ramblocks } = inspect(begin().part(2).zero(0, "other").build());
    expect(ramblocks.at(-1)).toMatchObject({ name: "other", lengthBytes: null, pages: { namedZero: 1 } });
  });
});

describe("rounds", () => {
  test("are those of a plain set of pages", () => {
    const runs = fc.array(fc.tuple(fc.nat(9000), fc.integer({ min: 1, max: 5000 })), { maxLength: 12 });
    fc.assert(
      fc.property(runs, (runs) => {
        const tracker = new RoundTracker();
        const seen: SeenPages = new Map();
        const model = new Set<number>();
        tracker.begin();
        for (const [first, pages] of runs) {
          const isNew = Array.from({ length: pages }, (_, i) => !model.has(first + i));
          const noted = isNew.includes(false) ? isNew.indexOf(false) : pages;
          for (let i = 0; i < noted; i++) model.add(first + i);
          expect(tracker.note(seen, first, pages)).toBe(noted);
          if (noted === pages) continue;
          tracker.begin();
          model.clear();
        }
      }),
    );
  });

  test("cost no more memory than the bound: pages beyond it begin none", () => {
    const tracker = new RoundTracker(2);
    const seen: SeenPages = new Map();
    tracker.begin();
    for (let i = 0; i < 2; i++) expect(tracker.note(seen, 0, 3 * 4096)).toBe(i === 0 ? 3 * 4096 : 0);
    expect(tracker.note(seen, 2 ** 49, 1000)).toBe(1000);
    expect(tracker.note(seen, 2 ** 49, 1000)).toBe(1000);
    expect(seen.size).toBe(2);
  });
});

describe("structure", () => {
  test("sections, commands and the description that fits them", () => {
    const stream = begin().start(5, "dirty-bitmap").bytes(filled(3)).footer(5);
    stream.u8(8).u16(2).u16(4).u32(1).part(5).bytes(filled(4)).footer(5);
    stream.part(2, "end").eos().footer(2).start(9, "timer", "full", 2).bytes(filled(5)).footer(9);
    const { sections, commands, description, isComplete, byteCounts } = inspect(
      withDescription(stream, [["timer", 0]]).build(),
    );
    expect(isComplete).toBe(true);
    expect(sections.map(({ kind, name, parts, isEnded }) => [kind, name, parts, isEnded])).toEqual([
      ["ram", "ram", 0, true],
      ["live", "dirty-bitmap", 1, false],
      ["device", "timer", 0, true],
    ]);
    expect(sections[2]).toMatchObject({ version: 2, bytes: 5 + 6 + 8 + 4096 + 5 });
    expect(byteCounts.devices).toBe(sections[2]!.bytes);
    expect(byteCounts.live).toBe(sections[1]!.bytes);
    expect(commands).toMatchObject([{ command: "ping", bytes: 4 }]);
    expect(description).toMatchObject({ state: "read", devices: 1, notFound: [], notDescribed: [] });
  });

  test("a description that does not fit", () => {
    const stream = begin().start(9, "timer", "full").bytes(filled(5)).footer(9);
    const { description } = inspect(
      withDescription(stream, [
        ["timer", 1],
        ["cpu", 0],
      ]).build(),
    );
    expect(description).toMatchObject({ notFound: ["timer/1", "cpu/0"], notDescribed: ["timer/0"] });
  });

  test("a description that can't be read", () => {
    const end = () => begin().u8(0).u8(6);
    expect(inspect(end().u32(4).text("{}}}").build()).description?.state).toBe("malformed");
    expect(inspect(end().u32(0).build()).description?.state).toBe("malformed");
    const cutOff = inspect(end().u32(0xffffffff).text("{}").build());
    expect(cutOff).toMatchObject({ isComplete: false, description: { state: "cut off" } });
  });

  test("where the parser was lost and found", () => {
    const stream = begin().part(2).u64(0x421).bytes(filled(1)).part(2).zero(0, "pc.ram").eos().footer(2).u8(0);
    const { lost, byteCounts, pages } = inspect(stream.build());
    expect(lost).toMatchObject([{ why: "no record of RAM has the flags 0x421" }]);
    expect(lost[0]!.foundOffset! - lost[0]!.offset).toBe(byteCounts.lost);
    expect(byteCounts.lost).toBe(8 + 4096);
    expect(pages.namedZero).toBe(1);
  });

  test("what follows the end", () => {
    const stream = withDescription(begin(), []).bytes(filled(0));
    expect(inspect(stream.build())).toMatchObject({ isComplete: true, trailingBytes: 4096 });
  });

  test("a stream whose beginning is missing is one; other bytes are none", () => {
    expect(inspect(new StreamBuilder().bytes(filled(0x51)).ramStart(2, RAM).build()).isStream).toBe(true);
    for (const bytes of [filled(0x51), Buffer.from("QEVM"), Buffer.from("QEVM\0\0\0\x02")])
      expect(inspect(bytes)).toMatchObject({ isStream: false, isComplete: false });
  });
});

test("a stream is complete only when it is whole", () => {
  const { bytes, inspection } = goldenStream("none-10.0");
  const { description } = inspection;
  const end = bytes.length - description!.bytes - 5;
  for (let length = 0; length < bytes.length; length++)
    expect(inspect(bytes.subarray(0, length)).isComplete, `${length} bytes`).toBe(length === end);
  expect(inspect(bytes).isComplete).toBe(true);
});

test("whatever the bytes, each is counted once", () => {
  fc.assert(
    fc.property(fc.oneof(mutated, fc.uint8Array({ maxLength: 3000 })), (stream) => {
      const { bytes, byteCounts, rounds, pages } = inspect(stream);
      expect(bytes).toBe(stream.length);
      expect(Object.values(byteCounts).reduce((sum, count) => sum + count)).toBe(stream.length);
      const inRounds = rounds.flatMap((round) => Object.values(round.pages)).reduce((sum, count) => sum + count, 0);
      expect(inRounds).toBe(Object.values(pages).reduce((sum, count) => sum + count));
    }),
  );
});

test("lists are bounded", () => {
  const stream = begin().part(2).zero(0, "pc.ram");
  for (let i = 0; i < 5000; i++) stream.zero(0);
  for (let i = 0; i < 5000; i++) stream.zero(0, `block${i}`);
  const { rounds, ramblocks, leftOut, pages } = inspect(stream.build());
  expect(rounds.length).toBe(4096);
  expect(leftOut.rounds).toBe(5001 - 4096);
  expect(ramblocks.length).toBe(4096);
  expect(leftOut.ramblocks).toBe(5002 - 4096);
  expect(pages).toMatchObject({ zero: 5000, namedZero: 5001 });
});

test("what would be sent is that of the encoder, also packed", async () => {
  const stream = begin().part(2).zero(0, "pc.ram").zero(1).zero(2).eos().footer(2).u8(0).build();
  const { pageFormat } = await inspectBytes(stream);
  expect(pageFormat).toMatchObject({ version: 3, batches: 1, payloadBytes: stream.length - 2 * 9, zstdBytes: null });
});

describe("the command", () => {
  const folder = mkdtempSync(join(tmpdir(), "godwit-inspect-"));
  afterAll(() => rmSync(folder, { recursive: true }));
  const godwit = (args: readonly string[], input: Uint8Array = new Uint8Array(0)) => {
    const program = new URL("../../bin/godwit", import.meta.url).pathname;
    const { status, stdout, stderr } = spawnSync(program, ["inspect", ...args], { input, encoding: "utf8" });
    return { status, stdout, stderr };
  };
  const file = (name: string, bytes: Uint8Array) => {
    const path = join(folder, name);
    writeFileSync(path, bytes);
    return path;
  };
  const { bytes, inspection } = goldenStream("paused-7.2");

  test("writes the document of --json, of a file or of standard input", () => {
    const fromFile = godwit(["--json", file("whole", bytes)]);
    expect({ ...fromFile, stdout: JSON.parse(fromFile.stdout) }).toEqual({ status: 0, stderr: "", stdout: inspection });
    expect(godwit(["--json", "-"], bytes)).toEqual(fromFile);
  });

  test("shows people the same, and packs with zstd if asked", () => {
    const { status, stdout } = godwit(["--zstd", file("whole", bytes)]);
    expect(status).toBe(0);
    expect(stdout).toMatch(/QEMU migration stream of pc-q35-7\.2, 150 KiB, complete/);
    expect(stdout).toMatch(/^pc\.ram +1\.00 MiB +256/m);
    expect(stdout).toMatch(/^timer +device +0 +2 +/m);
    expect(stdout).toMatch(/the same as found/);
    expect(stdout).toMatch(/^packed with zstd: [\d.]+ KiB/m);
  });

  test("finds pages on an image of a disk and in a checkpoint", async () => {
    const store = await newStore();
    const { id } = await keep(store, 6);
    const image = file("disk", pagesOf(4, 8));
    // A page that names its ramblock travels as it is; then pages 0 to 15, the first 6 of them in the checkpoint.
    const builder = begin().part(2).page(0, filled(7), "pc.ram");
    for (let number = 0; number < 16; number++) builder.page(number + 1, pageOf(number));
    const stream = file("pages", builder.eos().footer(2).u8(0).build());
    const sent = (args: readonly string[]) => JSON.parse(godwit(["--json", stream, ...args]).stdout).pageFormat.pages;
    const kept = ["--checkpoint", id.slice(0, 6), "--state-dir", dirname(store.path)];
    expect(sent([])).toMatchObject({ literalPages: 16, rawPages: 1 });
    expect(sent(["--disk", image])).toMatchObject({ diskPages: 8, literalPages: 8 });
    expect(sent(["--disk", `raw:${image}`, ...kept])).toMatchObject({
      checkpointPages: 6,
      diskPages: 6,
      literalPages: 4,
    });
    expect(godwit([stream, ...kept]).stdout).toMatch(/^its pages: 6 checkpoint, 10 literal, 1 raw$/m);
  });

  test.each([
    ["an image that is not there", ["--disk", "/nowhere/vm.raw"], /\/nowhere\/vm\.raw can't be read: ENOENT/],
    ["no format", ["--disk", "ext4:/vm.raw"], /ext4 is no format of images/],
    ["no checkpoint", ["--checkpoint", "abcdef"], /abcdef/],
  ])("refuses %s with one line and 2", async (_, args, message) => {
    const { status, stdout, stderr } = godwit([file("whole", bytes), ...args, "--state-dir", await stateFolder()]);
    expect({ status, stdout }).toEqual({ status: 2, stdout: "" });
    expect(stderr).toMatch(message);
    expect(stderr).toMatch(/^godwit[^\n]+\n$/);
  });

  test("shows what is there of a stream cut off, and ends with 1", () => {
    const { status, stdout, stderr } = godwit([file("cut", bytes.subarray(0, 100_000))]);
    expect(status).toBe(1);
    expect(stdout).toMatch(/CUT OFF/);
    expect(stderr).toMatch(/^godwit: .*cut is cut off: the end of the stream is missing\n$/);
  });

  test("says what is no stream, and ends with 1", () => {
    const result = godwit([file("other", filled(7))]);
    expect(result).toMatchObject({ status: 1, stdout: "" });
    expect(result.stderr).toMatch(/is no QEMU migration stream: it does not begin with QEMU's magic\n$/);
  });

  test.each([
    ["missing", () => join(folder, "missing"), /missing does not exist/],
    ["a directory", () => folder, /is a directory/],
    ["empty", () => file("empty", new Uint8Array(0)), /empty is empty/],
    ["empty standard input", () => "-", /standard input is empty/],
  ])("refuses what is %s with one line and 2", (_, path, message) => {
    const { status, stdout, stderr } = godwit([path()]);
    expect({ status, stdout }).toEqual({ status: 2, stdout: "" });
    expect(stderr).toMatch(message);
    expect(stderr).toMatch(/^godwit: [^\n]+\n$/);
  });
});
