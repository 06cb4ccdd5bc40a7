// Sender and receiver with everything between them but QEMU: unix socket → parse → encode → TCP → decode → unix socket.
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { zstdCompressSync } from "node:zlib";
import { compressSync } from "lz4-napi";
import { afterEach, beforeEach, expect, test } from "vitest";
import { pageRecords, streamHead } from "../../bench/support.ts";
import { NONE } from "../../src/compact/codec.ts";
import { Peer } from "../../src/migration/peer.ts";
import { StreamReceiver } from "../../src/migration/receiver.ts";
import { type SenderOptions, StreamSender } from "../../src/migration/sender.ts";
import { WINDOW_BYTES } from "../../src/migration/window.ts";
import { Backlog } from "../../src/wire/backlog.ts";
import type { Codec, Message } from "../../src/wire/messages.ts";
import { connect, listen } from "../../src/wire/transport.ts";
import { TAG_KEY } from "./support/disk-bodies.ts";
import { noise } from "./support/pages.ts";

const HOST = "127.0.0.1";
const session = "0".repeat(32);
const greeting = {
  session,
  generation: 1,
  program: "test",
  pageFormat: 3,
  features: [],
  vm: {},
  disks: [],
  cachePages: 0,
};

interface Pipeline extends AsyncDisposable {
  /** Stands for the source QEMU: writes the stream, reads the return path. */
  source: net.Socket;
  /** Stands for the destination QEMU: reads the stream, writes the return path. */
  destination: net.Socket;
  sender: StreamSender;
  receiver: StreamReceiver;
  senderPeer: Peer;
  receiverPeer: Peer;
  /** Rejects when either end reports an error. */
  failed: Promise<never>;
}

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "godwit-test-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

type PipelineOptions = Pick<SenderOptions, "maxBytesPerSecond" | "packing" | "threads" | "cachePages">;

async function pipeline(options: PipelineOptions = {}): Promise<Pipeline> {
  await using stack = new AsyncDisposableStack();
  const failure = Promise.withResolvers<never>();
  failure.promise.catch(() => {});
  const welcome = Promise.withResolvers<void>();
  const accepted = Promise.withResolvers<{ peer: Peer; receiver: StreamReceiver }>();
  const listener = await listen({
    host: HOST,
    port: 0,
    security: { kind: "none" },
    onRejected: failure.reject,
    onConnection: (connection) => {
      const onMessage = (message: Message) => {
        if (message.type === "HELLO")
          peer.send({ ...greeting, type: "WELCOME", checkpoints: [], rawOffset: 0, windowBytes: WINDOW_BYTES });
        if (message.type === "END") receiver.onEndOfStream(message.rawBytes);
      };
      const peer: Peer = new Peer(connection, "receiver", {
        onMessage,
        onData: (header) => receiver.onData(header),
        onDataComplete: (header, body) => receiver.onDataComplete(header, body),
      });
      const { cachePages = 0 } = options;
      const receiver: StreamReceiver = new StreamReceiver({
        cachePages,
        send: (message) => peer.send(message),
        onRoom: () => peer.onRoom(),
        onError: failure.reject,
        ping: () => peer.ping(),
        wireBytes: () => peer.receivedBytes,
        ...(options.threads !== undefined && { threads: options.threads }),
      });
      receiver.useCache(cachePages);
      receiver.usePlaces({ disks: [], checkpoints: [] }, TAG_KEY, () => {});
      accepted.resolve({ peer, receiver });
    },
  });
  stack.defer(() => listener.close());
  const connection = await connect({ host: HOST, port: listener.address.port, security: { kind: "none" } });
  const senderPeer: Peer = new Peer(connection, "sender", {
    onMessage: (message) => {
      if (message.type === "WELCOME") welcome.resolve();
      if (message.type === "ACK") sender.acknowledge(message);
      if (message.type === "RETURN") sender.writeReturn(message);
      if (message.type === "RETURN_END") sender.endReturn(message);
    },
  });
  senderPeer.closed.catch(failure.reject);
  stack.defer(() => senderPeer.destroy());
  const referable = { places: [], tagKey: TAG_KEY, nameOf: () => "" };
  const sender = new StreamSender(senderPeer, { ...options, referable, onError: failure.reject });
  stack.defer(() => sender.stop());
  senderPeer.send({
    ...greeting,
    type: "HELLO",
    checkpointPages: 0,
    tagKey: "0".repeat(64),
    returnOffset: 0,
    knownHashes: 0,
  });
  await welcome.promise;
  const { peer: receiverPeer, receiver } = await accepted.promise;
  stack.defer(() => receiver.stop());

  const out = net.createServer({ allowHalfOpen: true }).listen(join(folder, "out"));
  const sink = once(out, "connection");
  await receiver.connect(join(folder, "out"));
  const [destination] = (await sink) as [net.Socket];
  out.close();
  receiverPeer.onRoom();
  const entrance = net.createServer({ pauseOnConnect: true, allowHalfOpen: true }).listen(join(folder, "in"));
  const entered = once(entrance, "connection");
  const source = net.connect({ path: join(folder, "in"), allowHalfOpen: true });
  const [socket] = (await entered) as [net.Socket];
  entrance.close();
  sender.start(socket);
  for (const end of [source, destination]) {
    end.on("error", () => {});
    stack.defer(() => void end.destroy());
  }
  const resources = stack.move();
  const dispose = () => resources.disposeAsync();
  const ends = { source, destination, sender, receiver, senderPeer, receiverPeer };
  return { ...ends, failed: failure.promise, [Symbol.asyncDispose]: dispose };
}

