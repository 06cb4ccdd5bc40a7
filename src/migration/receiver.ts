import net from "node:net";
import { BodyDecoder, type DecodedCounts } from "../compact/decoder.ts";
import { GodwitError } from "../errors.ts";
import { type DataHeader, MAX_BODY_BYTES, MAX_RAW_BYTES, MAX_RETURN_BYTES, type Message } from "../wire/messages.ts";
import { createKernels } from "./kernels.ts";
import { unpackBody } from "./packing.ts";

/** Bodies that wait or are being unpacked; with the outputs this bounds the receiver's memory. */
const BODY_SLOTS = 12;
/** Outputs that wait for the destination QEMU to take them. */
const OUTPUT_SLOTS = 4;
/** Acknowledgements are at least so far apart, unless there is much to acknowledge. */
const ACK_MS = 2;

export interface ReceiverOptions {
  /** Sends a message to the peer. */
  send: (message: Message) => void;
  /** There is room for DATA again, after `onData` returned null. */
  onRoom: () => void;
  onError: (error: GodwitError) => void;
  /** Bytes of messages received on the connection so far. */
  wireBytes: () => number;
}

/** A body on its way into the destination QEMU, in order. */
interface Job {
  header: DataHeader;
  slot: Uint8Array;
  /** The body, once it is unpacked. */
  body: Uint8Array | undefined;
}

/**
 * DATA messages → unpack → decode → the destination QEMU's socket, and its return path back.
 *
 * Bounded: 12 body slots of 1.1 MiB, 4 outputs of 4 MiB. When they are taken, `onData` says so and the connection is paused, so
 * that a slow destination QEMU holds back the sender.
 */
export class StreamReceiver {
  readonly #options: ReceiverOptions;
  readonly #decoder: BodyDecoder;
  readonly #memory: Uint8Array;
  readonly #freeBodies: Uint8Array[];
  readonly #freeOutputs: number[];
  /** The slot that the body now arriving is put into. */
  #readingInto: Uint8Array | undefined;
  readonly #jobs: Job[] = [];
  #qemu: net.Socket | undefined;
  /** Raw offset of the next DATA message. */
  #expectedOffset = 0;
  #writtenBytes = 0;
  #endOffset: number | undefined;
  #returnBytes = 0;
  #lastWriteMs = 0;
  #ackedAtMs = 0;
  #ackTimer: NodeJS.Timeout | undefined;
  #isStopped = false;

  constructor(options: ReceiverOptions) {
    this.#options = options;
    const kernels = createKernels(OUTPUT_SLOTS * MAX_RAW_BYTES);
    this.#memory = kernels.bytes;
    this.#decoder = new BodyDecoder(kernels.writer);
    this.#freeBodies = Array.from({ length: BODY_SLOTS }, () => new Uint8Array(MAX_BODY_BYTES));
    this.#freeOutputs = Array.from({ length: OUTPUT_SLOTS }, (_, i) => kernels.base + i * MAX_RAW_BYTES);
  }

  /** Bytes that the destination QEMU's socket has taken. */
  get rawBytes(): number {
    return this.#writtenBytes;
  }
  get counts(): Readonly<DecodedCounts> {
    return this.#decoder.counts;
  }
  /** When the destination QEMU's socket took the last byte (performance.now). */
  get lastWriteMs(): number {
    return this.#lastWriteMs;
  }

