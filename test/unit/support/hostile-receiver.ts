import { once } from "node:events";
import net from "node:net";
import { GodwitError } from "../../../src/errors.ts";
import { StreamSender } from "../../../src/migration/sender.ts";
import { SourceCheckpoints } from "../../../src/migration/source-checkpoints.ts";
import { SourceLink } from "../../../src/migration/source-link.ts";
import { readDataHeader } from "../../../src/wire/bulk.ts";
import { encodeMessage } from "../../../src/wire/encoding.ts";
import { DATA_HEADER_BYTES, HEADER_BYTES, type Message, messageTypeOf } from "../../../src/wire/messages.ts";
import { TAG_KEY } from "./disk-bodies.ts";
import { rounds } from "./moves.ts";
import { decodePlainly } from "./plain-decoder.ts";
import { ScriptedConnection } from "./scripted-connection.ts";

type Spoken<Type> = Extract<Message, { type: Type }>;

/** What the source QEMU writes. */
export const STREAM = Buffer.concat([...rounds(40, 6)]);
const CACHE_PAGES = 32;
const CHECKPOINT_PAGES = 50;
const SESSION = "5e".repeat(16);
/** Turns of the event loop in which nothing more has come of what was said. */
const IDLE_TURNS = 20;
/** For the rest of the stream, once the receiver means well. */
const HONEST_TIMEOUT_MS = 10_000;

export const GREETING = {
  ...{ session: SESSION, program: "test", pageFormat: 3, features: [], vm: {}, disks: [] },
  ...{ cachePages: CACHE_PAGES, windowBytes: 8 << 20 },
  checkpoints: [{ id: "c0", pages: CHECKPOINT_PAGES, createdMs: 0, seed: "0123456789abcdef", hashBytes: 5 }],
};

/** What a receiver does that means no good. */
export type Move =
  /** Says this, whatever it is. */
  | Uint8Array
  /** Drops the connection. */
  | { readonly do: "cut" }
  /** Answers the last HELLO as it should, but for the offset: so far from what it has acknowledged. */
  | { readonly do: "welcome"; readonly off: number }
  /** Acknowledges so far from what was sent to it. */
  | { readonly do: "ack"; readonly off: number }
  /** Asks for one of the references that it was sent again, and so many bytes more. */
  | { readonly do: "nack"; readonly which: number; readonly more: number }
  /** Goes on with the return path. */
  | { readonly do: "return"; readonly bytes: number }
  | { readonly do: "end-return" };

/** A wrong byte, or something without end. */
class Harm extends Error {}

/** Lets a sender face such a receiver, and then one that means well, which must get all the rest of the stream. */
export class HostileReceiver implements AsyncDisposable {
  readonly #link: SourceLink;
  readonly #checkpoints = SourceCheckpoints.of(CHECKPOINT_PAGES * 4096);
  readonly #opened: Promise<unknown>;
  readonly #source: net.Socket;
  readonly #accepted: net.Socket;
  #sender: StreamSender | undefined;
  #connection: ScriptedConnection | undefined;
  /** Why the sender has ended it. */
  #failure: unknown;
  #harm: Harm | undefined;
  #isHonest = false;
  #generation = 0;
  /** Raw offset of the next DATA on this connection, the page cache that its bodies have left, and what they referred to. */
  #expected = 0;
  #slots: Uint8Array[] = [];
  #references: { rawOffset: number; rawBytes: number }[] = [];
  #writtenBytes = 0;
  #returnedBytes = 0;
  readonly #ended = Promise.withResolvers<void>();