/** Reads to the end; the SHA-256 of all of it. */
async function digestOf(socket: net.Socket): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of socket) hash.update(chunk as Uint8Array);
  return hash.digest("hex");
}

/** Writes parts with back-pressure, then closes that side; the SHA-256 of all of it. */
async function write(socket: net.Socket, parts: Iterable<Uint8Array | number>): Promise<string> {
  const hash = createHash("sha256");
  for (const part of parts) {
    if (typeof part === "number") await delay(part);
    else {
      hash.update(part);
      if (!socket.write(part)) await once(socket, "drain");
    }
  }
  socket.end();
  return hash.digest("hex");
}

/** Pauses of all lengths around the timers of the sender: whatever is flushed when, nothing may be lost or doubled. */
function* pieces(stream: Uint8Array): Generator<Uint8Array | number> {
  let at = 0;
  for (let i = 0; at < stream.length; i++) {
    const bytes = 1 + ((i * 7919) % 70_001);
    yield stream.subarray(at, at + bytes);
    at += bytes;
    if (i % 5 === 0) yield [0, 1, 3, 25][(i / 5) % 4]!;
  }
}

const streams = {
  "pages, literal and zero, in a ring that wraps": () => [streamHead(), ...Array(20).fill(pageRecords(3000, 0.3))],
  "garbage, cut by pauses": () => pieces(randomBytes(3_000_000)),
  "pages, cut by pauses": () => pieces(Buffer.concat([streamHead(), pageRecords(700, 0.5, 3)])),
  "what is not a stream, and short": () => [Buffer.from("hello")],
  nothing: () => [],
};

test.each(Object.entries(streams))("%s: comes out as it went in, with both ends closed", async (_name, parts) => {
  await using p = await pipeline();
  const digests = Promise.all([write(p.source, parts()), digestOf(p.destination)]);
  const [written, read] = await Promise.race([digests, p.failed]);
  expect(read).toBe(written);
});

/** Records of pages, each of its own random bytes. */
function randomRecords(pages: number): Buffer {
  const records = pageRecords(pages);
  for (let page = 0; page < pages; page++) records.set(randomBytes(4096), page * 4104 + 8);
  return records;
}

/** Pages of text, 60 × 64 of them. */
function textStream(): Buffer[] {
  const page = pageRecords(1);
  page.set(Buffer.alloc(4096, "what a guest has in its memory is often text; "), 8);
  return [streamHead(), ...Array(60).fill(Buffer.concat(Array(64).fill(page)))];
}

