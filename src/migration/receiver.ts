import type net from "node:net";
import type { DecodedCounts } from "../compact/decoder.ts";
import { GodwitError } from "../errors.ts";
import type { DataHeader, Message, RepairHeader } from "../wire/messages.ts";
import { Acknowledger } from "./acknowledger.ts";
import { BodySlots } from "./body-slots.ts";
import { connectToDestination } from "./destination-socket.ts";
import type { AgreedPlaces } from "./place-pages.ts";
import { Restorer } from "./restorer.ts";
import { ReturnPath } from "./return-path.ts";
import { type Job, Unpacker } from "./unpacker.ts";
import { WINDOW_BYTES } from "./window.ts";

/**
 * For bodies that come while a REPAIR is owed: they are of one window, and no body has more than twice its raw bytes (zero
 * pages far apart: 10 bytes of token for 9).
 */
const MAX_EXTRA_BYTES = 2 * WINDOW_BYTES;

export interface ReceiverOptions {
  /** See RestorerOptions. */
  cachePages?: number;
  /** Sends a message to the peer, if there is a connection. */
  send: (message: Message) => void;
  /** See Peer.ping. */
  ping: () => Promise<boolean>;
  /** There is room for DATA again, after `onData` returned null. */
  onRoom: () => void;
  onError: (error: GodwitError) => void;
  /** Bytes of messages received on the connection so far. */
  wireBytes: () => number;
  /** Threads that unpack, beside this one; default: defaultThreads(). */
  threads?: number;
  /** Something costs more than it might. */
  onWarning?: (message: string) => void;
}

/** A job that has an output. */
interface Restoring extends Job {
  readonly output: number;
  /** Its raw bytes, once they are complete; undefined where some of them will never come. */
  raw?: Uint8Array | undefined;
  isDone: boolean;
}

/**
 * DATA messages → unpack → restore → the destination QEMU's socket, and its return path back.
 *
 * Bounded: the room of BodySlots, the slots of Unpacker, the outputs of Restorer. When they are taken, `onData` says so and the connection is paused,
 * so that a slow destination QEMU or disk holds back the sender. Outputs are given out in the order of the stream, so that the
 * next bytes to be written always have one.
 */
export class StreamReceiver {
  readonly #options: ReceiverOptions;
  readonly #restorer: Restorer;
  readonly #slots = new BodySlots(MAX_EXTRA_BYTES);
  readonly #unpacker: Unpacker;
  readonly #acknowledger: Acknowledger;
  /** The slot that the body now arriving is put into. */
  #readingInto: Uint8Array | undefined;
  /** In order: those that wait for an output, and before them those that have one and are not written. */
  readonly #waiting: Job[] = [];
  readonly #restoring: Restoring[] = [];
  /** Those that the destination QEMU has not taken. */
  #writing = 0;
  #qemu: net.Socket | undefined;
  /** Raw offset of the next DATA message. */
  #expectedOffset = 0;
  #writtenBytes = 0;
  #endOffset: number | undefined;
  /** Between two connections: resolves when all that has arrived is written, or given up. */
  #settled: PromiseWithResolvers<number> | undefined;
  /** A body of the lost connection will never be complete, so those behind it are of no use. */
  #isGivingUp = false;
  readonly #returnPath: ReturnPath;
  /** Bodies that have arrived and are not written, as they stood on the wire: to the sender they are still in flight. */
  #queuedBytes = 0;
  #lastWriteMs = 0;
  #isStopped = false;

