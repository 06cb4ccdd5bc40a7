// Sessions that outlive their connections: whatever breaks whenever, what comes out is what went in, and what arrived is not sent again.
import { once } from "node:events";
import { setTimeout as delay } from "node:timers/promises";
import fc from "fast-check";
import { expect, onTestFinished, test } from "vitest";
import { pageRecords, streamHead } from "../../bench/support.ts";
import type { LinkFault } from "../../lab/link-faults.ts";
import { ReturnPath } from "../../src/migration/return-path.ts";
import { WINDOW_BYTES } from "../../src/migration/window.ts";
import type { Message } from "../../src/wire/messages.ts";
import { type Cut, memoryConnection } from "./support/memory-connection.ts";
import { digestOf, move, rounds } from "./support/moves.ts";
import { noise } from "./support/pages.ts";
import { connectionsOverTls } from "./support/relayed.ts";
import { Session, type SessionOptions } from "./support/session.ts";

/** Connections of which each is cut as the next of `cuts` says; those after them hold. */
function cutAs(cuts: Iterable<Cut>): SessionOptions["connect"] {
  const next = cuts[Symbol.iterator]();
  return (accept) => {
    const { value } = next.next();
    const [sender, receiver] = memoryConnection(value);
    accept(receiver);
    return sender;
  };
}

/** With another key of tags at the receiver, every page that equals one in the cache is asked for again. */
const DOUBTED = { places: [], tagKey: noise(77, 32), nameOf: () => "" };
const ways: Record<string, Omit<SessionOptions, "connect">> = {
  plain: { cachePages: 64 },
  "packed, by slow threads": { cachePages: 64, packing: { codec: "zstd", level: 9 }, threads: 2 },
  "with pages that are asked for again": { cachePages: 64, referable: DOUBTED },
};
const stream = () => rounds(60, 6);

test.each(Object.entries(ways))("cut at each kind of message, lost or not: %s", async (name, options) => {
  const asks = name === "with pages that are asked for again";
  const types = {
    sender: ["DATA", ...(asks ? ["REPAIR"] : []), "SWITCHOVER", "END", "COMMIT"],
    receiver: ["WELCOME", "ACK", ...(asks ? ["NACK"] : []), "RETURN", "RETURN_END", "LOADED", "RUNNING"],
  };
  for (const [from, ats] of Object.entries(types)) {
    for (const [at, hasArrived] of ats.flatMap((at) => [[at, false] as const, [at, true] as const])) {
      if (at === "RUNNING" && hasArrived) continue; // it is over then
      const cut = { from, at, hasArrived } as Cut;
      // The first connection is not tried again; a WELCOME that gets lost is a later one's.
      const cuts = at === "WELCOME" ? [{ from: "sender", at: "DATA" } as const, cut, cut] : [cut, cut];
      const session = await move(stream(), { ...options, connect: cutAs(cuts) });
      expect(session.downs.length, `${at} ${hasArrived}`).toBeGreaterThan(0);
    }
  }
});

test("cut after any bytes, again and again", async () => {
  const cut = fc.record({
    from: fc.constantFrom("sender" as const, "receiver" as const),
    bytes: fc.oneof(fc.integer({ min: 700, max: 5000 }), fc.integer({ min: 700, max: 600_000 })),
  });
  const way = fc.constantFrom(...Object.values(ways));
  await fc.assert(
    fc.asyncProperty(fc.array(cut, { maxLength: 12 }), way, async (cuts, options) => {
      await move(stream(), { ...options, connect: cutAs(cuts) });
    }),
    { numRuns: 20 },
  );
});

/** Connections with TLS, through a relay that does to them what a bad link does. */
async function relayed() {
  const link = await connectionsOverTls();
  onTestFinished(() => link[Symbol.asyncDispose]());
  return { relay: link.relay, over: link.connect };
}

test.each<[string, LinkFault, number]>([
  ["cut 30 times", { kind: "cut", everyBytes: 60_000, times: 30 }, 30],
  ["a bit that is flipped below TLS", { kind: "flip-bit", direction: "forward", afterBytes: 200_000 }, 1],
  ["one that is flipped on the way back", { kind: "flip-bit", direction: "back", afterBytes: 3000 }, 1],
])("over TLS, %s: comes out as it went in", async (_name, fault, downs) => {
  const { relay, over } = await relayed();
  await relay.set(fault);
  const session = await move(rounds(60, 40), { cachePages: 64, connect: over });
  expect(session.downs.length).toBeGreaterThanOrEqual(downs);
  expect(session.downs.length).toBeLessThanOrEqual(downs + 2);
});

