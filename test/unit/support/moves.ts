/** Moves of streams through sessions. */
import { createHash } from "node:crypto";
import { once } from "node:events";
import type net from "node:net";
import { expect } from "vitest";
import { pageRecords, streamHead } from "../../../bench/support.ts";
import { noise } from "./pages.ts";
import { Session, type SessionOptions } from "./session.ts";

/** Reads to the end; the SHA-256 of all of it. */
export async function digestOf(socket: net.Socket): Promise<string> {
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
export function* rounds(pages: number, count: number): Generator<Uint8Array> {
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

/** Moves `parts` through a session, return path and hand-off too, and checks what holds whatever happens. */
export async function move(parts: Iterable<Uint8Array>, options: SessionOptions): Promise<Session> {
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