test.each<[string, PipelineOptions, Codec]>([
  ["by itself", { maxBytesPerSecond: 20e6 }, "zstd"],
  ["with LZ4", { packing: { codec: "lz4", level: 0 } }, "lz4"],
  ["with a high level", { packing: { codec: "zstd", level: 12 } }, "zstd"],
  ["with LZ4, without threads", { packing: { codec: "lz4", level: 0 }, threads: 0 }, "lz4"],
  ["with zstd, with three threads", { packing: { codec: "zstd", level: 1 }, threads: 3 }, "zstd"],
])("packed %s: the same bytes, fewer of them on the wire", async (_name, options, codec) => {
  await using p = await pipeline(options);
  const [written, read] = await Promise.race([
    Promise.all([write(p.source, textStream()), digestOf(p.destination)]),
    p.failed,
  ]);
  expect(read).toBe(written);
  const { bodies, bodyBytes, wireBytes } = p.sender.bodies[codec];
  expect(bodies).toBeGreaterThan(0);
  expect(wireBytes).toBeLessThan(bodyBytes / 2);
  expect(p.senderPeer.wireBytes).toBeLessThan(p.sender.rawBytes / 2);
});

test("pages that do not shrink cost no more bytes for being tried, in whatever way", async () => {
  for (const codec of ["lz4", "zstd"] as const) {
    await using p = await pipeline({ packing: { codec, level: 1 } });
    const stream = [streamHead(), ...Array(20).fill(randomRecords(64))];
    const [written, read] = await Promise.race([
      Promise.all([write(p.source, stream), digestOf(p.destination)]),
      p.failed,
    ]);
    expect(read).toBe(written);
    expect(p.senderPeer.wireBytes).toBeLessThan(p.sender.rawBytes * 1.005);
  }
});

test("what the destination has yet to restore is bounded, however few bytes it takes on the wire", async () => {
  await using p = await pipeline();
  const blank = pageRecords(256);
  for (let page = 0; page < 256; page++) blank.fill(0, page * 4104 + 8, (page + 1) * 4104);
  const writing = write(p.source, [streamHead(), ...Array(60).fill(blank)]); // 60 MiB, some hundred bytes as tokens
  const MIB = 2 ** 20;
  // The destination QEMU takes nothing yet: there are two full bodies on their way, and what is read at once.
  await expect.poll(() => p.sender.rawBytes, { interval: 1 }).toBeGreaterThan(8 * MIB);
  for (let turn = 0; turn < 100; turn++) await new Promise((resolve) => setImmediate(resolve));
  expect(p.sender.rawBytes).toBeLessThan(14 * MIB);
  const [written, read] = await Promise.race([Promise.all([writing, digestOf(p.destination)]), p.failed]);
  expect(read).toBe(written);
});

/** Rounds of a guest that changes a word of each page, copies some, and writes some whole. */
function* rounds(pages: number, count: number): Generator<Uint8Array> {
  yield streamHead();
  const records = pageRecords(pages);
  const page = (number: number) => records.subarray(number * 4104 + 8, (number + 1) * 4104);
  for (let number = 0; number < pages; number++) page(number).set(noise(2 * number + 1, 4096));
  for (let round = 0; round < count; round++) {
    yield Uint8Array.from(records);
    for (let number = 0; number < pages; number++) {
      if (number % 50 === 7) page(number).set(noise(2 * (round * pages + number) + 1, 4096));
      else if (number % 50 === 8) page(number).set(page(number - 1));
      else page(number).set(noise(2 * round + 1, 8), 8 * (number % 512));
    }
  }
}

test.each<[string, PipelineOptions]>([
  ["plain", { packing: NONE }],
  ["packed", { maxBytesPerSecond: 20e6 }],
])("pages that are sent again, %s: the same bytes, and of most pages only what has changed", async (_name, options) => {
  const pages = 3000;
  await using p = await pipeline({ ...options, cachePages: pages });
  const digests = Promise.all([write(p.source, rounds(pages, 8)), digestOf(p.destination)]);
  const [written, read] = await Promise.race([digests, p.failed]);
  expect(read).toBe(written);
  expect(p.sender.counts.deltaPages).toBeGreaterThan(7 * pages * 0.9);
  expect(p.sender.counts.samePages).toBeGreaterThan(6 * (pages / 50));
  expect(p.receiver.counts).toMatchObject({
    deltaPages: p.sender.counts.deltaPages,
    samePages: p.sender.counts.samePages,
  });
  expect(p.receiver.nackedPages).toBe(0);
  expect(p.senderPeer.wireBytes).toBeLessThan(pages * 4104 * 1.6);
});