  private constructor(source: net.Socket, accepted: net.Socket) {
    [this.#source, this.#accepted] = [source, accepted];
    for (const socket of [source, accepted]) socket.on("error", () => {});
    source.on("data", ({ length }: Buffer) => {
      this.#returnedBytes += length;
    });
    source.pause();
    source.end(STREAM);
    const known = { checkpointPages: CHECKPOINT_PAGES, tagKey: Buffer.from(TAG_KEY).toString("hex") };
    this.#link = new SourceLink({
      session: SESSION,
      handler: { onMessage: (message) => this.#onMessage(message) },
      reconnectForMs: 60_000,
      backOffMs: () => 0,
      connect: async () => this.#connect(),
      hello: () => ({
        ...{ ...GREETING, ...known, knownHashes: this.#checkpoints.knownHashes },
        returnOffset: this.#returnBytes,
      }),
      onDown: () => this.#sender?.detach(),
      onUp: (welcome) => this.#onUp(welcome),
      onGaveUp: (error) => this.#fail(error),
    });
    this.#opened = this.#link.open().catch((error) => this.#fail(error));
  }

  /** @param path of a unix socket, on which `server` listens with pauseOnConnect */
  static async open(server: net.Server, path: string): Promise<HostileReceiver> {
    const entered = once(server, "connection");
    const source = net.connect({ path, allowHalfOpen: true });
    const [accepted] = (await entered) as [net.Socket];
    const receiver = new HostileReceiver(source, accepted);
    await turn();
    return receiver;
  }

  /** @throws GodwitError with which the sender has let go of it; Harm */
  async face(moves: Iterable<Move>): Promise<void> {
    for (const move of moves) {
      await this.#connected();
      if (this.#failure !== undefined) break;
      this.#make(move);
      await this.#settled();
    }
    if (this.#failure === undefined) await this.#beHonest();
    if (this.#harm !== undefined) throw this.#harm;
    if (this.#failure !== undefined) throw this.#failure;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#link.destroy();
    this.#sender?.stop();
    for (const socket of [this.#source, this.#accepted]) socket.destroy();
    await this.#opened;
  }

  get #returnBytes(): number {
    return this.#sender?.returnBytes ?? 0;
  }

  #make(move: Move): void {
    if (move instanceof Uint8Array) return this.#connection!.say(Uint8Array.from(move));
    switch (move.do) {
      case "cut":
        return this.#cut();
      case "welcome":
        return this.#welcome((this.#sender?.ackedRawBytes ?? 0) + move.off);
      case "ack":
        return this.#acknowledge(this.#expected + move.off);
      case "nack": {
        const reference = this.#references[move.which % this.#references.length];
        if (reference === undefined) return;
        const { rawOffset, rawBytes } = reference;
        return this.#say({ type: "NACK", rawOffset, rawBytes: Math.max(1, rawBytes + move.more) });
      }
      case "return":
        return this.#say({ type: "RETURN", returnOffset: this.#returnBytes, bytes: new Uint8Array(move.bytes) });
      case "end-return":
        return this.#say({ type: "RETURN_END", returnBytes: this.#returnBytes });
    }
  }

  async #beHonest(): Promise<void> {
    if (this.#sender === undefined) return this.#fail(new GodwitError("WIRE_CLOSED", "nobody has answered HELLO"));
    await this.#connected();
    if (this.#failure !== undefined) return;
    this.#isHonest = true;
    this.#source.resume();
    this.#cut();
    const timer = setTimeout(() => this.#ended.reject(new Harm("the rest does not come")), HONEST_TIMEOUT_MS);
    await this.#ended.promise.finally(() => clearTimeout(timer));
    if (this.#failure !== undefined) return;
    if (this.#expected !== STREAM.length) throw new Harm(`the stream ended at ${this.#expected}`);
    for (let idle = 0; idle < 200 && this.#returnedBytes < this.#sender.returnBytes; idle++) await turn();
    if (this.#returnedBytes !== this.#sender.returnBytes) throw new Harm("the source QEMU got another return path");
  }

  #cut(): void {
    this.#connection!.destroy(new GodwitError("WIRE_CLOSED", "it was cut"));
  }

  #say(message: Message): void {
    this.#connection!.say(encodeMessage(message));
  }

  #welcome(rawOffset: number): void {
    this.#say({ type: "WELCOME", ...GREETING, generation: this.#generation, rawOffset: Math.max(0, rawOffset) });
  }

  #acknowledge(rawOffset: number): void {
    const receivedBytes = this.#connection!.bytesWritten;
    this.#say({ type: "ACK", rawOffset: Math.max(0, rawOffset), wireBytes: receivedBytes, receivedBytes });
  }

  #connect(): ScriptedConnection {
    const connection: ScriptedConnection = new ScriptedConnection((message) => {
      if (connection === this.#connection) this.#onWritten(message);
    }, false);
    this.#connection = connection;
    return connection;
  }

  #onUp({ rawOffset, checkpoints, windowBytes, cachePages }: Spoken<"WELCOME">): void {
    [this.#expected, this.#slots, this.#references] = [rawOffset, [], []];
    if (this.#sender !== undefined) return this.#sender.resume(rawOffset);
    this.#checkpoints.welcome(checkpoints);
    this.#sender = new StreamSender(this.#link, {
      ...{
        windowBytes,
        threads: 0,
        packing: { codec: "none", level: 0 },
        cachePages: Math.min(cachePages, CACHE_PAGES),
      },
      referable: { places: this.#checkpoints.places, tagKey: TAG_KEY, nameOf: () => "checkpoint" },
      onError: (error) => this.#fail(error),
    });
    this.#sender.start(this.#accepted);
  }

  /** As SourceMigration does. */
  #onMessage(message: Message): void {
    if (message.type === "ACK") this.#sender!.acknowledge(message);
    else if (message.type === "NACK") this.#sender!.repair(message);
    else if (message.type === "RETURN") this.#sender!.writeReturn(message);
    else if (message.type === "RETURN_END") this.#sender!.endReturn(message);
    else if (message.type === "HASHES") this.#checkpoints.onHashes(message);
  }

  #onWritten(message: Buffer): void {
    this.#writtenBytes += message.length;
    const type = messageTypeOf(message[0]!);
    if (type === "HELLO") this.#generation = JSON.parse(message.toString("utf8", HEADER_BYTES + 8)).generation;
    if (type === "DATA") this.#onData(message);
    if (type === "REPAIR") this.#compare(message.readUIntLE(HEADER_BYTES, 6), message.subarray(HEADER_BYTES + 12));
    if (this.#isHonest) setImmediate(() => this.#answer(message, type));
  }

  #answer(message: Buffer, type: string | undefined): void {
    if (type === "HELLO") this.#welcome(this.#sender!.ackedRawBytes);
    if (type === "DATA") this.#acknowledge(this.#expected);
    if (type === "PING") this.#connection!.say(encodeMessage({ type: "PONG", opaque: message.readBigUInt64LE(8) }));
    if (type === "END") this.#ended.resolve();
  }

  #onData(message: Buffer): void {
    const body = message.subarray(DATA_HEADER_BYTES);
    const header = readDataHeader(message.subarray(HEADER_BYTES, DATA_HEADER_BYTES), body.length);
    if (header.rawOffset !== this.#expected)
      this.#harm ??= new Harm(`DATA at ${header.rawOffset}, not ${this.#expected}`);
    const held = { 4: [], 5: [] } as const;
    const { bytes, references } = decodePlainly(body, header.tokenBytes, held, TAG_KEY, this.#slots);
    this.#expected = header.rawOffset + bytes.length;
    if (bytes.length !== header.rawBytes) this.#harm ??= new Harm("a body of another length than it says");
    this.#compare(header.rawOffset, bytes);
    for (const { at, bytes, holds } of references) {
      if (!holds) this.#harm ??= new Harm("a page is said to equal one that it does not");
      this.#references.push({ rawOffset: header.rawOffset + at, rawBytes: bytes });
    }
  }

  #compare(rawOffset: number, bytes: Uint8Array): void {
    if (STREAM.subarray(rawOffset, rawOffset + bytes.length).equals(bytes)) return;
    this.#harm ??= new Harm(`other bytes were sent than the source QEMU wrote, at ${rawOffset}`);
  }

  #fail(error: unknown): void {
    this.#failure ??= error;
    this.#ended.resolve();
  }

  /** The sender has connected, again if need be, or has let go. */
  async #connected(): Promise<void> {
    const timer = AbortSignal.timeout(HONEST_TIMEOUT_MS);
    while (this.#connection!.isClosed && this.#failure === undefined) {
      if (timer.aborted) throw new Harm("it does not connect again");
      await turn();
    }
  }

  /** Nothing more comes of what was said. */
  async #settled(): Promise<void> {
    let before = "";
    for (let idle = 0; idle < IDLE_TURNS; idle++) {
      await turn();
      const now = `${this.#writtenBytes} ${this.#sender?.rawBytes} ${this.#generation}`;
      if (now !== before) idle = 0;
      before = now;
    }
  }
}

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
