import { encodeMessage } from "../../../src/wire/encoding.ts";
import { HEADER_BYTES, MAX_REPAIR_BYTES } from "../../../src/wire/messages.ts";
import { GREETING, HostileReceiver, type Move, STREAM } from "../../unit/support/hostile-receiver.ts";
import { noise } from "../../unit/support/pages.ts";
import { mutateBytes } from "../mutate.ts";
import type { Random } from "../random.ts";
import type { FuzzTarget } from "../target.ts";
import { type LocalServer, listenInNewFolder, removeFolders } from "../temporary.ts";

/** Moves as an input has them: like messages, of codes that the wire skips, with two numbers. */
const CODES = { cut: 0xf0, welcome: 0xf1, ack: 0xf2, nack: 0xf3, return: 0xf4, endReturn: 0xf5 } as const;
const MOVE_BYTES = 8;
const MAX_RETURN_BYTES = 65_536;

function move(what: keyof typeof CODES, first = 0, second = 0): Buffer {
  const bytes = Buffer.alloc(HEADER_BYTES + MOVE_BYTES);
  bytes[0] = CODES[what];
  bytes.writeUInt32LE(MOVE_BYTES, 4);
  bytes.writeInt32LE(first, HEADER_BYTES);
  bytes.writeInt32LE(second, HEADER_BYTES + 4);
  return bytes;
}

/** The moves of an input, as far as its headers tell, then the rest. */
function movesIn(input: Uint8Array): Move[] {
  const moves: Move[] = [];
  const bytes = Buffer.from(input);
  let at = 0;
  while (at + HEADER_BYTES <= bytes.length) {
    const end = at + HEADER_BYTES + bytes.readUInt32LE(at + 4);
    moves.push(moveOf(bytes.subarray(at, end)));
    at = end;
  }
  return at < bytes.length ? [...moves, bytes.subarray(at)] : moves;
}

function moveOf(message: Buffer): Move {
  if (message.length !== HEADER_BYTES + MOVE_BYTES) return message;
  const [first, second] = [message.readInt32LE(HEADER_BYTES), message.readInt32LE(HEADER_BYTES + 4)];
  switch (message[0]) {
    case CODES.cut:
      return { do: "cut" };
    case CODES.welcome:
      return { do: "welcome", off: first };
    case CODES.ack:
      return { do: "ack", off: first };
    case CODES.nack:
      return { do: "nack", which: Math.abs(first), more: second % MAX_REPAIR_BYTES };
    case CODES.return:
      return { do: "return", bytes: 1 + (Math.abs(first) % MAX_RETURN_BYTES) };
    case CODES.endReturn:
      return { do: "end-return" };
    default:
      return message;
  }
}

/** A receiver that does all that one may, on two connections. */
function conversation(): Uint8Array[] {
  const hashes = (page: number) => encodeMessage({ type: "HASHES", checkpoint: 0, page, hashes: noise(page + 1, 125) });
  return [
    encodeMessage({ type: "WELCOME", ...GREETING, generation: 1, rawOffset: 0 }),
    encodeMessage({ type: "PING", opaque: 1n }),
    hashes(0),
    move("return", 1000),
    move("nack", 30),
    move("nack", 70),
    move("ack", -200_000),
    move("cut"),
    move("welcome", 50_000),
    hashes(25),
    move("return", 9),
    move("endReturn"),
    move("ack", -4104),
    move("ack", 0),
  ];
}

/** Left out, doubled, changed, or in another order. */
function shuffled(random: Random): Uint8Array {
  const moves = conversation();
  for (let changes = 1 + random.small(5); changes > 0; changes--) {
    const at = random.below(moves.length);
    const other = random.below(moves.length);
    const changed = [
      [],
      Array.from({ length: 1 + random.small(40) }, () => moves[other]!),
      [moves[at]!, anyMove(random)],
      [mutateBytes(moves[at]!, moves, random, 60_000)],
    ];
    if (random.chance(0.8)) moves.splice(at, 1, ...random.pick(changed));
    else [moves[at], moves[other]] = [moves[other]!, moves[at]!];
  }
  return Buffer.concat(moves);
}

function anyMove(random: Random): Uint8Array {
  const off = random.small(STREAM.length) * (random.chance(0.8) ? -1 : 1);
  return move(
    random.pick(["cut", "welcome", "ack", "ack", "nack", "nack", "return", "return", "endReturn"]),
    random.chance(0.5) ? 0 : off,
    random.small(3),
  );
}

let entrance: Promise<LocalServer> | undefined;

/** A receiver that has the key, and says anything; then one that means well. */
const receiver: FuzzTarget = {
  name: "a hostile receiver",
  share: 1,
  refuses: /^(WIRE|PEER)_/,
  seeds: () => [Buffer.concat(conversation())],
  input: (seeds, random) => (random.chance(0.8) ? shuffled(random) : mutateBytes(seeds[0]!, seeds, random, 100_000)),
  async feed(input) {
    entrance ??= listenInNewFolder({ pauseOnConnect: true, allowHalfOpen: true });
    const { server, path } = await entrance;
    await using hostile = await HostileReceiver.open(server, path);
    await hostile.face(movesIn(input));
  },
  close: async () => {
    (await entrance)?.server.close();
    entrance = undefined;
    removeFolders();
  },
};

export const RECEIVER_TARGETS = [receiver];