test("without memory for the page cache: said once, and everything is sent", () => {
  const outlet = { backlog: new Backlog(), writeAs: () => {} };
  const warnings: string[] = [];
  const referable = { places: [], tagKey: TAG_KEY, nameOf: () => "" };
  const onWarning = (message: string) => void warnings.push(message);
  const cachePages = 2 ** 21; // 8 GiB: more than kernels can address
  const sender = new StreamSender(outlet, { referable, cachePages, onWarning, onError: () => {} });
  sender.stop();
  const nothing = () => {};
  const events = {
    send: nothing,
    ping: async () => true,
    onRoom: nothing,
    onError: nothing,
    onWarning,
    wireBytes: () => 0,
  };
  const receiver = new StreamReceiver({ ...events, cachePages });
  expect(receiver.cachePages).toBe(0);
  expect(warnings).toEqual(Array(2).fill("there is no memory for the page cache: pages that change are sent whole"));
  receiver.stop();
});

test("the return path is carried, and its end too", async () => {
  await using p = await pipeline();
  const answer = randomBytes(200_000);
  const digests = Promise.all([write(p.destination, [answer]), digestOf(p.source)]);
  const [written, read] = await Promise.race([digests, p.failed]);
  expect(read).toBe(written);
});

test("a destination that does not read holds back the source: no more is taken than the windows hold", async () => {
  const before = process.memoryUsage().rss; // earlier tests have left something
  await using p = await pipeline();
  p.destination.pause();
  const records = pageRecords(1024);
  p.source.write(streamHead());
  let taken = 0;
  let isHeld = false;
  while (!isHeld && taken < 2 * WINDOW_BYTES) {
    taken += records.length;
    const drained = p.source.write(records) || once(p.source, "drain");
    isHeld = (await Promise.race([drained, delay(1000, "held"), p.failed])) === "held";
  }
  expect(isHeld).toBe(true);
  expect(p.sender.rawBytes).toBeLessThanOrEqual(WINDOW_BYTES);
  expect(process.memoryUsage().rss - before).toBeLessThan(300e6); // both ends and the test, in one process
  p.destination.resume();
  await expect.poll(() => p.sender.ackedRawBytes, { timeout: 10_000 }).toBeGreaterThan(taken / 2);
});

test.each<[string, Codec, Uint8Array]>([
  ["garbage for LZ4", "lz4", Buffer.from([0x1f, 1, 9, 0])],
  ["an LZ4 block that is shorter than it says", "lz4", compressSync(Buffer.alloc(999)).subarray(4)],
  ["an LZ4 block that is longer than it says", "lz4", compressSync(Buffer.alloc(2000)).subarray(4)],
  ["garbage for zstd", "zstd", Buffer.from("not a frame")],
  ["a zstd frame that is longer than it says", "zstd", zstdCompressSync(Buffer.alloc(2000))],
])("a body that does not unpack to what it says ends it: %s", async (_name, codec, encoded) => {
  await using p = await pipeline();
  const sizes = { rawBytes: 1000, bodyBytes: 1000, tokenBytes: 2, encodedBytes: encoded.length };
  const header = { rawOffset: 0, codec, ...sizes };
  const memory = p.receiver.onData(header)!;
  memory.set(encoded);
  p.receiver.onDataComplete(header, memory);
  await expect(p.failed).rejects.toMatchObject({ code: "FORM_PACKING", details: { codec, bodyBytes: 1000 } });
});

test("a peer that acknowledges what was not sent, or sends what does not follow, is refused", async () => {
  await using p = await pipeline();
  expect(() => p.sender.acknowledge({ rawOffset: 1, wireBytes: 0, receivedBytes: 0 })).toThrow(
    expect.objectContaining({ code: "PEER_BAD_ACK" }),
  );
  const header = { rawOffset: 8, rawBytes: 1, bodyBytes: 2, tokenBytes: 1, codec: "none", encodedBytes: 2 } as const;
  expect(() => p.receiver.onData(header)).toThrow(expect.objectContaining({ code: "PEER_BAD_OFFSET" }));
  expect(() => p.receiver.onEndOfStream(5)).toThrow(expect.objectContaining({ code: "PEER_BAD_OFFSET" }));
});
