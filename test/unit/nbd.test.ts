import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test, vi } from "vitest";
import type { GodwitError } from "../../src/errors.ts";
import { openImage } from "../../src/qemu/image-server.ts";
import { type BlockExtent, bitmapContext, NbdClient, type NbdOptions } from "../../src/qemu/nbd.ts";
import {
  chunk,
  dataChunk,
  errorChunk,
  exportInfo,
  FakeNbd,
  type FakeNbdOptions,
  type FakeNbdRequest,
  hello,
  holeChunk,
  optionReply,
  simpleReply,
  statusChunk,
  uint16,
  uint32,
} from "./support/fake-nbd.ts";

async function fakeOnly(options: FakeNbdOptions = {}): Promise<FakeNbd> {
  const fake = await FakeNbd.start(options);
  onTestFinished(() => fake[Symbol.asyncDispose]());
  return fake;
}

async function pair(options: FakeNbdOptions = {}, clientOptions: NbdOptions = {}) {
  const fake = await fakeOnly(options);
  const client = await NbdClient.connect(fake.path, clientOptions);
  onTestFinished(() => client.close());
  return { fake, client };
}

async function errorOf(promise: Promise<unknown>): Promise<GodwitError> {
  return promise.then(
    () => expect.fail("it did not fail"),
    (error) => error,
  );
}

/** 64 KiB whose every 4 bytes tell where they stand. */
const content = Buffer.from(Uint32Array.from({ length: 16384 }, (_, index) => index * 2654435761).buffer);
const read = async (client: NbdClient, offset: number, length: number) => {
  const target = Buffer.alloc(length, 0xee);
  await client.read(offset, target);
  return target;
};

test.each([
  { isStructured: true, chunkBytes: 1 },
  { isStructured: false, chunkBytes: 1 },
  { isStructured: true, chunkBytes: 7001 },
  { isStructured: false },
])("reads: $isStructured, $chunkBytes bytes at a time", async (options) => {
  const { client, fake } = await pair({ ...options, content });
  expect(client.sizeBytes).toBe(65536);
  expect(await read(client, 0, 4096)).toEqual(content.subarray(0, 4096));
  expect(await read(client, 65535, 1)).toEqual(content.subarray(65535));
  expect(await read(client, 100, 0)).toHaveLength(0);
  expect(fake.requests).toHaveLength(2);
});

test("a large read is cut, goes straight to its place in shared memory, and arrives whole", async () => {
  const large = Buffer.concat(Array.from({ length: 50 }, () => content)).subarray(0, 3_000_001);
  const memory = new WebAssembly.Memory({ initial: 64, maximum: 64, shared: true });
  const target = new Uint8Array(memory.buffer, 999, 2_999_000);
  for (const isStructured of [true, false]) {
    const { client, fake } = await pair({ content: large, isStructured });
    target.fill(0);
    await client.read(1001, target);
    expect(Buffer.compare(Buffer.from(target), large.subarray(1001))).toBe(0);
    expect(fake.requests.map(({ length }) => length)).toEqual([2 ** 20, 2 ** 20, 2_999_000 - 2 ** 21]);
  }
});

test("replies in any order, chunks of several reads mixed, holes, and a last chunk without content", async () => {
  const held: FakeNbdRequest[] = [];
  const part = ({ cookie, offset }: FakeNbdRequest, at: number, length: number) =>
    dataChunk(cookie, offset + at, content.subarray(offset + at, offset + at + length));
  const { client } = await pair({
    content,
    onRequest(request, fake) {
      held.push(request);
      if (held.length < 3) return [];
      const [a, b, c] = held as [FakeNbdRequest, FakeNbdRequest, FakeNbdRequest];
      fake.send(part(b, 512, 512), dataChunk(c.cookie, c.offset, content.subarray(c.offset, c.offset + 1024), true));
      fake.send(holeChunk(a.cookie, a.offset, 1000), part(b, 0, 512), chunk(b.cookie, 0, Buffer.alloc(0), true));
      fake.send(part(a, 1000, 23), holeChunk(a.cookie, a.offset + 1023, 1, true));
      return [];
    },
  });
  const [a, b, c] = await Promise.all([0, 8192, 4096].map((offset) => read(client, offset, 1024)));
  expect(a).toEqual(Buffer.concat([Buffer.alloc(1000), content.subarray(1000, 1023), Buffer.alloc(1)]));
  expect(b).toEqual(content.subarray(8192, 9216));
  expect(c).toEqual(content.subarray(4096, 5120));
});