  constructor(options: ReceiverOptions) {
    this.#options = options;
    const { cachePages = 0, send, onRoom, threads, onWarning = () => {}, wireBytes } = options;
    this.#restorer = new Restorer({ cachePages, send, onOwed: onRoom, onWarning });
    const onUnpacked = () => this.#advance();
    this.#unpacker = new Unpacker({ threads, onWarning, onUnpacked, onError: (error) => this.#fail(error) });
    this.#acknowledger = new Acknowledger({
      send: (message) => this.#send(message),
      rawBytes: () => this.#writtenBytes,
      queuedBytes: () => this.#queuedBytes,
      wireBytes,
    });
    this.#returnPath = new ReturnPath({
      send: (message) => this.#send(message),
      ping: options.ping,
      onRoom: (hasRoom) => (hasRoom ? this.#qemu?.resume() : this.#qemu?.pause()),
    });
  }

  /** Bytes that the destination QEMU's socket has taken. */
  get rawBytes(): number {
    return this.#writtenBytes;
  }
  get counts(): Readonly<DecodedCounts> {
    return this.#restorer.counts;
  }
  /** Pages of disks and checkpoints that were asked for again. */
  get nackedPages(): number {
    return this.#restorer.nackedPages;
  }
  /** CPU time that unpacking has taken. */
  get unpackMs(): number {
    return this.#unpacker.cpuMs;
  }
  /** When the destination QEMU's socket took the last byte (performance.now). */
  get lastWriteMs(): number {
    return this.#lastWriteMs;
  }

  /** See Restorer.usePlaces. */
  usePlaces(places: AgreedPlaces, tagKey: Uint8Array, onWarning: (message: string) => void): void {
    this.#restorer.usePlaces(places, tagKey, onWarning);
  }

  /** See Restorer.cachePages. */
  get cachePages(): number {
    return this.#restorer.cachePages;
  }

  /** See Restorer.useCache. */
  useCache(slots: number): void {
    this.#restorer.useCache(slots);
  }

  /**
   * Connects to the unix socket on which the destination QEMU listens.
   *
   * @throws GodwitError MIGRATION_DESTINATION_SOCKET
   */
  async connect(path: string): Promise<void> {
    const socket = await connectToDestination(path, (error) => this.#fail(error));
    this.#qemu = socket;
    socket.on("data", (bytes) => this.#returnPath.write(bytes));
    socket.on("end", () => this.#returnPath.end());
  }

  /**
   * See MessageHandler.onData; there is no room before `connect`.
   *
   * @throws GodwitError PEER_BAD_OFFSET when it does not follow what came before; PEER_WINDOW when it is too much
   */
  onData(header: DataHeader): Uint8Array | null {
    const { rawOffset, rawBytes, encodedBytes } = header;
    if (rawOffset !== this.#expectedOffset || this.#endOffset !== undefined) {
      throw new GodwitError("PEER_BAD_OFFSET", "the peer sent data out of order", {
        rawOffset,
        expected: this.#expectedOffset,
      });
    }
    if (rawOffset + rawBytes > this.#acknowledger.rawBytes + WINDOW_BYTES) {
      throw new GodwitError("PEER_WINDOW", "the peer sent more than it may", { rawOffset, rawBytes });
    }
    if (this.#qemu === undefined) return null;
    this.#readingInto = this.#slots.take(header, this.#restorer.isOwed);
    return this.#readingInto?.subarray(0, encodedBytes) ?? null;
  }

  /** See MessageHandler.onDataComplete. */
  onDataComplete(header: DataHeader, body: Uint8Array): void {
    const job: Job = { header, slot: this.#readingInto! };
    this.#readingInto = undefined;
    this.#queuedBytes += header.encodedBytes;
    this.#expectedOffset += header.rawBytes;
    this.#waiting.push(job);
    this.#acknowledgeSoon();
    this.#unpacker.add(job, body);
  }

  /** See MessageHandler.onRepair. @throws GodwitError PEER_BAD_REPAIR */
  onRepair(header: RepairHeader): Uint8Array {
    return this.#restorer.onRepair(header);
  }

  /** See MessageHandler.onRepairComplete. */
  onRepairComplete(): void {
    this.#restorer.onRepairComplete();
  }

  /** The source QEMU closed its end after `rawBytes`. @throws GodwitError PEER_BAD_OFFSET */
  onEndOfStream(rawBytes: number): void {
    if (rawBytes !== this.#expectedOffset) {
      throw new GodwitError("PEER_BAD_OFFSET", "the peer ended the stream at another place than it sent", { rawBytes });
    }
    this.#endOffset = rawBytes;
    this.#endIfDone();
  }

  /**
   * The connection is gone, and nothing of it is handed over any more. Writes what has arrived whole, up to the first body for which
   * the peer was to be asked; may be called again meanwhile. Resolves when the destination QEMU has taken it, with its raw offset.
   */
  detach(): Promise<number> {
    if (this.#settled === undefined) {
      this.#settled = Promise.withResolvers();
      if (this.#readingInto !== undefined) this.#slots.release(this.#readingInto);
      this.#readingInto = undefined;
      this.#restorer.detach();
      this.#settleIfDone();
    }
    return this.#settled.promise;
  }

  /**
   * There is a new connection, whose DATA begin where `detach` said.
   *
   * @param returnOffset how much of the return path the source QEMU was given
   * @throws GodwitError PEER_BAD_OFFSET when what follows that is not kept any more
   */
  attach(returnOffset: number): void {
    this.#settled = undefined;
    this.#isGivingUp = false;
    this.#restorer.attach();
    this.#expectedOffset = this.#writtenBytes;
    this.#acknowledger.restart();
    this.#endOffset = undefined; // the peer says it again
    if (this.#returnPath.resume(returnOffset)) return;
    throw new GodwitError("PEER_BAD_OFFSET", "the peer lacks more of the return path than is kept", { returnOffset });
  }

  #settleIfDone(): void {
    if (this.#waiting.length + this.#restoring.length + this.#writing === 0) this.#settled?.resolve(this.#writtenBytes);
  }

  /** Ends everything; the destination QEMU sees its socket closed. */
  stop(): void {
    this.#isStopped = true;
    this.#restorer.stop();
    this.#unpacker.stop();
    this.#acknowledger.stop();
    this.#qemu?.destroy();
  }

  /** Restores what has arrived, as far as there are outputs, and writes what is complete. */
  #advance(): void {
    try {
      for (let job = this.#waiting[0]; job?.body !== undefined && !this.#isStopped; job = this.#waiting[0]) {
        const output = this.#isGivingUp ? undefined : this.#restorer.takeOutput();
        if (output === undefined && !this.#isGivingUp) return;
        this.#waiting.shift();
        if (output === undefined) this.#release(job);
        else this.#restore({ ...job, output, isDone: false }, job.body);
      }
      this.#settleIfDone();
    } catch (error) {
      this.#fail(error as GodwitError);
    }
  }

  #restore(job: Restoring, body: Uint8Array): void {
    this.#restoring.push(job);
    const complete = (raw: Uint8Array | undefined): void => {
      job.raw = raw;
      job.isDone = true;
      this.#writeComplete();
    };
    const raw = this.#restorer.restore(job.header, body, job.output);
    if (raw instanceof Promise) raw.then(complete).catch((error) => this.#fail(error));
    else complete(raw);
  }

  #writeComplete(): void {
    for (let job = this.#restoring[0]; job?.isDone && !this.#isStopped; job = this.#restoring[0]) {
      this.#restoring.shift();
      if (job.raw === undefined) this.#giveUp();
      if (job.raw === undefined || this.#isGivingUp) this.#release(job);
      else this.#write(job, job.raw);
    }
    if (this.#isGivingUp) this.#advance();
  }

  /** The next body will never be complete: it goes, and all behind it as soon as nobody works on them. */
  #giveUp(): void {
    this.#isGivingUp = true;
    this.#unpacker.giveUp();
  }

  #write(job: Restoring, raw: Uint8Array): void {
    this.#writing++;
    this.#qemu!.write(raw, (error) => {
      this.#writing--;
      if (!error && !this.#isStopped) {
        this.#writtenBytes += job.header.rawBytes;
        this.#lastWriteMs = performance.now();
        this.#acknowledgeSoon();
      }
      this.#release(job);
      if (error || this.#isStopped) return;
      this.#unpacker.next();
      this.#advance();
      this.#endIfDone();
      this.#options.onRoom();
    });
  }

  /** The job is done with, written or not: what it took is there for the next ones. */
  #release(job: Job): void {
    this.#queuedBytes -= job.header.encodedBytes;
    this.#slots.release(job.slot);
    this.#unpacker.release(job);
    if (job.output !== undefined) this.#restorer.releaseOutput(job.output);
  }

  #endIfDone(): void {
    if (this.#writtenBytes !== this.#endOffset || this.#isStopped) return;
    this.#acknowledger.now();
    this.#qemu!.end();
  }

  #acknowledgeSoon(): void {
    if (!this.#isStopped && this.#settled === undefined) this.#acknowledger.soon();
  }

  #send(message: Message): void {
    if (!this.#isStopped && this.#settled === undefined) this.#options.send(message);
  }

  #fail(error: GodwitError): void {
    if (this.#isStopped) return;
    this.stop();
    this.#options.onError(error);
  }
}
