// The journal of a session: what is on the disk after each record, what a crash leaves, what a reader takes.
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { type FileHandle, mkdir, mkdtemp, open, readFile, rm, stat, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterEach, beforeEach, expect, onTestFinished, test, vi } from "vitest";
import { GodwitError } from "../../src/errors.ts";
import {
  encodeRecord,
  JOURNAL_FORMAT,
  JOURNAL_ROOM_BYTES,
  JOURNAL_VERSION,
  type JournalHeader,
  type JournalRecord,
  parseJournal,
} from "../../src/store/journal-format.ts";
import { SessionStore } from "../../src/store/session-store.ts";

const SESSION = "00112233445566778899aabbccddeeff";
const HEADER: JournalHeader = {
  format: JOURNAL_FORMAT,
  version: JOURNAL_VERSION,
  session: SESSION,
  role: "source",
  atMs: 1_790_000_000_000,
  program: "godwit 0.1.0",
  peer: "10.0.0.2:7747",
  vm: { name: "web1", uuid: "7a3c1c0e-94a1-4f0e-8d0b-2f5f5a1b6c1d" },
  qmpPath: "/run/web1/qmp.sock",
  qemu: { threadId: 4242, startTicks: "123456", boot: "0d0e5b5a-8a0b-4c55-9c5e-2b6a51b1f0aa" },
  guestRuns: true,
  secret: "0f".repeat(32),
};
const RECORDS: readonly JournalRecord[] = [
  HEADER,
  {
    atMs: 1_790_000_000_010,
    settings: { capabilities: { events: false }, parameters: { "downtime-limit": 300 } },
  },
  { atMs: 1_790_000_000_020, state: "streaming" },
  { atMs: 1_790_000_042_000, state: "committed", run: true },
  { atMs: 1_790_000_042_009, state: "running", settled: true },
];
const bytesOf = (records: readonly JournalRecord[]) => Buffer.concat(records.map(encodeRecord));

let stateDir: string;
beforeEach(async () => {
  stateDir = await mkdtemp(join(tmpdir(), "godwit-journal-"));
});
afterEach(() => rm(stateDir, { recursive: true, force: true }));

const { format: _f, version: _v, atMs: _a, ...ABOUT } = HEADER;
const pathOf = (role = "source") => join(stateDir, "sessions", `${SESSION}.${role}`, "journal");

/** Of this process, without those that were closed while it was looked. */
function openFiles(): string[] {
  return readdirSync("/proc/self/fd").flatMap((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      return [];
    }
  });
}

test("the document's example is what is written", () => {
  const document = readFileSync(new URL("../../docs/journal-format.md", import.meta.url), "utf8");
  const example = /<!-- example:[^\n]*-->\n\n```\n(.*?)```/s.exec(document)![1]!;
  expect(example).toBe(bytesOf(RECORDS).toString());
});

test("what was noted is read again, by a process that takes the journal over too", async () => {
  const store = await SessionStore.open(stateDir);
  const journal = await store.create(ABOUT);
  const settings = { capabilities: { events: false }, parameters: { "downtime-limit": 300 } };
  await journal.noteSettings(settings);
  await journal.note({ state: "streaming" });
  await journal.note({ state: "committed", run: false });
  expect(await store.list()).toMatchObject([{ session: SESSION, role: "source", pid: process.pid, problem: null }]);
  await expect(store.take(SESSION, "source")).rejects.toMatchObject({ code: "STORE_BUSY" });
  await journal.close();
  const again = await store.take(SESSION, "source");
  expect(again.content).toMatchObject({ state: "committed", run: false, isSettled: false, settings });
  await again.noteSettings(null);
  await again.note({ state: "running", settled: true });
  await again.close();
  const found = await store.find("0011");
  expect(found).toMatchObject([{ content: { state: "running", isSettled: true, settings: null }, pid: null }]);
  expect((await stat(pathOf())).size).toBe(JOURNAL_ROOM_BYTES);
});

test("only the owner can read it", async () => {
  const journal = await (await SessionStore.open(stateDir)).create(ABOUT);
  await journal.close();
  expect((await stat(pathOf())).mode & 0o777).toBe(0o600);
  expect((await stat(join(pathOf(), ".."))).mode & 0o777).toBe(0o700);
});