test("requests of one turn leave in one piece, and many are in flight", async () => {
  const { client, fake } = await pair({ content });
  const reads = Array.from({ length: 1000 }, (_, index) => read(client, (index * 61) % 65000, 64));
  for (const [index, data] of (await Promise.all(reads)).entries()) {
    const at = (index * 61) % 65000;
    expect(data).toEqual(content.subarray(at, at + 64));
  }
  expect(fake.requests).toHaveLength(1000);
});

test.each([
  ["structured, with words", true, "no medium"],
  ["structured, with words that would disturb a terminal", true, "no\u001b[31m\u202emedium"],
  ["simple", false, ""],
])("an error for one read leaves the others alone: %s", async (_, isStructured, words) => {
  const { client } = await pair({
    content,
    isStructured,
    onRequest: ({ cookie, offset }) => {
      if (offset !== 4096) return undefined;
      return isStructured
        ? [dataChunk(cookie, 4096, Buffer.alloc(100)), errorChunk(cookie, 5, words)]
        : [simpleReply(cookie, 5)];
    },
  });
  const failing = errorOf(read(client, 4096, 4096));
  expect(await read(client, 0, 4096)).toEqual(content.subarray(0, 4096));
  const error = await failing;
  expect(error.code).toBe("QMP_NBD_FAILED");
  expect(error.details.errno).toBe(5);
  expect(error.message).toMatch(words ? /^the NBD server could not answer: no[^\p{Cc}\u202e]+medium$/u : /: error 5$/);
  expect(await read(client, 4096, 0)).toHaveLength(0);
});

test("a range that is not on the disk is not asked for", async () => {
  const { client, fake } = await pair({ content });
  for (const [offset, length] of [
    [65536, 1],
    [65535, 2],
    [-1, 1],
  ] as const) {
    expect((await errorOf(read(client, offset, length))).code).toBe("QMP_NBD_FAILED");
  }
  expect((await errorOf(client.blockStatus(65536, 1))).code).toBe("QMP_NBD_FAILED");
  expect(fake.requests).toEqual([]);
});

test("block status: extents are put together, zeros left out, all of the disk covered", async () => {
  const name = "base:allocation";
  const { client, fake } = await pair(
    {
      content,
      onRequest: ({ command, cookie, offset }) => {
        expect(command).toBe(7);
        const extents: [number, number][] =
          offset === 0
            ? [
                [4096, 0],
                [4096, 3],
                [8192, 0],
              ]
            : [[100_000, 1]];
        return [statusChunk(cookie, 7, extents)];
      },
    },
    { contexts: [name] },
  );
  expect(client.contexts).toEqual([name]);
  const extents: BlockExtent[] = [];
  for await (const extent of client.extents(name)) extents.push(extent);
  expect(extents).toEqual([
    { offsetBytes: 0, lengthBytes: 4096, flags: 0 },
    { offsetBytes: 4096, lengthBytes: 4096, flags: 3 },
    { offsetBytes: 8192, lengthBytes: 8192, flags: 0 },
    { offsetBytes: 16384, lengthBytes: 49152, flags: 1 }, // cut to the disk
  ]);
  const allocated: unknown[] = [];
  for await (const extent of client.allocatedExtents()) allocated.push(extent);
  expect(allocated).toEqual([
    { offsetBytes: 0, lengthBytes: 4096 },
    { offsetBytes: 8192, lengthBytes: 57344 },
  ]);
  expect(fake.requests.map(({ offset, length }) => [offset, length])).toEqual([
    ...[
      [0, 65536],
      [16384, 49152],
    ],
    ...[
      [0, 65536],
      [16384, 49152],
    ],
  ]);
});

test("a dirty bitmap: what it has marked", async () => {
  const context = bitmapContext("b");
  const extents: [number, number][] = [
    [4096, 1],
    [4096, 1],
    [8192, 0],
    [49152, 1],
  ];
  const onRequest: Reply = ({ cookie }) => [statusChunk(cookie, 7, extents)];
  const { client } = await pair({ content, onRequest }, { contexts: [context] });
  const dirty: unknown[] = [];
  for await (const extent of client.dirtyExtents(context)) dirty.push(extent);
  expect(dirty).toEqual([
    { offsetBytes: 0, lengthBytes: 8192 },
    { offsetBytes: 16384, lengthBytes: 49152 },
  ]);
});

