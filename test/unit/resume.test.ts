// Sessions that outlive their connections: whatever breaks whenever, what comes out is what went in, and what arrived is not sent again.
import { createHash } from "node:crypto";
import { once } from "node:events";
import type net from "node:net";
import fc from "fast-check";
import { expect, test } from "vitest";
import { pageRecords, streamHead } from "../../bench/support.ts";
import { type Cut, memoryConnection } from "./support/memory-connection.ts";
import { noise } from "./support/pages.ts";
import { Session, type SessionOptions } from "./support/session.ts";

/** Reads to the end; the SHA-256 of all of it. */
async function digestOf(socket: net.Socket): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of socket) hash.update(chunk as Uint8Array);
  return hash.digest("hex");
}

async function write(socket: net.Socket, parts: Iterable<Uint8Array>): Promise<string> {
  const hash = createHash("sha256");
  for (const part of parts) {
    hash.update(part);
    if (!socket.write(part)) await once(socket, "drain");
  }
  socket.end();
  return hash.digest("hex");
}

/** A guest that writes its pages again and again: some change a little, some are copies, some are zero. */
function* rounds(pages: number, count: number): Generator<Uint8Array> {
  yield streamHead();
  const records = pageRecords(pages, 0);
  const page = (number: number) => records.subarray(number * 4104 + 8, (number + 1) * 4104);
  for (let number = 0; number < pages; number++) page(number).set(noise(2 * number + 1, 4096));
  for (let round = 0; round < count; round++) {
    yield Uint8Array.from(records);
    for (let number = 0; number < pages; number++) {
      if (number % 5 === 0) page(number).set(noise(2 * (round * pages + number) + 1, 4096));
      else if (number % 5 === 1) page(number).set(page(number - 1));
      else page(number).set(noise(2 * round + 1, 8), 8 * (number % 512));
    }
  }
}

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

/** Moves `parts` through a session, return path and hand-off too, and checks what holds whatever happens. */
async function move(parts: Iterable<Uint8Array>, options: SessionOptions): Promise<Session> {
  await using session = await Session.start(options);
  const failed = session.done.promise.then(() => new Promise<never>(() => {}));
  const there = write(session.source, parts).then((digest) => {
    session.switchOver();
    return digest;
  });
  const back = write(session.destination, [noise(1, 100_000), noise(2, 9)]);
  const [arrived, returned] = [digestOf(session.destination), digestOf(session.source)];
  expect(await Promise.race([arrived, failed])).toBe(await there);
  session.load();
  expect(await Promise.race([returned, failed])).toBe(await back);
  await session.done.promise;
  for (const { rawOffset, ackedBytes } of session.sent) expect(rawOffset).toBeGreaterThanOrEqual(ackedBytes);
  return session;
}

/** With another key of tags at the receiver, every page that equals one in the cache is asked for again. */
const DOUBTED = { places: [], tagKey: noise(77, 32), nameOf: () => "" };
const ways: Record<string, Omit<SessionOptions, "connect">> = {
  plain: { cachePages: 64 },
  "packed, by slow threads": { cachePages: 64, packing: { codec: "zstd", level: 15 }, threads: 2 },
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
