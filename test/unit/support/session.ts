import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DestinationLink } from "../../../src/migration/destination-link.ts";
import { Peer } from "../../../src/migration/peer.ts";
import type { AgreedPlaces } from "../../../src/migration/place-pages.ts";
import { type ReceiverOptions, StreamReceiver } from "../../../src/migration/receiver.ts";
import { type SenderOptions, StreamSender } from "../../../src/migration/sender.ts";
import { SourceLink } from "../../../src/migration/source-link.ts";
import type { Outlet } from "../../../src/migration/transmitter.ts";
import { WINDOW_BYTES } from "../../../src/migration/window.ts";
import type { Connection } from "../../../src/wire/connection.ts";
import type { Message } from "../../../src/wire/messages.ts";
import { TAG_KEY } from "./disk-bodies.ts";

type Hello = Extract<Message, { type: "HELLO" }>;

const SESSION = "5e".repeat(16);
const GREETING = { session: SESSION, program: "test", pageFormat: 3, features: [], vm: {}, disks: [] };

export interface SessionOptions
  extends Pick<SenderOptions, "packing" | "threads" | "maxBytesPerSecond" | "cachePages" | "referable"> {
  /** Opens a connection: the sender's end, and, given to `accept`, the receiver's. */
  connect: (accept: (connection: Connection) => void) => Connection | Promise<Connection>;
  places?: AgreedPlaces;
  reconnectForMs?: number;
}

/** What `Session.sent` says of a DATA message. */
export interface SentRange {
  readonly rawOffset: number;
  readonly rawBytes: number;
  /** What the sender knew to have arrived when it sent this. */
  readonly ackedBytes: number;
  readonly generation: number;
}

/** A connection that came after one that was lost; times are of performance.now. */
export interface Resume {
  /** When the sender noticed the loss, and when it was welcomed again. */
  readonly downAtMs: number;
  readonly upAtMs: number;
  /** Where the receiver wants to go on. */
  readonly rawOffset: number;
}

/** A migration without QEMUs: both ends with all between them, over connections that a test makes and breaks. */
export class Session implements AsyncDisposable {
  /** Stand for the QEMUs: what the test writes and reads. */
  source!: net.Socket;
  destination!: net.Socket;
  readonly sender: StreamSender;
  readonly receiver: StreamReceiver;
  readonly sourceLink: SourceLink;
  destinationLink: DestinationLink | undefined;
  readonly sent: SentRange[] = [];
  readonly downs: string[] = [];
  readonly resumes: Resume[] = [];
  readonly warnings: string[] = [];
  readonly nacks: Message[] = [];
  /** How often each message of the hand-off has come. */
  readonly heard: Record<string, number> = {};
  /** The hand-off is through. */
  readonly done = Promise.withResolvers<void>();
  #downAtMs = 0;
  #isLoaded = false;
  #isSwitchedOver = false;
  #switchoverGeneration = 0;
  readonly #options: SessionOptions;
  readonly #folder = mkdtempSync(join(tmpdir(), "godwit-session-"));