test("cut off anywhere, it says what was noted before; and goes on from there", async () => {
  const whole = bytesOf(RECORDS);
  const ends = RECORDS.map((_, count) => bytesOf(RECORDS.slice(0, count + 1)).length);
  for (let length = ends[0]!; length <= whole.length; length++) {
    for (const filler of ["\n", ""]) {
      const bytes = Buffer.concat([whole.subarray(0, length), Buffer.from(filler.repeat(300))]);
      const noted = ends.filter((end) => end <= length).length;
      // The line feed alone may be missing where the room's takes its place.
      const wholeLine = filler === "\n" && ends.includes(length + 1) ? 1 : 0;
      const { content } = parseJournal(bytes, "j");
      const expected = parseJournal(bytesOf(RECORDS.slice(0, noted + wholeLine)), "j").content;
      expect(content).toEqual(expected);
    }
  }
  const store = await SessionStore.open(stateDir);
  const journal = await store.create(ABOUT);
  await journal.note({ state: "streaming" });
  await journal.note({ state: "committed" });
  await journal.close();
  const text = (await readFile(pathOf(), "latin1")).trimEnd();
  await truncate(pathOf(), text.length - 5);
  const again = await store.take(SESSION, "source");
  expect(again.content.state).toBe("streaming");
  await again.note({ state: "aborted", settled: true });
  await again.close();
  expect((await store.list())[0]!.content).toMatchObject({ state: "aborted", isSettled: true });
});

test("a record is whole on the disk when it is noted, though the file system takes it in pieces", async () => {
  const store = await SessionStore.open(stateDir);
  const journal = await store.create(ABOUT);
  await using file = await open(pathOf(), "r");
  const handles = Object.getPrototypeOf(file) as FileHandle;
  const write = handles.write as (bytes: Uint8Array, from: number, length: number, at: number) => unknown;
  const inPieces = function (this: FileHandle, bytes: Uint8Array, from: number, length: number, at: number) {
    return write.call(this, bytes, from, Math.min(length, 7), at);
  };
  const spy = vi.spyOn(handles, "write").mockImplementation(inPieces as typeof handles.write);
  onTestFinished(() => spy.mockRestore());
  await journal.note({ state: "committed" });
  expect(spy.mock.calls.length).toBeGreaterThan(5);
  await journal.close();
  expect(await store.list()).toMatchObject([{ content: { state: "committed" }, problem: null }]);
});

test("damage in its middle is no end of it", async () => {
  const bytes = bytesOf(RECORDS);
  bytes[bytes.indexOf("streaming")]! ^= 1;
  expect(() => parseJournal(bytes, "j")).toThrow(expect.objectContaining({ code: "STORE_JOURNAL_DAMAGED" }));
  const newer = encodeRecord({ ...HEADER, version: 2 } as unknown as JournalHeader);
  expect(() => parseJournal(newer, "j")).toThrow(expect.objectContaining({ code: "STORE_JOURNAL_NEWER" }));
  const store = await SessionStore.open(stateDir);
  await (await store.create(ABOUT)).close();
  await writeFile(pathOf(), "nothing of ours\n");
  const damaged = { code: "STORE_JOURNAL_DAMAGED", message: expect.stringMatching(/is damaged/) };
  expect(await store.list()).toMatchObject([{ content: null, subject: null, problem: damaged }]);
});

test("one that can't be read still tells whose it is, where its first line is sound; and never stands in the way of others", async () => {
  const store = await SessionStore.open(stateDir);
  await (await store.create({ ...ABOUT, role: "destination" })).close();
  await (await store.create(ABOUT)).close();
  const listed = async () => (await store.list()).find(({ role }) => role === "source");
  const bytes = bytesOf(RECORDS);
  bytes[bytes.indexOf("streaming")]! ^= 1;
  const { peer, vm, qmpPath, qemu } = HEADER;
  for (const [content, code] of [
    [bytes, "STORE_JOURNAL_DAMAGED"],
    [encodeRecord({ ...HEADER, version: 2 } as unknown as JournalHeader), "STORE_JOURNAL_NEWER"],
  ] as const) {
    await writeFile(pathOf(), content);
    expect(await listed()).toMatchObject({ content: null, subject: { peer, vm, qmpPath, qemu }, problem: { code } });
  }
  await rm(pathOf());
  await mkdir(pathOf());
  expect(await listed()).toMatchObject({ content: null, subject: null, problem: { code: "STORE_JOURNAL_UNREADABLE" } });
  expect(await store.list()).toHaveLength(2);
});

