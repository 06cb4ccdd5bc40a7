/** A small QMP server over a unix socket in a folder of its own, for tests of the client and of what stands on it. */

import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

export const GREETING = {
  QMP: { version: { qemu: { major: 7, minor: 2, micro: 22 }, package: "fake" }, capabilities: ["oob"] },
};

export interface FakeRequest {
  readonly execute: string;
  readonly arguments?: Record<string, unknown>;
  readonly id: number;
}

/** What a handler returns is the answer; throwing `refuse(...)` makes it an error; NO_ANSWER sends nothing. */
export type FakeHandler = (request: FakeRequest, server: FakeQmp) => unknown;

export const NO_ANSWER = Symbol("no answer");

/** The error that QEMU would answer with. */
export function refuse(errorClass: string, desc: string): Error {
  return Object.assign(new Error(desc), { answer: { class: errorClass, desc } });
}

export interface FakeOptions {
  /** Answers by command; `qmp_capabilities` is answered by itself. Plain values are returned as they are. */
  readonly commands?: Record<string, unknown>;
  /** Sent on connecting, instead of QMP's greeting; null: nothing. */
  readonly greeting?: string | null;
  /** Bytes in each write. */
  readonly chunkBytes?: number;
}

export class FakeQmp implements AsyncDisposable {
  readonly path: string;
  readonly requests: FakeRequest[] = [];
  readonly #folder: string;
  readonly #options: FakeOptions;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor(folder: string, options: FakeOptions) {
    this.#folder = folder;
    this.path = join(folder, "qmp");
    this.#options = options;
    this.#server = createServer((socket) => this.#serve(socket));
  }

  static async start(options: FakeOptions = {}): Promise<FakeQmp> {
    const fake = new FakeQmp(await mkdtemp(join(tmpdir(), "godwit-fake-qmp-")), options);
    await new Promise<void>((resolve, reject) => {
      fake.#server.once("error", reject);
      fake.#server.listen(fake.path, resolve);
    });
    return fake;
  }

  /** Sends an event to every client. */
  event(name: string, data: object = {}, timestamp = { seconds: 1_700_000_000, microseconds: 123_456 }): void {
    this.send({ event: name, data, timestamp });
  }

  /** Sends one line, as an object or as it stands. */
  send(message: object | string): void {
    const text = typeof message === "string" ? message : `${JSON.stringify(message)}\r\n`;
    for (const socket of this.#sockets) this.#write(socket, Buffer.from(text));
  }

  /** Ends the connections: QEMU is gone. */
  drop(): void {
    for (const socket of this.#sockets) socket.end();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
    await rm(this.#folder, { recursive: true, force: true });
  }

  #serve(socket: Socket): void {
    this.#sockets.add(socket);
    socket.on("close", () => this.#sockets.delete(socket));
    socket.on("error", () => {});
    socket.setEncoding("utf8");
    const { greeting = `${JSON.stringify(GREETING)}\r\n` } = this.#options;
    if (greeting !== null) this.#write(socket, Buffer.from(greeting));
    let text = "";
    socket.on("data", (chunk) => {
      const lines = (text + chunk).split("\n");
      text = lines.pop() ?? "";
      for (const line of lines) this.#answer(JSON.parse(line));
    });
  }

  #answer(request: FakeRequest): void {
    this.requests.push(request);
    const commands: Record<string, unknown> = { qmp_capabilities: {}, ...this.#options.commands };
    const { id, execute } = request;
    try {
      if (!(execute in commands)) throw refuse("CommandNotFound", `The command ${execute} has not been found`);
      const command = commands[execute];
      const answer = typeof command === "function" ? command(request, this) : command;
      if (answer !== NO_ANSWER) this.send({ return: answer, id });
    } catch (error) {
      this.send({ error: (error as { answer?: object }).answer, id });
    }
  }

  #write(socket: Socket, bytes: Buffer): void {
    const chunkBytes = this.#options.chunkBytes ?? bytes.length;
    for (let start = 0; start < bytes.length; start += chunkBytes) {
      socket.write(bytes.subarray(start, start + chunkBytes));
    }
  }
}
