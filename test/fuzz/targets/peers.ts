import { zstdCompressSync } from "node:zlib";
import { Peer } from "../../../src/migration/peer.ts";
import { StreamReceiver } from "../../../src/migration/receiver.ts";
import { WINDOW_BYTES } from "../../../src/migration/window.ts";
import { HEADER_BYTES, type Message } from "../../../src/wire/messages.ts";
import { blockOf, bodyOf, FakeDisk, Pieces, TAG_KEY } from "../../unit/support/disk-bodies.ts";
import { noise } from "../../unit/support/pages.ts";
import { ScriptedConnection } from "../../unit/support/scripted-connection.ts";
import { data, encode, exchange, repair } from "../../unit/wire-fixtures.ts";
import { mutateBytes } from "../mutate.ts";
import type { Random } from "../random.ts";
import { type FuzzTarget, WrongOutput } from "../target.ts";
import { type LocalServer, listenInNewFolder, removeFolders } from "../temporary.ts";

const SLOTS = 10;
const BLOCKS = 100;
/** Turns of the event loop in which nothing more has come of an input. */
const IDLE_TURNS = 30;

/** The messages of a migration, with bodies of all kinds; what is repaired is what was asked for. */
function conversation(): Uint8Array[] {
  const pages = [1, 2, 3].map((seed) => noise(seed, 4096));
  const stale = [blockOf(7, 0)];
  const bodies = [
    [new Pieces().kept(0, 0, pages)],
    [new Pieces().same(9, 0, pages), new Pieces().raw(Buffer.alloc(5000, "text"))],
    [new Pieces().disk(20, 0, 5, [blockOf(0, 5)])],
    [new Pieces().disk(30, 0, 6, stale)],
    [new Pieces().literal(40, pages)],
  ].map(bodyOf);
  let rawOffset = 0;
  const messages: Uint8Array[] = [encode(exchange[0]!)];
  for (const [i, { body, tokenBytes, raw }] of bodies.entries()) {
    const sizes = { rawOffset, rawBytes: raw.length, tokenBytes };
    const packed = { ...sizes, bodyBytes: body.length, codec: "zstd" } as const;
    messages.push(encode(i === 1 ? data(packed, zstdCompressSync(body)) : data({ ...sizes, codec: "none" }, body)));
    if (i === 3) messages.push(encode(repair(rawOffset, raw)));
    rawOffset += raw.length;
  }
  return [...messages, encode({ type: "SWITCHOVER" }), encode({ type: "END", rawBytes: rawOffset })];
}

/** Messages left out, doubled, changed, or in another order. */
function shuffled(random: Random): Uint8Array {
  const messages = conversation();
  for (let changes = 1 + random.below(4); changes > 0; changes--) {
    const at = random.below(messages.length);
    const other = random.below(messages.length);
    if (random.chance(0.3)) messages.splice(at, 1);
    else if (random.chance(0.4)) messages.splice(at, 0, messages[other]!);
    else if (random.chance(0.5)) messages[at] = mutateBytes(messages[at]!, messages, random, 60_000);
    else [messages[at], messages[other]] = [messages[other]!, messages[at]!];
  }
  return Buffer.concat(messages);
}

const [REPAIR, NACK] = [0x15, 0x1a];

/** The messages of an input as far as their headers tell, then the rest. */
function messagesIn(input: Uint8Array): Uint8Array[] {
  const messages: Uint8Array[] = [];
  const view = new DataView(input.buffer, input.byteOffset, input.length);
  let at = 0;
  while (at + HEADER_BYTES <= input.length) {
    const end = at + HEADER_BYTES + view.getUint32(at + 4, true);
    messages.push(input.subarray(at, end));
    at = end;
  }
  return [...messages, input.subarray(at)];
}

/** Lets things happen while `isWaiting`, but not for long. */
async function turns(isWaiting: () => boolean): Promise<void> {
  for (let turn = 0; turn < IDLE_TURNS && isWaiting(); turn++) await new Promise((resolve) => setImmediate(resolve));
}

/** Stands for a destination QEMU that takes all. */
async function listenForAll(): Promise<LocalServer> {
  const sink = await listenInNewFolder();
  sink.server.on("connection", (socket) => socket.on("error", () => {}).resume());
  return sink;
}

let sink: Promise<LocalServer> | undefined;

/** A sender that has the key, and says anything. */
const sender: FuzzTarget = {
  name: "a hostile sender",
  share: 4,
  refuses: /^(WIRE|PEER|FORM)_/,
  seeds: () => [Buffer.concat(conversation())],
  input: (seeds, random) => (random.chance(0.8) ? shuffled(random) : mutateBytes(seeds[0]!, seeds, random, 200_000)),
  async feed(input, random) {
    sink ??= listenForAll();
    const answers = new Set<number>();
    const connection = new ScriptedConnection((bytes) => void answers.add(bytes[0]!));
    let failure: unknown;
    const fail = (error: unknown) => {
      failure ??= error;
    };
    const peer: Peer = new Peer(connection, "receiver", {
      onMessage: (message) => onMessage(message),
      onData: (header) => receiver.onData(header),
      onDataComplete: (header, body) => receiver.onDataComplete(header, body),
      onRepair: (header) => receiver.onRepair(header),
      onRepairComplete: () => receiver.onRepairComplete(),
    });
    void connection.closed.then((error) => error && fail(error));
    const receiver: StreamReceiver = new StreamReceiver({
      ...{ cachePages: SLOTS, threads: 0, onError: fail },
      send: (message) => peer.send(message),
      ping: () => peer.ping(),
      onRoom: () => peer.onRoom(),
      wireBytes: () => peer.receivedBytes,
    });
    const onMessage = (message: Message) => {
      if (message.type === "HELLO") welcome(peer, receiver);
      if (message.type === "END") receiver.onEndOfStream(message.rawBytes);
      if (message.type === "ABORT" || message.type === "REFUSE") peer.destroy();
    };
    try {
      await receiver.connect((await sink).path);
      connection.resume();
      for (const message of messagesIn(input)) {
        // A repair is an answer.
        if (message[0] === REPAIR) await turns(() => !answers.has(NACK));
        const cut = random.small(message.length + 1);
        for (const piece of [message.subarray(0, cut), message.subarray(cut)]) connection.say(Uint8Array.from(piece));
      }
      let [idle, before] = [0, ""];
      while (idle < IDLE_TURNS) {
        await new Promise((resolve) => setImmediate(resolve));
        const now = `${receiver.rawBytes} ${connection.bytesWritten} ${connection.waitingChunks} ${failure}`;
        idle = now === before ? idle + 1 : 0;
        before = now;
      }
      if (receiver.rawBytes > input.length * 5000)
        throw new WrongOutput(`${receiver.rawBytes} bytes were made of ${input.length}`);
      if (failure !== undefined) throw failure;
    } finally {
      receiver.stop();
      peer.destroy();
    }
  },
  close: async () => {
    (await sink)?.server.close();
    sink = undefined;
    removeFolders();
  },
};

function welcome(peer: Peer, receiver: StreamReceiver): void {
  const [, answer] = exchange;
  if (answer?.type !== "WELCOME") return;
  receiver.useCache(SLOTS);
  const disks = [{ blocks: BLOCKS, reader: new FakeDisk(0, BLOCKS) }];
  receiver.usePlaces({ disks, checkpoints: [] }, TAG_KEY, () => {});
  peer.send({ ...answer, disks: ["disk0"], checkpoints: [], cachePages: SLOTS, windowBytes: WINDOW_BYTES });
}

export const PEER_TARGETS = [sender];
