/**
 * The QMP client: one JSON object a line over QEMU's unix socket (QEMU: docs/interop/qmp-spec.rst).
 *
 * Each command carries an id, so any number may be in flight at once; answers and events come mixed. What QEMU returns
 * is taken to have the shape that its schema declares.
 */

import { connect, type Socket } from "node:net";
import { type ErrorCode, GodwitError } from "../errors.ts";
import {
  type ExecuteParameters,
  isQmpEventName,
  type QmpCommandName,
  type QmpCommands,
  type QmpEvent,
  type QmpEventName,
  type QmpEventOf,
} from "./commands.ts";
import { LineSplitter } from "./lines.ts";
import { connectError, notQmpError, seconds, withoutGreetingError } from "./qmp-errors.ts";

/** Far above any answer of QEMU: it bounds what a peer that is no QEMU can make us keep. */
const MAX_LINE_BYTES = 64 * 1024 * 1024;
const CONNECT_TIMEOUT_MS = 5_000;
/** QEMU answers from its main loop, which stands still while it saves or loads devices at switchover. */
const COMMAND_TIMEOUT_MS = 30_000;
const OPENING_BRACE = 0x7b;

export interface ConnectOptions {
  readonly timeoutMs?: number | undefined;
}

export interface ExecuteOptions {
  readonly timeoutMs?: number | undefined;
}

export interface WaitOptions {
  /** No limit if absent. */
  readonly timeoutMs?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

type JsonObject = Record<string, unknown>;

interface PendingCommand {
  readonly command: string;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: GodwitError) => void;
  readonly timer: NodeJS.Timeout;
}

/** A connection to the QMP monitor of one QEMU. */
export class QmpClient {
  readonly path: string;
  /** Settles once, when the connection is gone: with undefined after `close()`, with the reason otherwise. */
  readonly closed: Promise<GodwitError | undefined>;

  readonly #socket: Socket;
  readonly #lines = new LineSplitter(MAX_LINE_BYTES);
  readonly #greeting = Promise.withResolvers<void>();
  readonly #closing = Promise.withResolvers<GodwitError | undefined>();
  readonly #pending = new Map<number, PendingCommand>();
  readonly #listeners = new Set<(event: QmpEvent) => void>();
  readonly #waits = new Set<(error: GodwitError) => void>();
  #receivedBytes = 0;
  #greeted = false;
  #nextId = 1;
  #ended: GodwitError | undefined;

