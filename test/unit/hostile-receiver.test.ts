// A receiver that has the key and says anything, in any order: it is let go of in words, or the rest of the stream comes as ever.
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, expect, test } from "vitest";
import { GodwitError } from "../../src/errors.ts";
import { encodeMessage } from "../../src/wire/encoding.ts";
import { GREETING, HostileReceiver, type Move, STREAM } from "./support/hostile-receiver.ts";
import { noise } from "./support/pages.ts";
import { anyMessage, encode } from "./wire-fixtures.ts";

const folder = mkdtempSync(join(tmpdir(), "godwit-hostile-"));
const path = join(folder, "qemu");
const server = net.createServer({ pauseOnConnect: true, allowHalfOpen: true }).listen(path);
await once(server, "listening");
afterAll(() => {
  server.close();
  rmSync(folder, { recursive: true });
});

/** The code of the error with which the sender lets go of it; undefined when it takes all, and the stream was whole. */
async function face(moves: readonly Move[]): Promise<string | undefined> {
  await using receiver = await HostileReceiver.open(server, path);
  try {
    await receiver.face(moves);
    return undefined;
  } catch (error) {
    if (error instanceof GodwitError) return error.code;
    throw error;
  }
}

const WELCOME: Move = { do: "welcome", off: 0 };
const CUT: Move = { do: "cut" };
const said = (...messages: Parameters<typeof encodeMessage>): Move => encodeMessage(...messages);
const welcome = (changes: object) =>
  said({ type: "WELCOME", ...GREETING, generation: 1, rawOffset: 0, ...changes } as Parameters<
    typeof encodeMessage
  >[0]);
const hashes = (page: number, pages: number) =>
  said({ type: "HASHES", checkpoint: 0, page, hashes: noise(1, 5 * pages) });
const many = (move: Move, times: number) => Array.from({ length: times }, () => move);

test.each<[string, readonly Move[], string | undefined]>([
  ["nothing wrong", [WELCOME, { do: "ack", off: 0 }, hashes(0, 50)], undefined],
  ["another generation", [welcome({ generation: 2 })], "WIRE_BAD_MESSAGE"],
  ["another session", [welcome({ session: "00".repeat(16) })], "WIRE_BAD_MESSAGE"],
  ["a first WELCOME that is no beginning", [{ do: "welcome", off: 1 }], "PEER_BAD_OFFSET"],
  ["WELCOME twice", [WELCOME, WELCOME], "WIRE_OUT_OF_ORDER"],
  ["a window too small to work in", [welcome({ windowBytes: 4096 })], "PEER_WINDOW"],
  [
    "more of checkpoints than was asked for",
    [welcome({ checkpoints: [{ ...GREETING.checkpoints[0]!, pages: 51 }] })],
    "PEER_BAD_CHECKPOINTS",
  ],
  ["an ACK that goes back", [WELCOME, { do: "ack", off: 0 }, { do: "ack", off: -9000 }], undefined],
  ["an ACK ahead of what was sent", [WELCOME, { do: "ack", off: 1 }], "PEER_BAD_ACK"],
  [
    "a later WELCOME behind what it has acknowledged",
    [WELCOME, { do: "ack", off: 0 }, CUT, { do: "welcome", off: -1 }],
    "PEER_BAD_OFFSET",
  ],
  [
    "a later WELCOME ahead of what was sent",
    [WELCOME, CUT, { do: "welcome", off: STREAM.length + 1 }],
    "PEER_BAD_OFFSET",
  ],
  ["a reference asked for once", [WELCOME, { do: "nack", which: 0, more: 0 }], undefined],
  ["a reference asked for twice", [WELCOME, ...many({ do: "nack", which: 0, more: 0 }, 2)], "PEER_BAD_NACK"],
  ["more than a reference asked for", [WELCOME, { do: "nack", which: 3, more: 1 }], "PEER_BAD_NACK"],
  [
    "what is acknowledged asked for",
    [WELCOME, { do: "ack", off: 0 }, { do: "nack", which: 0, more: 0 }],
    "PEER_BAD_NACK",
  ],
  ["what was never sent asked for", [WELCOME, said({ type: "NACK", rawOffset: 1e9, rawBytes: 4104 })], "PEER_BAD_NACK"],
  [
    "a return path that the source QEMU does not read",
    [WELCOME, ...many({ do: "return", bytes: 65_536 }, 60)],
    "PEER_WINDOW",
  ],
  [
    "a return path with a gap",
    [WELCOME, said({ type: "RETURN", returnOffset: 1, bytes: new Uint8Array(9) })],
    "PEER_BAD_OFFSET",
  ],
  ["an end of the return path elsewhere", [WELCOME, said({ type: "RETURN_END", returnBytes: 1 })], "PEER_BAD_OFFSET"],
  [
    "a return path that ends on each connection",
    [WELCOME, said({ type: "RETURN_END", returnBytes: 0 }), CUT, WELCOME, said({ type: "RETURN_END", returnBytes: 0 })],
    undefined,
  ],
  [
    "a return path that goes on when it has ended",
    [WELCOME, said({ type: "RETURN_END", returnBytes: 0 }), CUT, WELCOME, { do: "return", bytes: 9 }],
    "PEER_BAD_OFFSET",
  ],
  ["hashes without end", [WELCOME, ...many(hashes(0, 50), 2)], "PEER_BAD_HASHES"],
  ["more hashes than pages", [WELCOME, hashes(0, 51)], "PEER_BAD_HASHES"],
  ["an answer to another PING", [WELCOME, said({ type: "PONG", opaque: 0n })], "WIRE_BAD_MESSAGE"],
  ["PINGs without end", [WELCOME, ...many(said({ type: "PING", opaque: 1n }), 50)], undefined],
])("%s", async (_name, moves, code) => {
  expect(await face(moves)).toBe(code);
});

const off = fc.oneof(
  fc.constant(0),
  fc.integer({ min: -20_000, max: 20_000 }),
  fc.integer({ min: -STREAM.length, max: STREAM.length }),
);
const move: fc.Arbitrary<Move> = fc.oneof(
  { weight: 4, arbitrary: off.map((off): Move => ({ do: "ack", off: Math.min(0, off) })) },
  { weight: 1, arbitrary: off.map((off): Move => ({ do: "ack", off })) },
  { weight: 4, arbitrary: fc.record({ do: fc.constant("nack" as const), which: fc.nat(), more: fc.constant(0) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("nack" as const), which: fc.nat(), more: off }) },
  { weight: 3, arbitrary: fc.integer({ min: 1, max: 65_536 }).map((bytes): Move => ({ do: "return", bytes })) },
  { weight: 1, arbitrary: fc.constant<Move>({ do: "end-return" }) },
  { weight: 1, arbitrary: anyMessage.map((message): Move => encode(message)) },
  { weight: 1, arbitrary: fc.uint8Array({ minLength: 1, maxLength: 100 }) },
);
/** A connection that is welcomed, mostly as it should be, and in the end cut. */
const connection = fc
  .tuple(fc.oneof({ weight: 5, arbitrary: fc.constant(0) }, off), fc.array(move, { maxLength: 8 }))
  .map(([off, moves]): Move[] => [{ do: "welcome", off }, ...moves, CUT]);

test("anything, on one connection after the other", { timeout: 60_000 }, async () => {
  const property = fc.asyncProperty(fc.array(connection, { maxLength: 4 }), async (connections) => {
    expect((await face(connections.flat())) ?? "WIRE_").toMatch(/^(WIRE|PEER)_/);
  });
  await fc.assert(property, { numRuns: 60 });
});