test("the receiver goes on with a newer connection, while the older one looks alive to it", async () => {
  const { relay, over } = await relayed();
  const moving = move(rounds(60, 60), { cachePages: 64, connect: over, maxBytesPerSecond: 20e6 });
  await expect.poll(() => relay.figures().forwardBytes).toBeGreaterThan(1e6);
  await relay.set({ kind: "half-open", told: "sender" });
  expect((await moving).downs).toHaveLength(1);
});

test("a resume costs a round trip beyond those of TCP and TLS, and the bytes that were not acknowledged", async () => {
  const { relay, over } = await relayed();
  relay.setUsualDelay(20);
  const moving = move(rounds(60, 60), { cachePages: 64, connect: over, maxBytesPerSecond: 10e6 });
  await expect.poll(() => relay.figures().forwardBytes).toBeGreaterThan(1e6);
  await relay.set({ kind: "reset" });
  const { sent, resumes } = await moving;
  const [before, after] = [
    sent.filter((range) => range.generation === 1),
    sent.filter((range) => range.generation === 2),
  ];
  const lost = before.at(-1)!;
  const awayMs = resumes[0]!.upAtMs - resumes[0]!.downAtMs;
  const unacknowledgedBytes = lost.rawOffset + lost.rawBytes - lost.ackedBytes;
  const again = after.filter(({ rawOffset }) => rawOffset < lost.rawOffset + lost.rawBytes);
  const againBytes = again.reduce((sum, { rawBytes }) => sum + rawBytes, 0);
  console.log(`a round trip of 40 ms: away for ${awayMs.toFixed(0)} ms, then ${againBytes} bytes again`);
  expect(awayMs).toBeGreaterThan(115);
  // The next body may begin with the last of what is sent again.
  expect(againBytes).toBeLessThanOrEqual(unacknowledgedBytes + 256 * 1024);
});

/** Writes pages to a session whose destination QEMU does not read, until nothing more goes in. */
async function fill(session: Session): Promise<void> {
  session.destination.pause();
  session.source.write(streamHead());
  const records = pageRecords(1024);
  let isHeld = false;
  while (!isHeld && session.sender.rawBytes < 2 * WINDOW_BYTES) {
    const drained = session.source.write(records) || once(session.source, "drain");
    isHeld = (await Promise.race([drained, delay(1000, "held")])) === "held";
  }
}

test("a destination QEMU that is slow delays the answer, and nothing that it has is sent again", async () => {
  const connections: ReturnType<typeof memoryConnection>[] = [];
  const connect: SessionOptions["connect"] = (accept) => {
    connections.push(memoryConnection());
    accept(connections.at(-1)![1]);
    return connections.at(-1)![0];
  };
  await using session = await Session.start({ connect });
  await fill(session);
  const { rawBytes, ackedRawBytes } = session.sender;
  const sent = session.sent.length;
  connections[0]![0].cut(undefined);
  await expect.poll(() => connections.length).toBe(2);
  await delay(100);
  expect(session.sourceLink.isUp).toBe(false);
  expect(session.sender.rawBytes).toBeLessThan(rawBytes + 2 ** 20); // held back, at most what was being read
  const digest = digestOf(session.destination);
  await expect.poll(() => session.sourceLink.isUp).toBe(true);
  session.source.end();
  await digest;
  const again = session.sent[sent]!;
  expect(again).toMatchObject({ generation: 2, rawOffset: again.ackedBytes });
  expect(again.rawOffset).toBeGreaterThan(ackedRawBytes); // what it had got was written first
  expect(session.receiver.rawBytes).toBe(session.sender.rawBytes);
});

test("the return path is kept until it is known to have arrived, and no more of it than 1 MiB", async () => {
  const sent: Message[] = [];
  const pings: ((hasCome: boolean) => void)[] = [];
  const room: boolean[] = [];
  const path = new ReturnPath({
    send: (message) => void sent.push(message),
    ping: () => new Promise((resolve) => pings.push(resolve)),
    onRoom: (hasRoom) => void room.push(hasRoom),
  });
  const offsets = () =>
    sent.splice(0).map((message) => (message.type === "RETURN" ? message.returnOffset : message.type));
  path.write(noise(1, 100_000));
  expect(offsets()).toEqual([0, 65_536]);
  for (let part = 0; part < 16; part++) path.write(noise(part, 65_536));
  expect(room).toEqual([false]);
  offsets();
  pings.shift()!(true); // what was sent before it: the first 100,000 bytes
  await expect.poll(() => room).toEqual([false, true]);
  expect(path.resume(99_999)).toBe(false);
  expect(path.resume(100_000 + 16 * 65_536 + 1)).toBe(false);
  path.end();
  offsets();
  expect(path.resume(100_010)).toBe(true);
  expect(offsets()).toEqual([100_010, ...Array.from({ length: 15 }, (_, i) => 165_536 + i * 65_536), "RETURN_END"]);
});