  private constructor(path: string, socket: Socket) {
    this.path = path;
    this.closed = this.#closing.promise;
    this.#socket = socket;
    this.#greeting.promise.catch(() => {});
    socket.on("data", (chunk) => this.#onData(chunk));
    socket.on("error", (cause) => this.#end(this.#error("QMP_CLOSED", "lost the QMP connection to QEMU", {}, cause)));
    socket.on("close", () => this.#end(this.#error("QMP_CLOSED", "QEMU closed the QMP connection")));
  }

  /**
   * Connects to the QMP socket at `path`; `timeoutMs` (default 5000) covers connecting and the greeting.
   *
   * @throws QMP_NO_SOCKET, QMP_REFUSED, QMP_PERMISSION: nothing to talk to
   * @throws QMP_BUSY: no greeting in time, since a monitor serves one client at a time
   * @throws QMP_NOT_QMP: something else answered
   * @throws QMP_CLOSED: the connection ended before the greeting
   */
  static async connect(path: string, options: ConnectOptions = {}): Promise<QmpClient> {
    const timeoutMs = options.timeoutMs ?? CONNECT_TIMEOUT_MS;
    const deadlineMs = performance.now() + timeoutMs;
    const client = new QmpClient(path, await openSocket(path));
    const timer = setTimeout(
      () => client.#end(withoutGreetingError(path, timeoutMs, client.#receivedBytes)),
      timeoutMs,
    );
    try {
      await client.#greeting.promise;
      clearTimeout(timer);
      await client.execute("qmp_capabilities", undefined, { timeoutMs: deadlineMs - performance.now() });
      return client;
    } catch (error) {
      client.close();
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * Runs a command; `timeoutMs` defaults to 30000.
   *
   * @throws QMP_COMMAND_FAILED: QEMU refused it; `details` holds QEMU's `class` and `desc`
   * @throws QMP_TIMEOUT: no answer in time; QEMU may still carry it out
   * @throws QMP_CLOSED: the connection went away, before or while QEMU had the command
   */
  execute<N extends QmpCommandName>(
    command: N,
    ...[args, options]: ExecuteParameters<N, ExecuteOptions>
  ): Promise<QmpCommands[N]["returns"]> {
    return this.executeAny(command, args, options) as Promise<QmpCommands[N]["returns"]>;
  }

  /** Runs a command that has no types here; see `execute`. */
  executeAny(command: string, args?: object, options: ExecuteOptions = {}): Promise<unknown> {
    if (this.#ended) return Promise.reject(this.#closedBefore(`${command} was answered`, { command }, this.#ended));
    const timeoutMs = options.timeoutMs ?? COMMAND_TIMEOUT_MS;
    const id = this.#nextId++;
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    const timer = setTimeout(() => {
      this.#pending.delete(id);
      const message = `QEMU did not answer ${command} within ${seconds(timeoutMs)}`;
      reject(this.#error("QMP_TIMEOUT", message, { command, timeoutMs }));
    }, timeoutMs);
    this.#pending.set(id, { command, resolve, reject, timer });
    this.#socket.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
    return promise;
  }

  /** Calls `listener` for every event from now on; returns the function that ends this. */
  onEvent(listener: (event: QmpEvent) => void): () => void {
    const entry = (event: QmpEvent) => listener(event);
    this.#listeners.add(entry);
    return () => this.#listeners.delete(entry);
  }

  /**
   * The next event of this name for which `predicate` holds. Ask before the command that causes it: earlier events are
   * not kept. The promise may be left alone if that command fails.
   *
   * @throws QMP_TIMEOUT, QMP_CLOSED, or the signal's reason
   */
  waitForEvent<N extends QmpEventName>(
    name: N,
    predicate: (event: QmpEventOf<N>) => boolean = () => true,
    { timeoutMs, signal }: WaitOptions = {},
  ): Promise<QmpEventOf<N>> {
    const { promise, resolve, reject } = Promise.withResolvers<QmpEventOf<N>>();
    promise.catch(() => {});
    const onAbort = () => fail(signal?.reason);
    const onTimeout = () => {
      const message = `no ${name} event came within ${seconds(timeoutMs!)}`;
      fail(this.#error("QMP_TIMEOUT", message, { event: name, timeoutMs }));
    };
    const onEnd = (error: GodwitError) => fail(this.#closedBefore(`${name} came`, { event: name }, error));
    const unsubscribe = this.onEvent((event) => {
      const match = event as QmpEventOf<N>;
      if (event.name !== name || !predicate(match)) return;
      cleanUp();
      resolve(match);
    });
    const timer = timeoutMs === undefined ? undefined : setTimeout(onTimeout, timeoutMs);
    const cleanUp = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
      this.#waits.delete(onEnd);
      unsubscribe();
    };
    const fail = (reason: unknown) => {
      cleanUp();
      reject(reason);
    };
    signal?.addEventListener("abort", onAbort);
    this.#waits.add(onEnd);
    if (this.#ended) onEnd(this.#ended);
    else if (signal?.aborted) onAbort();
    return promise;
  }

  /** Ends the connection; commands in flight reject with QMP_CLOSED. May be called more than once. */
  close(): void {
    this.#end(undefined);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #onData(chunk: Uint8Array): void {
    const receivedMs = performance.now();
    if (this.#receivedBytes === 0 && chunk[0] !== OPENING_BRACE) {
      this.#end(notQmpError(this.path, chunk));
      return;
    }
    this.#receivedBytes += chunk.length;
    let lines: string[];
    try {
      lines = this.#lines.push(chunk);
    } catch (cause) {
      this.#end(this.#error("QMP_NOT_QMP", "the QMP peer sent a line that is too long", {}, cause));
      return;
    }
    for (const line of lines) {
      this.#onLine(line, receivedMs);
      if (this.#ended) return;
    }
  }

  #onLine(line: string, receivedMs: number): void {
    const message = parseObject(line);
    if (!this.#greeted) {
      if (isGreeting(message)) {
        this.#greeted = true;
        this.#greeting.resolve();
      } else {
        this.#end(notQmpError(this.path, Buffer.from(line)));
      }
    } else if (typeof message?.event === "string" && isObject(message.timestamp)) {
      this.#deliver(message.event, message, receivedMs);
    } else if (message && typeof message.id === "number") {
      this.#settle(message.id, message);
    } else {
      this.#end(this.#error("QMP_NOT_QMP", "the QMP peer sent a line that is no QMP", { line: line.slice(0, 200) }));
    }
  }

  #deliver(name: string, message: JsonObject, receivedMs: number): void {
    if (!isQmpEventName(name)) return;
    const { seconds: s, microseconds } = message.timestamp as { seconds: number; microseconds: number };
    const timestampMs = s * 1000 + microseconds / 1000;
    const event = { name, data: message.data ?? {}, timestampMs, receivedMs } as QmpEvent;
    // A copy, since listeners come and go: one that is added now must not hear this event, one that left neither.
    for (const listener of [...this.#listeners]) {
      if (this.#listeners.has(listener)) listener(event);
    }
  }

  #settle(id: number, message: JsonObject): void {
    const pending = this.#pending.get(id);
    if (!pending) return; // It timed out.
    this.#pending.delete(id);
    clearTimeout(pending.timer);
    if (!message.error) {
      pending.resolve(message.return);
      return;
    }
    const { class: errorClass, desc } = message.error as { class: string; desc: string };
    const { command } = pending;
    const text = `QEMU refused ${command}: ${desc}`;
    pending.reject(new GodwitError("QMP_COMMAND_FAILED", text, { path: this.path, command, class: errorClass, desc }));
  }

  #end(error: GodwitError | undefined): void {
    if (this.#ended) return;
    const reason = error ?? this.#error("QMP_CLOSED", "the QMP connection was closed");
    this.#ended = reason;
    this.#socket.destroy();
    this.#greeting.reject(reason);
    for (const { command, reject, timer } of this.#pending.values()) {
      clearTimeout(timer);
      reject(this.#closedBefore(`${command} was answered`, { command }, reason));
    }
    this.#pending.clear();
    for (const fail of [...this.#waits]) fail(reason);
    this.#listeners.clear();
    this.#closing.resolve(error);
  }

  #closedBefore(what: string, details: Record<string, unknown>, cause: GodwitError): GodwitError {
    if (!this.#greeted || cause.code !== "QMP_CLOSED") return cause;
    return new GodwitError(
      "QMP_CLOSED",
      `${cause.message} before ${what}`,
      { ...cause.details, ...details },
      { cause },
    );
  }

  #error(code: ErrorCode, message: string, details: Record<string, unknown> = {}, cause?: unknown): GodwitError {
    return new GodwitError(code, `${message} at ${this.path}`, { path: this.path, ...details }, cause ? { cause } : {});
  }
}

async function openSocket(path: string): Promise<Socket> {
  const { promise, resolve, reject } = Promise.withResolvers<Socket>();
  // Node would take it for a port.
  if (path === "") throw new GodwitError("QMP_NO_SOCKET", "the path of the QMP socket is empty", { path });
  const socket = connect({ path });
  const onError = (cause: NodeJS.ErrnoException) => reject(connectError(path, cause));
  socket.once("error", onError);
  socket.once("connect", () => {
    socket.off("error", onError);
    resolve(socket);
  });
  return promise;
}

function parseObject(line: string): JsonObject | undefined {
  try {
    const value: unknown = JSON.parse(line);
    return isObject(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null;
}

function isGreeting(message: JsonObject | undefined): boolean {
  return isObject(message?.QMP) && isObject(message.QMP.version);
}