test("a journal that was never begun is none", async () => {
  const store = await SessionStore.open(stateDir);
  await (await store.create(ABOUT)).close();
  await truncate(pathOf(), 0);
  expect(await store.list()).toEqual([]);
  await rm(pathOf());
  expect(await store.list()).toEqual([]);
  await expect(store.find(SESSION)).rejects.toMatchObject({ code: "STORE_SESSION_NONE" });
});

test("a bit that has changed takes no step back: what was noted may have been acted upon", () => {
  for (let count = 2; count <= RECORDS.length; count++) {
    const whole = bytesOf(RECORDS.slice(0, count));
    const last = whole.length - encodeRecord(RECORDS[count - 1]!).length;
    for (let bit = last * 8; bit < (whole.length - 1) * 8; bit++) {
      const bytes = Buffer.concat([whole, Buffer.from("\n".repeat(100))]);
      bytes[bit >> 3]! ^= 1 << (bit & 7);
      // A brace that is none any more, or a line feed within: as of a write that was cut off.
      if (
        "{}".includes(String.fromCharCode(whole[bit >> 3]!)) ||
        "{}\n".includes(String.fromCharCode(bytes[bit >> 3]!))
      )
        continue;
      expect(() => parseJournal(bytes, "j")).toThrow(expect.objectContaining({ code: "STORE_JOURNAL_DAMAGED" }));
    }
  }
});

test("whatever stands in the file: it is read, or refused with a code of ours", () => {
  const whole = bytesOf(RECORDS);
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(whole.length - 1), fc.nat(255)), { maxLength: 4 }), (changes) => {
      const bytes = Buffer.from(whole);
      for (const [at, value] of changes) bytes[at] = value;
      try {
        parseJournal(bytes, "j");
      } catch (error) {
        expect((error as GodwitError).code).toMatch(/^STORE_JOURNAL_/);
      }
    }),
  );
  expect(() => parseJournal(Buffer.alloc(65 * 1024, "\n"), "j")).toThrow(GodwitError);
});

test("where no journal can be made, that is said at once, and what is there stays", async () => {
  const store = await SessionStore.open(stateDir);
  await (await store.create(ABOUT)).close();
  await expect(store.create(ABOUT)).rejects.toMatchObject({ code: "STORE_NOT_WRITABLE" });
  expect(await store.find(SESSION)).toHaveLength(1);
  await rm(store.path, { recursive: true });
  await writeFile(store.path, "");
  await expect(store.take(SESSION, "source")).rejects.toMatchObject({ code: "STORE_NOT_WRITABLE" });
});

test("one that can't be begun leaves nothing behind, and no file open", async () => {
  const store = await SessionStore.open(stateDir);
  const peer = 7747 as unknown as string; // refused once it is written
  await expect(store.create({ ...ABOUT, peer })).rejects.toMatchObject({ code: "STORE_JOURNAL_DAMAGED" });
  expect(await store.list()).toEqual([]);
  expect(openFiles().filter((path) => path.startsWith(store.path))).toEqual([]);
});

test("sessions that are over are forgotten after a while, others never", async () => {
  const store = await SessionStore.open(stateDir);
  for (const [index, settled] of [true, false].entries()) {
    const session = `${index}`.repeat(32);
    const journal = await store.create({ ...ABOUT, session });
    await journal.close();
    const old = [{ ...HEADER, session, atMs: 1000 }, { atMs: 1000, state: "aborted", settled } as const];
    await writeFile(join(store.path, `${session}.source`, "journal"), bytesOf(old));
  }
  await (await store.create(ABOUT)).close();
  expect((await store.list()).map(({ session }) => session)).toEqual([SESSION, "1".repeat(32)]);
});
