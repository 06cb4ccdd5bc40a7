import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { expect, onTestFinished, test, vi } from "vitest";
import { startFaultyLink } from "../../lab/faulty-link.ts";
import { FaultyRelay } from "../../lab/faulty-relay.ts";
import { createHosts, localHost } from "../../lab/hosts.ts";

/** A receiver behind a relay: what it got of all connections, each by itself. */
async function behind(relay: { leadTo(target: { host: string; port: number }): unknown }) {
  const got: { bytes: Buffer; hasEnded: boolean; error?: string; socket: Socket }[] = [];
  const server: Server = createServer({ allowHalfOpen: true }, (socket) => {
    const one: (typeof got)[number] = { bytes: Buffer.alloc(0), hasEnded: false, socket };
    got.push(one);
    socket.on("data", (bytes: Buffer) => {
      one.bytes = Buffer.concat([one.bytes, bytes]);
    });
    socket.on("end", () => {
      one.hasEnded = true;
    });
    socket.on("error", (error: NodeJS.ErrnoException) => {
      one.error = error.code!;
    });
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(() => {
    server.close();
    for (const { socket } of got) socket.destroy();
  });
  await relay.leadTo({ host: "127.0.0.1", port: (server.address() as AddressInfo).port });
  return got;
}

async function connected(port: number): Promise<Socket & { lastError?: string }> {
  const socket: Socket & { lastError?: string } = connect({ host: "127.0.0.1", port });
  onTestFinished(() => void socket.destroy());
  socket.on("error", (error: NodeJS.ErrnoException) => {
    socket.lastError = error.code!;
  });
  await once(socket, "connect");
  return socket;
}

async function relayWithReceiver() {
  const relay = new FaultyRelay();
  onTestFinished(() => relay.close());
  const { port } = await relay.listen();
  return { relay, port, got: await behind(relay) };
}

const passed = (check: () => void | Promise<void>) => vi.waitFor(check, { timeout: 20_000, interval: 5 });
/** Long enough for what passes to have passed on loopback. */
const nothingMore = () => new Promise((resolve) => setTimeout(resolve, 50));

test("bytes pass, both ways and to the end", async () => {
  const { relay, port, got } = await relayWithReceiver();
  const socket = await connected(port);
  const bytes = Buffer.alloc(3_000_000, "godwit");
  socket.end(bytes);
  await passed(() => expect(got[0]?.hasEnded).toBe(true));
  expect(got[0]!.bytes.equals(bytes)).toBe(true);
  got[0]!.socket.end("well");
  expect(String((await once(socket, "data"))[0])).toBe("well");
  expect(relay.figures()).toEqual({ connections: 1, forwardBytes: 3e6, backBytes: 4, cuts: 0, flippedBits: 0 });
});

test("refuse: what lives is reset, what comes is refused, until it is healed", async () => {
  const { relay, port, got } = await relayWithReceiver();
  const socket = await connected(port);
  await passed(() => expect(got).toHaveLength(1));
  await relay.set({ kind: "refuse" });
  await passed(() => expect([socket.lastError, got[0]!.error]).toEqual(["ECONNRESET", "ECONNRESET"]));
  await expect(connected(port)).rejects.toMatchObject({ code: "ECONNREFUSED" });
  await relay.heal();
  (await connected(port)).write("again");
  await passed(() => expect(String(got[1]!.bytes)).toBe("again"));
});

test("black hole: nothing passes and nobody is told; then all of it", async () => {
  const { relay, port, got } = await relayWithReceiver();
  const socket = await connected(port);
  await passed(() => expect(got).toHaveLength(1));
  await relay.set({ kind: "black-hole" });
  socket.end("late");
  await nothingMore();
  expect(got[0]).toMatchObject({ bytes: Buffer.alloc(0), hasEnded: false });
  await relay.heal();
  await passed(() => expect(got[0]).toMatchObject({ bytes: Buffer.from("late"), hasEnded: true }));
});

test("half-open: one end is told and the other never; a new connection is well", async () => {
  const { relay, port, got } = await relayWithReceiver();
  const socket = await connected(port);
  await passed(() => expect(got).toHaveLength(1));
  await relay.set({ kind: "half-open", told: "sender" });
  await passed(() => expect(socket.lastError).toBe("ECONNRESET"));
  got[0]!.socket.write("into nowhere");
  (await connected(port)).write("new");
  await passed(() => expect(String(got[1]!.bytes)).toBe("new"));
  expect(got[0]).toMatchObject({ hasEnded: false });
  expect(got[0]!.error).toBeUndefined();
});

test("cut: at the byte, every so many bytes, so many times", async () => {
  const { relay, port, got } = await relayWithReceiver();
  await relay.set({ kind: "cut", everyBytes: 1000, times: 2 });
  for (const i of [0, 1]) {
    const socket = await connected(port);
    socket.write(Buffer.alloc(5000, i));
    await passed(() => expect(socket.lastError).toBe("ECONNRESET"));
  }
  expect(got.every(({ bytes }) => bytes.length <= 1000)).toBe(true);
  (await connected(port)).write(Buffer.alloc(5000));
  await passed(() => expect(got[2]!.bytes).toHaveLength(5000));
  expect(relay.figures()).toMatchObject({ cuts: 2, connections: 3 });
});

test("cut in several ways, one after the other", async () => {
  const { relay, port, got } = await relayWithReceiver();
  await relay.set({ kind: "cut", everyBytes: 1000, times: 4, as: ["half-open", "black-hole", "refuse"] });
  /** What both ends are told, undefined being nothing. */
  const cut = async (...told: (string | undefined)[]) => {
    const socket = await connected(port);
    const { cuts } = relay.figures();
    socket.write(Buffer.alloc(1000));
    await passed(() => expect(relay.figures().cuts).toBe(cuts + 1));
    await nothingMore();
    await passed(() => expect([socket.lastError, got[cuts]!.error]).toEqual(told));
  };
  await cut("ECONNRESET", undefined);
  await cut(undefined, undefined);
  await cut("ECONNRESET", "ECONNRESET");
  await expect(connected(port)).rejects.toMatchObject({ code: "ECONNREFUSED" });
  await passed(() => cut("ECONNRESET", undefined));
  (await connected(port)).write("well");
  await passed(() => expect(String(got[4]!.bytes)).toBe("well"));
});

test("a late link takes a round trip to connect, and another one to answer", async () => {
  const { relay, port, got } = await relayWithReceiver();
  relay.setUsualDelay(50);
  const startMs = performance.now();
  const socket = await connected(port);
  socket.write("late");
  await passed(() => expect(String(got[0]?.bytes)).toBe("late"));
  got[0]!.socket.write("well");
  await once(socket, "data");
  expect(performance.now() - startMs).toBeGreaterThan(199);
});

test("a bit flips, a link is slow, late, and comes and goes", async () => {
  const { relay, port, got } = await relayWithReceiver();
  await relay.set({ kind: "flip-bit", direction: "forward", afterBytes: 3 });
  const socket = await connected(port);
  socket.write("aaaaaa");
  await passed(() => expect(String(got[0]!.bytes)).toBe("aaa`aa"));

  await relay.set({ kind: "slow", bytesPerSecond: 10_000 });
  let startMs = performance.now();
  socket.write(Buffer.alloc(3000));
  await passed(() => expect(got[0]!.bytes).toHaveLength(3006));
  expect(performance.now() - startMs).toBeGreaterThan(200);

  await relay.set({ kind: "delay", ms: 100 });
  startMs = performance.now();
  socket.write("late");
  await passed(() => expect(got[0]!.bytes).toHaveLength(3010));
  expect(performance.now() - startMs).toBeGreaterThan(99);

  await relay.set({ kind: "flap", upMs: 20, downMs: 20 });
  await passed(() => expect(socket.lastError).toBe("ECONNRESET"));
  await passed(async () => void (await connected(port)));
});

test("on a host of the lab: a process of its own, gone with the link; the hosts' own link can be taken down", async () => {
  await using hosts = await createHosts();
  await using link = await startFaultyLink(hosts.source);
  await link.set({ kind: "black-hole" });
  await link.heal();
  expect(await link.figures()).toMatchObject({ connections: 0 });
  if (hosts.isolated) {
    await hosts.setLink("down");
    await hosts.setLink("up");
  }
  await using local = await startFaultyLink(localHost);
  const got = await behind(local);
  (await connected(local.address.port)).write("through");
  await passed(() => expect(String(got[0]!.bytes)).toBe("through"));
});
