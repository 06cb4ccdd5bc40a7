/** Reads a disk from an NBD server on a unix socket: the source's own QEMU, or a qemu-nbd that godwit started. */

import { connect, type Socket } from "node:net";
import { GodwitError } from "../errors.ts";
import { StepFeeder } from "./nbd-feeder.ts";
import { handshake, type Negotiated } from "./nbd-handshake.ts";
import {
  type BlockExtent,
  COMMAND_BLOCK_STATUS,
  COMMAND_DISCONNECT,
  COMMAND_READ,
  type Pending,
  replies,
  request,
} from "./nbd-requests.ts";
import type { Steps } from "./nbd-steps.ts";
import { seconds } from "./qmp-errors.ts";

export type { BlockExtent } from "./nbd-requests.ts";

/** Whether ranges are allocated, and whether they read as zeros. */
export const ALLOCATION_CONTEXT = "base:allocation";

/** What a dirty bitmap that is exported with the disk has marked. */
export function bitmapContext(bitmap: string): string {
  return `qemu:dirty-bitmap:${bitmap}`;
}

const CONNECT_TIMEOUT_MS = 5_000;
/** Storage that does not answer for so long is given up: what it would have saved is sent instead. */
const STALL_TIMEOUT_MS = 30_000;
/** QEMU keeps a buffer for each request; larger reads are cut, and the parts are in flight at once. */
const MAX_READ_BYTES = 2 ** 20;
/** The length of a request is a 32-bit number; a whole number of any block size. */
const MAX_STATUS_BYTES = 2 ** 30;
const STATE_ZERO = 2; // NBD_STATE_ZERO
const STATE_DIRTY = 1; // docs/interop/nbd.txt of QEMU

export interface DiskRange {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

export interface NbdOptions {
  /** Default: the server's default export. */
  readonly exportName?: string;
  /** Metadata contexts to ask for, as {@link ALLOCATION_CONTEXT} or a {@link bitmapContext}. */
  readonly contexts?: readonly string[];
  /** For connecting and haggling; default 5000. */
  readonly timeoutMs?: number;
}

/** A connection to one export. Any number of requests may be in flight. */
export class NbdClient implements AsyncDisposable {
  readonly path: string;
  /** Settles when the connection is gone: with undefined after `close()`, with the reason otherwise. */
  readonly closed: Promise<GodwitError | undefined>;

  readonly #socket: Socket;
  readonly #ready = Promise.withResolvers<void>();
  readonly #closing = Promise.withResolvers<GodwitError | undefined>();
  readonly #pending: Pending = new Map();
  readonly #feeder: StepFeeder;
  #negotiated: Negotiated | undefined;
  #nextCookie = 1;
  #outgoing: Buffer[] = [];
  #stallTimer: NodeJS.Timeout | undefined;
  #ended: GodwitError | undefined;