test("reads ask not to be split if the server can do that", async () => {
  for (const [isStructured, flags, wanted] of [
    [true, 0x83, 4],
    [true, 3, 0],
    [false, 0x83, 0],
  ] as const) {
    const go = [optionReply(7, 3, exportInfo(65536, flags)), optionReply(7, 1)];
    const onOption = ({ option }: { option: number }) => (option === 7 ? go : undefined);
    const { client, fake } = await pair({ content, isStructured, onOption });
    await read(client, 0, 10);
    expect(fake.requests[0]?.flags).toBe(wanted);
  }
});

test("a server without contexts: all of the disk may hold something", async () => {
  for (const isStructured of [true, false]) {
    const onOption = ({ option }: { option: number }) => (option === 10 ? [optionReply(10, 1)] : undefined);
    const { client } = await pair({ content, isStructured, onOption }, { contexts: ["base:allocation"] });
    expect(client.contexts).toEqual([]);
    const allocated: unknown[] = [];
    for await (const extent of client.allocatedExtents()) allocated.push(extent);
    expect(allocated).toEqual([{ offsetBytes: 0, lengthBytes: 65536 }]);
  }
});

const name = "base:allocation";
const ack = (option: number) => optionReply(option, 1);

test.each<[string, FakeNbdOptions]>([
  ["another protocol", { hello: Buffer.from("SSH-2.0-OpenSSH_10.0\r\n") }],
  [
    "oldstyle",
    { hello: Buffer.concat([Buffer.from("NBDMAGIC"), Buffer.from("00420281861253", "hex"), uint32(0), uint32(0)]) },
  ],
  ["not fixed newstyle", { hello: hello(0) }],
  ["no magic before an option's reply", { onOption: () => [Buffer.alloc(20)] }],
  ["a reply to another option", { onOption: () => [ack(3)] }],
  ["an option reply of 4 GB", { onOption: ({ option }) => [optionReply(option, 3).fill(0xff, 16)] }],
  ["a reply type that does not belong there", { onOption: ({ option }) => [optionReply(option, 2)] }],
  [
    "an export of 2^63 bytes",
    { onOption: ({ option }) => (option === 7 ? [optionReply(7, 3, exportInfo(2n ** 63n))] : undefined) },
  ],
  ["an export without a size", { onOption: ({ option }) => (option === 7 ? [ack(7)] : undefined) }],
  [
    "an export told in 3 bytes",
    { onOption: ({ option }) => (option === 7 ? [optionReply(7, 3, Buffer.alloc(3))] : undefined) },
  ],
  [
    "a context that nobody wanted",
    { onOption: ({ option }) => (option === 10 ? [optionReply(10, 4, Buffer.from("0000other"))] : undefined) },
  ],
  [
    "a context without a number",
    { onOption: ({ option }) => (option === 10 ? [optionReply(10, 4, Buffer.alloc(3))] : undefined) },
  ],
])("hostile handshake: %s", async (_, options) => {
  const fake = await fakeOnly(options);
  const error = await errorOf(NbdClient.connect(fake.path, { contexts: [name] }));
  expect(error.code).toBe("QMP_NBD_PROTOCOL");
  expect(error.message).toContain(fake.path);
  await expect.poll(() => fake.connections).toBe(0);
});

type Reply = (request: FakeNbdRequest) => Buffer[];
const data = (length: number) => content.subarray(0, length);