  private constructor(options: SessionOptions) {
    this.#options = options;
    const { packing, threads = 0, maxBytesPerSecond, cachePages = 0, places } = options;
    const onError = (error: unknown) => this.done.reject(error);
    this.done.promise.catch(() => {});
    const onWarning = (message: string) => void this.warnings.push(message);
    const limits = { reconnectForMs: options.reconnectForMs ?? 60_000, onGaveUp: onError };
    this.sourceLink = new SourceLink({
      ...limits,
      session: SESSION,
      handler: { onMessage: (message) => this.#onReceivers(message) },
      connect: async () => options.connect((connection) => void this.#accept(connection)),
      hello: () => this.#hello(),
      backOffMs: () => 0,
      onDown: ({ message }) => {
        this.#downAtMs = performance.now();
        this.downs.push(message);
        this.sender.detach();
      },
      onUp: ({ rawOffset }, { awayMs }) => {
        if (awayMs === null) return;
        this.resumes.push({ downAtMs: this.#downAtMs, upAtMs: performance.now(), rawOffset });
        if (this.#isSwitchedOver) this.sourceLink.send({ type: "SWITCHOVER" });
        this.sender.resume(rawOffset);
      },
    });
    const referable = options.referable ?? { places: [], tagKey: TAG_KEY, nameOf: () => "" };
    const sending = { cachePages, referable, maxBytesPerSecond, threads, onError, onWarning };
    this.sender = new StreamSender(this.#outlet(), { ...sending, ...(packing && { packing }) });
    const receiving: ReceiverOptions = {
      cachePages,
      threads,
      onError,
      onWarning,
      send: (message) => {
        if (message.type === "NACK") this.nacks.push(message);
        this.destinationLink?.send(message);
      },
      ping: async () => this.destinationLink?.ping() ?? false,
      onRoom: () => this.destinationLink?.onRoom(),
      wireBytes: () => this.destinationLink?.receivedBytes ?? 0,
    };
    this.receiver = new StreamReceiver(receiving);
    this.receiver.useCache(cachePages);
    this.receiver.usePlaces(places ?? { disks: [], checkpoints: [] }, TAG_KEY, onWarning);
  }

  static async start(options: SessionOptions): Promise<Session> {
    const session = new Session(options);
    await session.sourceLink.open();
    const [out, entrance] = ["out", "in"].map((name) => join(session.#folder, name)) as [string, string];
    const sink = net.createServer({ allowHalfOpen: true }).listen(out);
    const connected = once(sink, "connection");
    await session.receiver.connect(out);
    [session.destination] = (await connected) as [net.Socket];
    sink.close();
    session.destinationLink?.onRoom();
    const server = net.createServer({ pauseOnConnect: true, allowHalfOpen: true }).listen(entrance);
    const entered = once(server, "connection");
    session.source = net.connect({ path: entrance, allowHalfOpen: true });
    const [socket] = (await entered) as [net.Socket];
    server.close();
    for (const end of [session.source, session.destination]) end.on("error", () => {});
    session.sender.start(socket);
    return session;
  }

  /** The source QEMU has written all: from here on the hand-off. */
  switchOver(): void {
    this.#isSwitchedOver = true;
    this.sourceLink.send({ type: "SWITCHOVER" });
  }

  /** The destination QEMU has loaded all. */
  load(): void {
    this.#isLoaded = true;
    this.#sayLoaded();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.sourceLink.destroy();
    this.destinationLink?.destroy();
    this.sender.stop();
    this.receiver.stop();
    this.source?.destroy();
    this.destination?.destroy();
    rmSync(this.#folder, { recursive: true, force: true });
  }

  /** The link, with a look at what goes through. */
  #outlet(): Outlet {
    const session = this;
    return {
      get backlog() {
        return session.sourceLink.backlog;
      },
      writeAs: (type, chunks) => {
        const head = chunks[0]!;
        const view = new DataView(head.buffer, head.byteOffset);
        const range = () => ({ rawOffset: Number(view.getBigUint64(8, true)), rawBytes: view.getUint32(16, true) });
        const { generation } = session.sourceLink;
        if (type === "DATA") this.sent.push({ ...range(), ackedBytes: this.sender.ackedRawBytes, generation });
        session.sourceLink.writeAs(type, chunks);
      },
    };
  }

  #hello(): Omit<Hello, "type" | "session" | "generation"> {
    const { cachePages = 0 } = this.#options;
    const known = { returnOffset: this.sender.returnBytes, knownHashes: 0 };
    return { ...GREETING, checkpointPages: 0, cachePages, tagKey: Buffer.from(TAG_KEY).toString("hex"), ...known };
  }

  #onReceivers(message: Message): void {
    if (message.type === "ACK") this.sender.acknowledge(message);
    else if (message.type === "NACK") this.sender.repair(message);
    else if (message.type === "RETURN") this.sender.writeReturn(message);
    else if (message.type === "RETURN_END") this.sender.endReturn(message);
    else this.heard[message.type] = (this.heard[message.type] ?? 0) + 1;
    if (message.type === "LOADED") this.sourceLink.send({ type: "COMMIT", run: true });
    if (message.type === "RUNNING") this.done.resolve();
  }

  #accept(connection: Connection): void {
    const peer = new Peer(connection, "receiver", {
      onMessage: (message) => {
        if (message.type === "HELLO") void this.#onHello(peer, message).catch(this.done.reject);
      },
    });
  }

  async #onHello(peer: Peer, hello: Hello): Promise<void> {
    if (this.destinationLink !== undefined) return this.destinationLink.offer(peer, hello);
    const { receiver } = this;
    const welcome = (generation: number, rawOffset: number) => ({
      ...{ type: "WELCOME" as const, ...GREETING, generation, cachePages: hello.cachePages },
      ...{ checkpoints: [], rawOffset, windowBytes: WINDOW_BYTES },
    });
    this.destinationLink = new DestinationLink({
      hello,
      handler: {
        onMessage: (message) => this.#onSenders(message),
        onData: (header) => receiver.onData(header),
        onDataComplete: (header, body) => receiver.onDataComplete(header, body),
        onRepair: (header) => receiver.onRepair(header),
        onRepairComplete: () => receiver.onRepairComplete(),
      },
      reconnectForMs: this.#options.reconnectForMs ?? 60_000,
      settle: () => receiver.detach(),
      welcome,
      onDown: () => void receiver.detach(),
      onUp: ({ returnOffset }) => receiver.attach(returnOffset),
      onGaveUp: this.done.reject,
    });
    this.destinationLink.begin(peer);
    this.destinationLink.send(welcome(hello.generation, 0));
    void peer.startPulse();
  }

  #onSenders(message: Message): void {
    this.heard[message.type] = (this.heard[message.type] ?? 0) + 1;
    if (message.type === "END") this.receiver.onEndOfStream(message.rawBytes);
    if (message.type === "SWITCHOVER") {
      this.#switchoverGeneration = this.destinationLink!.generation;
      this.#sayLoaded();
    }
    if (message.type === "COMMIT") this.destinationLink!.send({ type: "RUNNING", resumeMs: 0 });
  }

  #sayLoaded(): void {
    const isAsked = this.#switchoverGeneration === this.destinationLink!.generation;
    if (this.#isLoaded && isAsked) this.destinationLink!.send({ type: "LOADED", loadMs: 0, rawBytes: 0 });
  }
}