  /**
   * Connects to the unix socket on which the destination QEMU listens.
   *
   * @throws GodwitError MIGRATION_DESTINATION_SOCKET
   */
  async connect(path: string): Promise<void> {
    const socket = net.connect({ path, allowHalfOpen: true });
    const broken = (cause: Error) =>
      new GodwitError(
        "MIGRATION_DESTINATION_SOCKET",
        `the destination QEMU's stream broke: ${cause.message}`,
        {},
        { cause },
      );
    await new Promise<void>((resolve, reject) => {
      socket.once("connect", resolve);
      socket.once("error", (cause) => reject(broken(cause)));
    });
    this.#qemu = socket;
    socket.on("error", (cause) => this.#fail(broken(cause)));
    socket.on("data", (bytes) => this.#onReturn(bytes));
    socket.on("end", () => {
      if (!this.#isStopped) this.#options.send({ type: "RETURN_END", returnBytes: this.#returnBytes });
    });
  }

  /** See MessageHandler.onData; there is no room before `connect`. @throws GodwitError PEER_BAD_OFFSET when it does not follow what came before. */
  onData(header: DataHeader): Uint8Array | null {
    if (header.rawOffset !== this.#expectedOffset || this.#endOffset !== undefined) {
      throw new GodwitError("PEER_BAD_OFFSET", "the peer sent data out of order", {
        rawOffset: header.rawOffset,
        expected: this.#expectedOffset,
      });
    }
    if (this.#qemu === undefined) return null;
    this.#readingInto ??= this.#freeBodies.pop();
    return this.#readingInto?.subarray(0, header.encodedBytes) ?? null;
  }

  /** See MessageHandler.onDataComplete. */
  onDataComplete(header: DataHeader, body: Uint8Array): void {
    const job: Job = { header, slot: this.#readingInto!, body: undefined };
    this.#readingInto = undefined;
    this.#expectedOffset += header.rawBytes;
    this.#jobs.push(job);
    this.#acknowledgeSoon();
    if (header.codec === "none") {
      job.body = body;
      this.#writeReadyJobs();
      return;
    }
    unpackBody(body, header.bodyBytes).then(
      (unpacked) => {
        job.body = unpacked;
        this.#writeReadyJobs();
      },
      (error) => this.#fail(error),
    );
  }

  /** The source QEMU closed its end after `rawBytes`. @throws GodwitError PEER_BAD_OFFSET */
  onEndOfStream(rawBytes: number): void {
    if (rawBytes !== this.#expectedOffset) {
      throw new GodwitError("PEER_BAD_OFFSET", "the peer ended the stream at another place than it sent", { rawBytes });
    }
    this.#endOffset = rawBytes;
    this.#endIfDone();
  }

  /** Ends everything; the destination QEMU sees its socket closed. */
  stop(): void {
    this.#isStopped = true;
    clearTimeout(this.#ackTimer);
    this.#qemu?.destroy();
  }

  #writeReadyJobs(): void {
    try {
      for (let job = this.#jobs[0]; job?.body !== undefined && !this.#isStopped; job = this.#jobs[0]) {
        const output = this.#freeOutputs.pop();
        if (output === undefined) return;
        this.#jobs.shift();
        this.#writeJob(job, job.body, output);
      }
    } catch (error) {
      this.#fail(error as GodwitError);
    }
  }

  #writeJob(job: Job, body: Uint8Array, output: number): void {
    const { tokenBytes, rawBytes } = job.header;
    const raw = this.#decoder.decode(body, tokenBytes, rawBytes, this.#memory, output);
    this.#qemu!.write(raw, (error) => {
      this.#freeBodies.push(job.slot);
      this.#freeOutputs.push(output);
      if (error || this.#isStopped) return;
      this.#writtenBytes += rawBytes;
      this.#lastWriteMs = performance.now();
      this.#acknowledgeSoon();
      this.#writeReadyJobs();
      this.#endIfDone();
      this.#options.onRoom();
    });
  }

  #endIfDone(): void {
    if (this.#writtenBytes !== this.#endOffset || this.#isStopped) return;
    this.#acknowledge();
    this.#qemu!.end();
  }

  #acknowledgeSoon(): void {
    if (this.#ackTimer !== undefined || this.#isStopped) return;
    const waitMs = this.#ackedAtMs + ACK_MS - performance.now();
    if (waitMs <= 0) this.#acknowledge();
    else this.#ackTimer = setTimeout(() => this.#acknowledge(), waitMs);
  }

  #acknowledge(): void {
    clearTimeout(this.#ackTimer);
    this.#ackTimer = undefined;
    this.#ackedAtMs = performance.now();
    this.#options.send({ type: "ACK", rawOffset: this.#writtenBytes, wireBytes: this.#options.wireBytes() });
  }

  #onReturn(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length && !this.#isStopped; at += MAX_RETURN_BYTES) {
      const part = bytes.subarray(at, at + MAX_RETURN_BYTES);
      this.#options.send({ type: "RETURN", returnOffset: this.#returnBytes, bytes: part });
      this.#returnBytes += part.length;
    }
  }

  #fail(error: GodwitError): void {
    if (this.#isStopped) return;
    this.stop();
    this.#options.onError(error);
  }
}
