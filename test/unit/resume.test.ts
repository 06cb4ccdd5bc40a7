// Sessions that outlive their connections: whatever breaks whenever, what comes out is what went in, and what arrived is not sent again.
import { createHash } from "node:crypto";
import { once } from "node:events";
import type net from "node:net";
import { describe, expect, test } from "vitest";
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

/** Moves `parts` through a session, hand-off and all, and checks what holds whatever happens. */
async function move(parts: Iterable<Uint8Array>, options: SessionOptions): Promise<Session> {
  await using session = await Session.start(options);
  const failed = session.done.promise.then(() => new Promise<never>(() => {}));
  const written = write(session.source, parts).then((digest) => {
    session.switchOver();
    return digest;
  });
  const read = digestOf(session.destination).then((digest) => {
    session.load();
    return digest;
  });
  expect(await Promise.race([read, failed])).toBe(await written);
  await session.done.promise;
  for (const { rawOffset, ackedBytes } of session.sent) expect(rawOffset).toBeGreaterThanOrEqual(ackedBytes);
  return session;
}

describe("a session whose connection is cut", () => {
  const stream = () => rounds(60, 6);
  const options = { cachePages: 64 };

  test.each(["sender", "receiver"] as const)("behind each message of the %s's in turn", async (from) => {
    const cuts = Array.from({ length: 40 }, (_, i) => ({ from, messages: i + 2 }));
    const session = await move(stream(), { ...options, connect: cutAs(cuts) });
    expect(session.downs.length).toBeGreaterThan(3);
  });
});
