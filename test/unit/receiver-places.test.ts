// References at the receiver: whatever disks and checkpoints hold and whenever their reads end, QEMU gets the stream, in order.
import { mkdtempSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import type { GodwitError } from "../../src/errors.ts";
import { StreamReceiver } from "../../src/migration/receiver.ts";
import { WINDOW_BYTES } from "../../src/migration/window.ts";
import { PAGE_BYTES, PAGE_RECORD_BYTES } from "../../src/stream/format.ts";
import type { DataHeader, Message, RepairHeader } from "../../src/wire/messages.ts";
import { blockOf, blocksOf, bodyOf, FakeDisk, type Piece, Pieces, TAG_KEY } from "./support/disk-bodies.ts";
import { noise } from "./support/pages.ts";

const BLOCKS = 100_000;
type Nack = Extract<Message, { type: "NACK" }>;

/** A part of a body, which depends on those before it. */
type Part = (pieces: Pieces) => Piece;

/** What stands on the wire towards the receiver. */
type Item =
  | { readonly header: DataHeader; readonly body: Uint8Array }
  | { readonly header: RepairHeader; readonly bytes: Uint8Array };

/** A receiver between a wire that a test writes on, and a QEMU that takes all. */
class Bench {
  readonly disks = [new FakeDisk(0, BLOCKS), new FakeDisk(1, 10)];
  readonly checkpoint = new FakeDisk(5, 1000);
  readonly sent: Message[] = [];
  readonly errors: GodwitError[] = [];
  readonly warnings: string[] = [];
  /** What QEMU was given. */
  readonly written: Buffer[] = [];
  readonly receiver: StreamReceiver;
  #raw: Uint8Array[] = [];
  #rawBytes = 0;
  readonly #wire: Item[] = [];
  #isOnWire = false;

  constructor() {
    this.receiver = new StreamReceiver({
      cachePages: 10,
      send: (message) => void this.sent.push(message),
      ping: async () => true,
      onRoom: () => this.flow(),
      onError: (error) => void this.errors.push(error),
      wireBytes: () => 0,
    });
    this.receiver.useCache(10);
    const disks = this.disks.map((reader) => ({ blocks: reader.sizeBytes / PAGE_BYTES, reader }));
    const checkpoints = [{ blocks: 900, reader: this.checkpoint }]; // as many as the sender was told of
    this.receiver.usePlaces({ disks, checkpoints }, TAG_KEY, (message) => this.warnings.push(message));
  }

  static async start(): Promise<Bench> {
    const bench = new Bench();
    const folder = mkdtempSync(join(tmpdir(), "godwit-receiver-"));
    const server = net.createServer((socket) => socket.on("data", (bytes) => bench.written.push(bytes)));
    await new Promise<void>((resolve) => server.listen(join(folder, "qemu"), resolve));
    onTestFinished(() => {
      bench.receiver.stop();
      server.close();
      rmSync(folder, { recursive: true });
    });
    await bench.receiver.connect(join(folder, "qemu"));
    return bench;
  }

  get nacks(): Nack[] {
    return this.sent.filter((message) => message.type === "NACK");
  }
  /** The whole stream as the source had it. */
  get stream(): Buffer {
    return Buffer.concat(this.#raw);
  }
  get waitingItems(): number {
    return this.#wire.length;
  }

  send(...parts: Part[]): void {
    const pieces = new Pieces();
    const { body, tokenBytes, raw } = bodyOf(parts.map((part) => part(pieces)));
    const sizes = { rawBytes: raw.length, bodyBytes: body.length, tokenBytes, encodedBytes: body.length };
    this.#wire.push({ header: { rawOffset: this.#rawBytes, ...sizes, codec: "none" }, body });
    this.#raw.push(raw);
    this.#rawBytes += raw.length;
    this.flow();
  }

  /** The answer to a NACK, at the end of what is on its way. */
  repair({ rawOffset, rawBytes }: Nack, bytes?: Uint8Array): void {
    const stream = bytes ?? this.stream.subarray(rawOffset, rawOffset + rawBytes);
    this.#wire.push({ header: { rawOffset, rawBytes }, bytes: stream });
    this.flow();
  }

  /** Hands over what is on the wire until something finds no room. */
  flow(): void {
    if (this.#isOnWire) return;
    this.#isOnWire = true;
    try {
      for (let item = this.#wire[0]; item !== undefined; item = this.#wire[0]) {
        if ("body" in item) {
          const memory = this.receiver.onData(item.header);
          if (memory === null) return;
          memory.set(item.body);
          this.#wire.shift();
          this.receiver.onDataComplete(item.header, memory);
        } else {
          this.receiver.onRepair(item.header).set(item.bytes);
          this.#wire.shift();
          this.receiver.onRepairComplete();
        }
      }
    } finally {
      this.#isOnWire = false;
    }
  }

  async expectWritten(): Promise<void> {
    await expect.poll(() => this.receiver.rawBytes, { interval: 1 }).toBe(this.#rawBytes);
    await expect.poll(() => this.written.reduce((sum, part) => sum + part.length, 0)).toBe(this.#rawBytes);
    expect(Buffer.compare(Buffer.concat(this.written), this.stream)).toBe(0);
    expect(this.errors).toEqual([]);
  }
}

const raw =
  (bytes: number): Part =>
  (pieces) =>
    pieces.raw(noise(bytes, bytes));
const literal =
  (page: number, count = 1): Part =>
  (pieces) =>
    pieces.literal(page, blocksOf(9, page, count));
/** Pages that stand at a place of a disk, as far as `meant` does not say otherwise. */
const disk =
  (page: number, index: number, block: number, meant: Uint8Array[], tag?: Uint8Array): Part =>
  (pieces) =>
    pieces.disk(page, index, block, meant, tag);
const right = (page: number, block: number, count = 1) => disk(page, 0, block, blocksOf(0, block, count));
/** Pages that the disk does not have there any more. */
const stale = (page: number, block: number, count = 1) => disk(page, 0, block, blocksOf(7, block, count));

/** Pages that stand in the checkpoint. */
const kept =
  (page: number, position: number, count = 1): Part =>
  (pieces) =>
    pieces.checkpoint(page, 0, position, blocksOf(5, position, count));

/** Lets everything happen that can. */
async function turns(): Promise<void> {
  for (let turn = 0; turn < 50; turn++) await new Promise((resolve) => setImmediate(resolve));
}

test("references that hold: nothing is asked for again", async () => {
  const bench = await Bench.start();
  bench.send(
    raw(100),
    right(16, 70, 256),
    right(500, 1000, 3),
    literal(2000, 2),
    disk(900, 1, 4, blocksOf(1, 4, 6)),
    right(901, 1003, 5),
    right(902, 70), // a block can be meant twice
  );
  bench.send(literal(3));
  await bench.expectWritten();
  expect(bench.nacks).toEqual([]);
  expect(bench.receiver.counts).toMatchObject({ diskPages: 271, literalPages: 3 });
  expect(bench.disks[0]!.reads).toBe(3); // two runs that are neighbours are read as one
});

test("a body without references does not touch the disks, and is written at once", async () => {
  const bench = await Bench.start();
  bench.send(literal(1, 3));
  bench.send(raw(9), literal(0));
  await bench.expectWritten();
  expect(bench.disks.map(({ reads }) => reads)).toEqual([0, 0]);
});

test("stale blocks: exactly their runs are asked for again, and come into place", async () => {
  const bench = await Bench.start();
  bench.send(
    raw(77),
    right(10, 0, 3),
    disk(13, 0, 3, [blockOf(0, 3), blockOf(7, 7), blockOf(0, 5)]), // one of three has changed
    right(20, 50, 2),
    disk(22, 1, 0, [blockOf(0, 0)]),
  );
  bench.send(literal(1));
  await expect.poll(() => bench.nacks.length).toBe(2);
  expect(bench.receiver.rawBytes).toBe(0);
  const RECORD = PAGE_RECORD_BYTES;
  expect(bench.nacks).toEqual([
    { type: "NACK", rawOffset: 77 + 3 * RECORD, rawBytes: 3 * RECORD },
    { type: "NACK", rawOffset: 77 + 8 * RECORD, rawBytes: RECORD },
  ]);
  for (const nack of bench.nacks.reverse()) bench.repair(nack);
  await bench.expectWritten();
  expect(bench.receiver.nackedPages).toBe(4);
  expect(bench.warnings).toEqual([]);
});

test("disks and a checkpoint in one body: each is asked for what is its own, and warned of once", async () => {
  const bench = await Bench.start();
  bench.checkpoint.broken.add(300).add(310);
  bench.disks[0]!.broken.add(300);
  bench.send(kept(16, 0, 256), right(300, 70, 4), kept(400, 200, 90), kept(600, 300), right(601, 300), literal(700));
  bench.send(kept(800, 310, 3), kept(900, 899));
  await expect.poll(() => bench.nacks.length).toBe(3);
  for (const nack of bench.nacks) bench.repair(nack);
  await bench.expectWritten();
  expect(bench.receiver.counts).toMatchObject({ diskPages: 5, checkpointPages: 351, literalPages: 1 });
  expect(bench.receiver.nackedPages).toBe(5);
  expect(bench.warnings).toHaveLength(2);
});

test("a page of the checkpoint that the sender was not told of ends it", async () => {
  const bench = await Bench.start();
  bench.send(kept(0, 899, 2));
  await expect.poll(() => bench.errors).toMatchObject([{ code: "FORM_TOKENS" }]);
});

test("a run whose tag was forged, and one with the tag of another order", async () => {
  const bench = await Bench.start();
  const pages = blocksOf(0, 5, 2);
  bench.send(disk(1, 0, 5, pages, noise(1, 16)));
  bench.send(disk(1, 0, 5, pages.toReversed()));
  await expect.poll(() => bench.nacks.length).toBe(2);
  for (const nack of bench.nacks) bench.repair(nack);
  await bench.expectWritten();
});

test("blocks that cannot be read: they are asked for again, and that is said once a disk", async () => {
  const bench = await Bench.start();
  bench.disks[0]!.broken.add(6).add(40);
  bench.send(right(0, 4), right(0, 6), right(0, 8));
  bench.send(right(9, 38, 4));
  await expect.poll(() => bench.nacks.length).toBe(2);
  for (const nack of bench.nacks) bench.repair(nack);
  await bench.expectWritten();
  expect(bench.receiver.nackedPages).toBe(5);
  expect(bench.warnings).toEqual(["a bad block; pages that stand there are sent again"]);
});

test("pages of the page cache: while disks are read, and asked for again where they are not what was meant", async () => {
  const bench = await Bench.start();
  bench.disks[0]!.isHeld = true;
  const pages = blocksOf(3, 0, 2);
  bench.send((pieces) => pieces.kept(5, 4, pages), right(0, 100));
  bench.send((pieces) => pieces.same(9, 4, pages));
  bench.send((pieces) => pieces.same(20, 4, pages.toReversed()));
  await expect.poll(() => bench.nacks.length).toBe(1);
  bench.repair(bench.nacks[0]!);
  bench.disks[0]!.held[0]!.release();
  await bench.expectWritten();
  expect(bench.receiver.counts).toMatchObject({ literalPages: 2, samePages: 4, diskPages: 1 });
  expect(bench.receiver.nackedPages).toBe(2);
});

test("reads end in any order: the stream keeps its own", async () => {
  const bench = await Bench.start();
  const [first] = bench.disks;
  first!.isHeld = true;
  bench.send(right(0, 100, 2));
  bench.send(literal(40), right(1, 200));
  bench.send(literal(50, 2));
  bench.send(stale(2, 300));
  bench.send(right(3, 400));
  await expect.poll(() => first!.held.length).toBe(3); // of four outputs, one is for the literals
  first!.held.find(({ block }) => block === 300)!.release();
  await expect.poll(() => bench.nacks.length).toBe(1);
  bench.repair(bench.nacks[0]!);
  first!.held.find(({ block }) => block === 200)!.release();
  await turns();
  expect(bench.receiver.rawBytes).toBe(0);
  expect(first!.held.length).toBe(3);
  first!.held.find(({ block }) => block === 100)!.release();
  await expect.poll(() => first!.held.length).toBe(4);
  first!.held[3]!.release();
  await bench.expectWritten();
});

test("no output is given to another body before all reads into it have ended", async () => {
  const bench = await Bench.start();
  const [first] = bench.disks;
  first!.isHeld = true;
  // One run of the first body fails at once and is repaired; the other is still being read.
  bench.send(right(0, 0), disk(9, 1, 0, [blockOf(0, 0)]));
  for (let page = 0; page < 20; page++) bench.send(literal(page));
  await turns();
  expect(bench.receiver.rawBytes).toBe(0);
  expect(bench.nacks).toEqual([]); // not before the body's reads have ended
  first!.held[0]!.release();
  await expect.poll(() => bench.nacks.length).toBe(1);
  bench.repair(bench.nacks[0]!);
  await bench.expectWritten();
});

test("a REPAIR behind more DATA than there is room for arrives all the same", async () => {
  const bench = await Bench.start();
  bench.disks[0]!.isHeld = true;
  bench.send(stale(0, 0));
  for (let page = 0; page < 60; page++) bench.send(literal(page, 100));
  expect(bench.waitingItems).toBeGreaterThan(20); // a slow disk holds the sender back
  bench.disks[0]!.held[0]!.release();
  await expect.poll(() => bench.nacks.length).toBe(1);
  await expect.poll(() => bench.waitingItems).toBe(0);
  bench.repair(bench.nacks[0]!);
  await bench.expectWritten();
});

test("every reference wrong, and the answers come late", async () => {
  const bench = await Bench.start();
  for (let i = 0; i < 60; i++) bench.send(literal(i), stale(i * 300, i * 500, 16), literal(i + 7, 3), right(i, i));
  let answered = 0;
  while (answered < 60) {
    await expect.poll(() => bench.nacks.length, { interval: 1 }).toBeGreaterThan(answered);
    while (answered < bench.nacks.length) bench.repair(bench.nacks[answered++]!);
  }
  await bench.expectWritten();
  expect(bench.receiver.nackedPages).toBe(60 * 16);
});

test("a peer that owes a REPAIR and sends on beyond the window is dropped", async () => {
  const bench = await Bench.start();
  bench.send(stale(0, 0));
  await expect.poll(() => bench.nacks.length).toBe(1);
  const send = () => {
    for (let pages = 0; pages * PAGE_RECORD_BYTES < WINDOW_BYTES; pages += 200) bench.send(literal(pages, 200));
  };
  expect(send).toThrow(/more than it may/);
});

test("a REPAIR that nobody asked for, of another length, or twice", async () => {
  const bench = await Bench.start();
  bench.send(right(0, 0), stale(0, 0), stale(1, 50, 2));
  await expect.poll(() => bench.nacks.length).toBe(2);
  const [first, second] = bench.nacks;
  const code = { code: "PEER_BAD_REPAIR" };
  const { receiver } = bench;
  expect(() => receiver.onRepair({ rawOffset: 0, rawBytes: first!.rawBytes })).toThrow(expect.objectContaining(code));
  expect(() => receiver.onRepair({ ...second!, rawBytes: first!.rawBytes })).toThrow(expect.objectContaining(code));
  bench.repair(first!);
  expect(() => receiver.onRepair(first!)).toThrow(expect.objectContaining(code));
});

test("stopped in the middle: late reads and answers change nothing", async () => {
  const bench = await Bench.start();
  const [first] = bench.disks;
  bench.send(stale(0, 0));
  await expect.poll(() => bench.nacks.length).toBe(1);
  first!.isHeld = true;
  bench.send(stale(1, 70));
  bench.send(right(2, 90));
  bench.receiver.stop();
  const sent = bench.sent.length;
  bench.repair(bench.nacks[0]!);
  for (const { release } of first!.held) release();
  await turns();
  expect(bench.sent.length).toBe(sent);
  expect(bench.receiver.rawBytes).toBe(0);
  expect(bench.written).toEqual([]);
  expect(bench.errors).toEqual([]);
});

test("a body that is none ends it, also while a disk is being read", async () => {
  const bench = await Bench.start();
  bench.disks[0]!.isHeld = true;
  bench.send(right(0, 0));
  bench.send(disk(0, 2, 0, [blockOf(0, 0)]));
  expect(bench.errors.map(({ code }) => code)).toEqual(["FORM_TOKENS"]);
  bench.disks[0]!.held[0]!.release();
  await turns();
  expect(bench.written).toEqual([]);
});
