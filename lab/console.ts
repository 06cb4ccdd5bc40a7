import { createServer, type Server, type Socket } from "node:net";

/** A line that the guest printed, and when it came in: milliseconds of this process's monotonic clock (performance.now). */
export interface ConsoleLine {
  readonly text: string;
  readonly atMs: number;
}

interface Waiter {
  readonly pattern: RegExp;
  readonly resolve: (match: RegExpExecArray) => void;
  readonly reject: (error: Error) => void;
}

/** One serial port of a guest. QEMU connects to `path`, so nothing of the output is lost. */
export class Console {
  readonly path: string;
  readonly lines: ConsoleLine[] = [];
  readonly #server: Server;
  readonly #waiters = new Set<Waiter>();
  #socket: Socket | undefined;
  #rest = "";
  #end: Error | undefined;

  private constructor(path: string, server: Server) {
    this.path = path;
    this.#server = server;
    server.on("connection", (socket) => {
      this.#socket = socket;
      socket.setEncoding("latin1").on("data", (text: string) => this.#read(text, performance.now()));
      socket.on("error", () => {}); // QEMU's end is told by its exit
    });
  }

  /** Listens on a unix socket. */
  static async listen(path: string): Promise<Console> {
    const server = createServer();
    await new Promise<void>((resolve, reject) => server.once("error", reject).listen(path, resolve));
    return new Console(path, server);
  }

  /**
   * The first line at or after `fromLine` that matches, waited for if need be.
   *
   * @throws Error after `timeoutMs`, or when the VM ends, with the last lines of the console
   */
  waitFor(pattern: RegExp, timeoutMs: number, fromLine = 0): Promise<RegExpExecArray> {
    for (const { text } of this.lines.slice(fromLine)) {
      const match = pattern.exec(text);
      if (match) return Promise.resolve(match);
    }
    if (this.#end) return Promise.reject(this.#failure(pattern, this.#end.message));
    return new Promise((resolve, reject) => {
      const done = () => {
        clearTimeout(timer);
        this.#waiters.delete(waiter);
      };
      const waiter: Waiter = {
        pattern,
        resolve: (match) => {
          done();
          resolve(match);
        },
        reject: (error) => {
          done();
          reject(error);
        },
      };
      const timer = setTimeout(() => waiter.reject(this.#failure(pattern, `${timeoutMs} ms passed`)), timeoutMs);
      this.#waiters.add(waiter);
    });
  }

  /** Types a line into the port. */
  send(line: string): void {
    this.#socket?.write(`${line}\n`);
  }

  /** Ends all waiting with this error; no more lines are to come. */
  end(error: Error): void {
    this.#end ??= error;
    for (const waiter of [...this.#waiters]) waiter.reject(this.#failure(waiter.pattern, error.message));
    this.#socket?.destroy();
    this.#server.close();
  }

  #read(text: string, atMs: number): void {
    const parts = (this.#rest + text).split("\n");
    this.#rest = parts.pop()!;
    for (const part of parts) {
      const line = part.replaceAll("\r", "");
      this.lines.push({ text: line, atMs });
      for (const waiter of [...this.#waiters]) {
        const match = waiter.pattern.exec(line);
        if (match) waiter.resolve(match);
      }
    }
  }

  #failure(pattern: RegExp, why: string): Error {
    const last = this.lines.slice(-15).map(({ text }) => text);
    return new Error(`no line ${pattern} on the console: ${why}; its last lines:\n  ${last.join("\n  ")}`);
  }
}