test.each<[string, Reply, boolean?]>([
  ["what is no reply", () => [Buffer.alloc(64, 0xff)]],
  ["an answer to nothing", ({ cookie }) => [dataChunk(cookie + 1n, 0, data(4096), true)]],
  ["a cookie beyond 32 bits", ({ cookie }) => [dataChunk(cookie + 2n ** 32n, 0, data(4096), true)]],
  ["more than was asked for", ({ cookie }) => [dataChunk(cookie, 0, data(4097), true)]],
  ["data before the range", ({ cookie }) => [dataChunk(cookie, 4095, data(10), true)]],
  ["data beyond the range", ({ cookie }) => [dataChunk(cookie, 8190, data(3), true)]],
  ["an offset of 2^63", ({ cookie }) => [chunk(cookie, 1, Buffer.concat([Buffer.alloc(1, 0x80), data(20)]), true)]],
  [
    "the same data twice",
    ({ cookie }) => [dataChunk(cookie, 4096, data(4096)), dataChunk(cookie, 4096, data(1), true)],
  ],
  ["less than was asked for", ({ cookie }) => [dataChunk(cookie, 4096, data(4095), true)]],
  ["nothing", ({ cookie }) => [chunk(cookie, 0, Buffer.alloc(0), true)]],
  ["data of 4 GB", ({ cookie }) => [chunk(cookie, 1, data(100), true, 0xffffffff)]],
  ["data without an offset", ({ cookie }) => [chunk(cookie, 1, data(8), true)]],
  ["a hole of 4 GB", ({ cookie }) => [holeChunk(cookie, 4096, 0xffffffff, true)]],
  ["a hole of nothing", ({ cookie }) => [holeChunk(cookie, 4096, 0)]],
  ["a hole that is too short to be one", ({ cookie }) => [chunk(cookie, 2, data(8), true)]],
  ["an error of 4 GB", ({ cookie }) => [chunk(cookie, 0x8001, data(100), true, 0xffffffff)]],
  ["a last chunk with content", ({ cookie }) => [chunk(cookie, 0, data(4), true)]],
  ["an unknown chunk", ({ cookie }) => [chunk(cookie, 9, data(4), true)]],
  ["a block status for a read", ({ cookie }) => [statusChunk(cookie, 7, [[4096, 0]])]],
  ["a simple reply where structured ones were agreed", ({ cookie }) => [simpleReply(cookie, 0), data(4096)]],
  [
    "a structured reply where simple ones were agreed",
    ({ cookie }) => [dataChunk(cookie, 4096, data(4096), true)],
    false,
  ],
])("hostile reply: %s", async (_, reply, isStructured = true) => {
  const { client, fake } = await pair({ content, isStructured, onRequest: reply });
  const guard = Buffer.alloc(3 * 4096, 0xee);
  const first = errorOf(client.read(4096, guard.subarray(4096, 8192)));
  const second = errorOf(read(client, 0, 16));
  expect((await first).code).toBe("QMP_NBD_PROTOCOL");
  expect((await second).code).toBe("QMP_NBD_PROTOCOL");
  expect((await client.closed)?.code).toBe("QMP_NBD_PROTOCOL");
  expect((await errorOf(read(client, 0, 16))).code).toBe("QMP_NBD_PROTOCOL");
  expect(guard.subarray(0, 4096).every((byte) => byte === 0xee)).toBe(true);
  expect(guard.subarray(8192).every((byte) => byte === 0xee)).toBe(true);
  await expect.poll(() => fake.connections).toBe(0);
});

test.each<[string, Reply]>([
  ["an unknown context", ({ cookie }) => [statusChunk(cookie, 8, [[4096, 0]])]],
  ["a context twice", ({ cookie }) => [statusChunk(cookie, 7, [[1, 0]], false), statusChunk(cookie, 7, [[1, 0]])]],
  ["an extent of nothing", ({ cookie }) => [statusChunk(cookie, 7, [[0, 0]])]],
  ["no extent", ({ cookie }) => [statusChunk(cookie, 7, [])]],
  ["half an extent", ({ cookie }) => [chunk(cookie, 5, Buffer.concat([uint32(7), uint32(1)]), true)]],
  ["2 MB of extents", ({ cookie }) => [chunk(cookie, 5, data(100), true, 2 ** 21 + 4)]],
  ["data", ({ cookie }) => [dataChunk(cookie, 0, data(100), true)]],
  ["a simple reply", ({ cookie }) => [simpleReply(cookie, 0)]],
])("hostile block status: %s", async (_, reply) => {
  const { client } = await pair({ content, onRequest: reply }, { contexts: [name] });
  expect((await errorOf(client.blockStatus(0, 4096))).code).toBe("QMP_NBD_PROTOCOL");
});

test("a block status without extents ends the listing, not the connection", async () => {
  const onRequest: Reply = ({ cookie }) => [chunk(cookie, 0, Buffer.alloc(0), true)];
  const { client } = await pair({ content, onRequest }, { contexts: [name] });
  const list = async () => {
    for await (const _ of client.allocatedExtents()) expect.fail("there is no extent");
  };
  expect((await errorOf(list())).code).toBe("QMP_NBD_FAILED");
});