  private constructor(path: string, exportName: string, contexts: readonly string[]) {
    this.path = path;
    this.closed = this.#closing.promise;
    this.#ready.promise.catch(() => {});
    this.#feeder = new StepFeeder(this.#protocol(exportName, contexts));
    this.#socket = connect({
      path,
      onread: { buffer: () => this.#feeder.nextBuffer(), callback: (count) => this.#onRead(count) },
    });
    this.#socket.on("error", (cause) => this.#end(closedError(path, cause.message, cause)));
    this.#socket.on("end", () => this.#end(closedError(path, "the server ended it")));
    this.#socket.on("close", () => {
      this.#end(closedError(path, "the server ended it"));
      this.#closing.resolve(this.#ended?.details.byUs ? undefined : this.#ended);
    });
  }

  /**
   * Connects to the server at `path` and chooses an export.
   *
   * @throws QMP_NBD_CLOSED: nobody listens there, or the server hung up
   * @throws QMP_NBD_REFUSED: there is no such export
   * @throws QMP_NBD_PROTOCOL: what answers breaks the rules of NBD
   * @throws QMP_NBD_TIMEOUT
   */
  static async connect(path: string, options: NbdOptions = {}): Promise<NbdClient> {
    const { exportName = "", contexts = [], timeoutMs = CONNECT_TIMEOUT_MS } = options;
    const client = new NbdClient(path, exportName, contexts);
    const timer = setTimeout(() => client.#end(timeoutError(path, timeoutMs)), timeoutMs);
    try {
      await client.#ready.promise;
      return client;
    } finally {
      clearTimeout(timer);
    }
  }

  /** The size of the disk. */
  get sizeBytes(): number {
    return this.#negotiated!.sizeBytes;
  }

  /** Those of the contexts asked for that the server has. */
  get contexts(): string[] {
    return [...this.#negotiated!.contexts.values()];
  }

  /**
   * Fills `target`, which may be a view of shared memory, with the disk's content from `offsetBytes` on. The target belongs
   * to the client until the promise has settled; after a rejection its content is undefined.
   *
   * @throws QMP_NBD_FAILED: the server could not read, or the range is not on the disk
   * @throws QMP_NBD_CLOSED, QMP_NBD_PROTOCOL, QMP_NBD_TIMEOUT: the connection is gone
   */
  async read(offsetBytes: number, target: Uint8Array): Promise<void> {
    this.#checkRange(offsetBytes, target.length);
    if (target.length <= MAX_READ_BYTES) return this.#readPart(offsetBytes, target);
    const parts: Promise<void>[] = [];
    for (let at = 0; at < target.length; at += MAX_READ_BYTES) {
      parts.push(this.#readPart(offsetBytes + at, target.subarray(at, at + MAX_READ_BYTES)));
    }
    const failure = (await Promise.allSettled(parts)).find((part) => part.status === "rejected");
    if (failure) throw failure.reason;
  }

  /**
   * What the contexts say of a range, or of its beginning if the server tells no more at once; each may tell of another
   * length. A QEMU that has handed its VM over still lets its disks be read, but since 10.0 no longer asked for this.
   *
   * @throws as `read`
   */
  async blockStatus(offsetBytes: number, lengthBytes: number): Promise<ReadonlyMap<string, readonly BlockExtent[]>> {
    this.#checkRange(offsetBytes, lengthBytes);
    const status = { offsetBytes, lengthBytes: Math.min(lengthBytes, MAX_STATUS_BYTES), extents: new Map() };
    await new Promise<void>((resolve, reject) => {
      const cookie = this.#register({ ...status, resolve, reject });
      if (cookie) this.#send(request(COMMAND_BLOCK_STATUS, cookie, offsetBytes, status.lengthBytes));
    });
    return status.extents;
  }

  /** The extents of one context over the whole disk, in order. */
  async *extents(context: string): AsyncGenerator<BlockExtent> {
    for (let offsetBytes = 0; offsetBytes < this.sizeBytes; ) {
      const extents = (await this.blockStatus(offsetBytes, this.sizeBytes - offsetBytes)).get(context);
      if (!extents?.length) throw this.#named(new GodwitError("QMP_NBD_FAILED", `no block status of ${context}`));
      yield* extents;
      const last = extents.at(-1)!;
      offsetBytes = last.offsetBytes + last.lengthBytes;
    }
  }

  /** The ranges that may hold anything but zeros, in order; all of the disk if the server can't tell. */
  allocatedExtents(): AsyncGenerator<DiskRange> {
    return this.#ranges(ALLOCATION_CONTEXT, (flags) => !(flags & STATE_ZERO));
  }

  /** The ranges that a {@link bitmapContext} has marked, in order; all of the disk if the server can't tell. */
  dirtyExtents(context: string): AsyncGenerator<DiskRange> {
    return this.#ranges(context, (flags) => (flags & STATE_DIRTY) !== 0);
  }

  /** Ends the connection; requests in flight reject with QMP_NBD_CLOSED. May be called more than once. */
  close(): void {
    if (!this.#ended && this.#negotiated) this.#outgoing.push(request(COMMAND_DISCONNECT, 0, 0, 0));
    this.#end(new GodwitError("QMP_NBD_CLOSED", `the NBD connection to ${this.path} was closed`, { byUs: true }));
  }

  /** Ends the connection and waits until it is gone. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
    await this.closed;
  }

  *#protocol(exportName: string, contexts: readonly string[]): Steps<never> {
    this.#negotiated = yield* handshake(exportName, contexts, (bytes) => this.#socket.write(bytes));
    this.#ready.resolve();
    return yield* replies(this.#pending, this.#negotiated);
  }

  async *#ranges(context: string, isWanted: (flags: number) => boolean): AsyncGenerator<DiskRange> {
    if (!this.contexts.includes(context)) {
      yield { offsetBytes: 0, lengthBytes: this.sizeBytes };
      return;
    }
    let current: { offsetBytes: number; lengthBytes: number } | undefined;
    for await (const { offsetBytes, lengthBytes, flags } of this.extents(context)) {
      if (!isWanted(flags)) continue;
      if (current && current.offsetBytes + current.lengthBytes === offsetBytes) {
        current.lengthBytes += lengthBytes;
        continue;
      }
      if (current) yield current;
      current = { offsetBytes, lengthBytes };
    }
    if (current) yield current;
  }

  #checkRange(offsetBytes: number, lengthBytes: number): void {
    if (offsetBytes >= 0 && lengthBytes >= 0 && offsetBytes + lengthBytes <= this.sizeBytes) return;
    const text = `the range ${offsetBytes}+${lengthBytes} is not on the disk of ${this.sizeBytes} bytes`;
    throw this.#named(new GodwitError("QMP_NBD_FAILED", text, { offsetBytes, lengthBytes }));
  }

  #readPart(offsetBytes: number, target: Uint8Array): Promise<void> {
    if (target.length === 0) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const cookie = this.#register({ offsetBytes, target, missingBytes: target.length, resolve, reject });
      const { readFlags } = this.#negotiated!;
      if (cookie) this.#send(request(COMMAND_READ, cookie, offsetBytes, target.length, readFlags));
    });
  }

  /** Puts a request among those in flight; returns its cookie, or 0 if the connection is gone. */
  #register(entry: Parameters<Pending["set"]>[1]): number {
    if (this.#ended) {
      entry.reject(this.#ended);
      return 0;
    }
    const cookie = this.#nextCookie;
    this.#nextCookie = (cookie % 0xffffffff) + 1;
    this.#pending.set(cookie, entry);
    const stalled = () => this.#end(timeoutError(this.path, STALL_TIMEOUT_MS));
    this.#stallTimer ??= setTimeout(stalled, STALL_TIMEOUT_MS);
    return cookie;
  }

  /** Requests of one turn of the event loop leave in one write. */
  #send(bytes: Buffer): void {
    if (this.#outgoing.push(bytes) === 1) process.nextTick(() => this.#flush());
  }

  #flush(): void {
    if (this.#outgoing.length > 0 && this.#socket.writable) this.#socket.write(Buffer.concat(this.#outgoing));
    this.#outgoing = [];
  }

  #onRead(count: number): boolean {
    if (this.#ended) return false;
    try {
      this.#feeder.onRead(count);
    } catch (error) {
      this.#end(this.#named(error as GodwitError));
      return false;
    }
    if (this.#pending.size > 0) {
      this.#stallTimer?.refresh();
    } else {
      clearTimeout(this.#stallTimer);
      this.#stallTimer = undefined;
    }
    return true;
  }

  #end(reason: GodwitError): void {
    if (this.#ended) return;
    this.#ended = reason;
    clearTimeout(this.#stallTimer);
    // What was just flushed is in the server's socket already, unless that is full.
    this.#flush();
    this.#socket.destroy();
    this.#ready.reject(reason);
    for (const { reject } of this.#pending.values()) reject(reason);
    this.#pending.clear();
  }

  #named(error: GodwitError): GodwitError {
    return new GodwitError(error.code, `${error.message} (NBD at ${this.path})`, { ...error.details, path: this.path });
  }
}

function closedError(path: string, why: string, cause?: unknown): GodwitError {
  return new GodwitError("QMP_NBD_CLOSED", `no NBD connection to ${path}: ${why}`, { path }, cause ? { cause } : {});
}

function timeoutError(path: string, timeoutMs: number): GodwitError {
  const text = `the NBD server at ${path} did not answer within ${seconds(timeoutMs)}`;
  return new GodwitError("QMP_NBD_TIMEOUT", text, { path, timeoutMs });
}