test("an export that is refused: in the server's words", async () => {
  const refusal = optionReply(7, 0x80000006, Buffer.from("no such export"));
  const fake = await fakeOnly({ onOption: ({ option }) => (option === 7 ? [refusal] : undefined) });
  const error = await errorOf(NbdClient.connect(fake.path, { exportName: "größe" }));
  expect(error.code).toBe("QMP_NBD_REFUSED");
  expect(error.message).toMatch(/does not give the export "größe": no such export/);
});

test("information that was not asked for is passed over, and an option's refusal is not the end", async () => {
  const blockSize = Buffer.concat([uint16(3), uint32(1), uint32(4096), uint32(2 ** 25)]);
  const onOption = ({ option }: { option: number }) => {
    if (option === 10) return [optionReply(10, 0x80000003, Buffer.from("bad query"))];
    return option === 7 ? [optionReply(7, 3, blockSize), optionReply(7, 3, exportInfo(65536)), ack(7)] : undefined;
  };
  const { client } = await pair({ content, onOption }, { contexts: [name] });
  expect(client.contexts).toEqual([]);
  expect(await read(client, 10, 10)).toEqual(content.subarray(10, 20));
});

test.each([0, 1, 17, 20, 27, 28, 100])("the server hangs up %i bytes into a reply", async (bytes) => {
  const { client, fake } = await pair({
    content,
    onRequest: ({ cookie, offset, length }) => {
      fake.send(dataChunk(cookie, offset, content.subarray(offset, offset + length), true).subarray(0, bytes));
      fake.hangUp();
      return [];
    },
  });
  const error = await errorOf(Promise.all([read(client, 0, 4096), read(client, 4096, 4096)]));
  expect(error.code).toBe("QMP_NBD_CLOSED");
  expect((await client.closed)?.code).toBe("QMP_NBD_CLOSED");
  expect((await errorOf(read(client, 0, 1))).code).toBe("QMP_NBD_CLOSED");
});

test("the server hangs up while haggling; nobody listens; there is no socket", async () => {
  const fake = await fakeOnly({
    onOption: () => {
      fake.hangUp();
      return [];
    },
  });
  expect((await errorOf(NbdClient.connect(fake.path))).code).toBe("QMP_NBD_CLOSED");
  expect((await errorOf(NbdClient.connect(`${fake.path}-none`))).code).toBe("QMP_NBD_CLOSED");

  const folder = await mkdtemp(join(tmpdir(), "godwit-nbd-"));
  onTestFinished(() => rm(folder, { recursive: true }));
  const server = createServer().listen(join(folder, "deaf"));
  await new Promise((resolve) => server.on("listening", resolve));
  onTestFinished(() => void server.close());
  const error = await errorOf(NbdClient.connect(join(folder, "deaf"), { timeoutMs: 50 }));
  expect(error.code).toBe("QMP_NBD_TIMEOUT");
});

test("where there is no qemu-nbd, that is said", async () => {
  const command = ["/nowhere/qemu-nbd"] as const;
  await expect(openImage("json:{}", "/nowhere/socket", { command })).rejects.toMatchObject({
    code: "QMP_NBD_PROGRAM",
    message: "qemu-nbd does not serve the image: it is not on the PATH; QEMU's tools have it",
  });
});

test("closing: what is in flight is told, the server gets a farewell, twice is once", async () => {
  const { client, fake } = await pair({ content, onRequest: () => [] });
  const failing = errorOf(read(client, 0, 10));
  await expect.poll(() => fake.requests.length).toBe(1);
  client.close();
  client.close();
  expect((await failing).code).toBe("QMP_NBD_CLOSED");
  await client[Symbol.asyncDispose]();
  expect(await client.closed).toBeUndefined();
  expect((await errorOf(read(client, 0, 10))).code).toBe("QMP_NBD_CLOSED");
  await expect.poll(() => fake.requests.map(({ command }) => command)).toEqual([0, 2]);
});

test("a server that stalls is given up; one that is only idle is not", async () => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
  onTestFinished(() => void vi.useRealTimers());
  const { client } = await pair({ content, onRequest: ({ offset }) => (offset === 0 ? undefined : []) });
  await read(client, 0, 10);
  vi.advanceTimersByTime(600_000);
  await read(client, 0, 10);
  const stalled = errorOf(read(client, 10, 10));
  vi.advanceTimersByTime(29_000);
  await read(client, 0, 10); // it is alive: the limit is counted anew
  vi.advanceTimersByTime(29_000);
  await read(client, 0, 10);
  vi.advanceTimersByTime(30_001);
  expect((await stalled).code).toBe("QMP_NBD_TIMEOUT");
});
