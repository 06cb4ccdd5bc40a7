/** A small NBD server over a unix socket in a folder of its own, for tests of the client. It is told what to send. */

import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

const OPTION_MAGIC = 0x49484156454f5054n;
const OPTION_REPLY_MAGIC = 0x0003e889045565a9n;

export interface FakeOption {
  readonly option: number;
  readonly data: Buffer;
}

export interface FakeNbdRequest {
  readonly flags: number;
  readonly command: number;
  readonly cookie: bigint;
  readonly offset: number;
  readonly length: number;
}

export interface FakeNbdOptions {
  readonly content?: Buffer;
  /** false: the server knows only simple replies. */
  readonly isStructured?: boolean;
  /** Bytes in each write. */
  readonly chunkBytes?: number;
  /** Sent on connecting. */
  readonly hello?: Buffer;
  /** Replies to an option, instead of the usual ones; undefined: the usual ones. */
  readonly onOption?: (option: FakeOption) => Buffer[] | undefined;
  /** Replies to a request, instead of the usual one; undefined: the usual one. */
  readonly onRequest?: (request: FakeNbdRequest, server: FakeNbd) => Buffer[] | undefined;
}

export class FakeNbd implements AsyncDisposable {
  readonly path: string;
  readonly requests: FakeNbdRequest[] = [];
  readonly #options: FakeNbdOptions;
  readonly #folder: string;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor(folder: string, options: FakeNbdOptions) {
    this.#folder = folder;
    this.path = join(folder, "nbd");
    this.#options = options;
    this.#server = createServer((socket) => void this.#serve(socket));
  }

  static async start(options: FakeNbdOptions = {}): Promise<FakeNbd> {
    const fake = new FakeNbd(await mkdtemp(join(tmpdir(), "godwit-fake-nbd-")), options);
    await new Promise<void>((resolve) => fake.#server.listen(fake.path, resolve));
    return fake;
  }

  get content(): Buffer {
    return this.#options.content ?? Buffer.alloc(65536, "c");
  }

  get connections(): number {
    return this.#sockets.size;
  }

  /** Sends bytes to all clients. */
  send(...parts: Buffer[]): void {
    const bytes = Buffer.concat(parts);
    const step = this.#options.chunkBytes ?? bytes.length;
    for (const socket of this.#sockets) {
      for (let at = 0; at < bytes.length; at += step) socket.write(bytes.subarray(at, at + step));
    }
  }

  hangUp(): void {
    for (const socket of this.#sockets) socket.end();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
    await rm(this.#folder, { recursive: true });
  }

  async #serve(socket: Socket): Promise<void> {
    this.#sockets.add(socket);
    socket.setNoDelay(true);
    socket.on("error", () => {});
    socket.on("close", () => this.#sockets.delete(socket));
    const take = taker(socket);
    this.send(this.#options.hello ?? hello());
    await take(4);
    for (let isHaggling = true; isHaggling; ) {
      const header = await take(16);
      if (header.readBigUInt64BE(0) !== OPTION_MAGIC) throw new Error("the client sent no option");
      const option = { option: header.readUInt32BE(8), data: await take(header.readUInt32BE(12)) };
      this.send(...(this.#options.onOption?.(option) ?? this.#usualOption(option)));
      isHaggling = option.option !== 7;
    }
    for (;;) {
      const header = await take(28);
      const [flags, command] = [header.readUInt16BE(4), header.readUInt16BE(6)];
      const [cookie, offset] = [header.readBigUInt64BE(8), Number(header.readBigUInt64BE(16))];
      const request = { flags, command, cookie, offset, length: header.readUInt32BE(24) };
      this.requests.push(request);
      if (command === 2) socket.end();
      else this.send(...(this.#options.onRequest?.(request, this) ?? this.#usualReply(request)));
    }
  }

  #usualOption({ option, data }: FakeOption): Buffer[] {
    if (option === 8) return [optionReply(8, this.#options.isStructured === false ? 0x80000001 : 1)];
    if (option === 7) return [optionReply(7, 3, exportInfo(this.content.length)), optionReply(7, 1)];
    if (option !== 10) return [optionReply(option, 0x80000001)];
    const nameBytes = data.readUInt32BE(0);
    const query = data.subarray(4 + nameBytes + 4 + 4);
    return [optionReply(10, 4, Buffer.concat([uint32(7), query])), optionReply(10, 1)];
  }

  #usualReply({ cookie, offset, length }: FakeNbdRequest): Buffer[] {
    const data = this.content.subarray(offset, offset + length);
    if (this.#options.isStructured === false) return [simpleReply(cookie, 0), data];
    return [dataChunk(cookie, offset, data, true)];
  }
}

export function hello(flags = 3): Buffer {
  return Buffer.concat([Buffer.from("NBDMAGICIHAVEOPT"), uint16(flags)]);
}

export function optionReply(option: number, type: number, data: Buffer = Buffer.alloc(0)): Buffer {
  return Buffer.concat([uint64(OPTION_REPLY_MAGIC), uint32(option), uint32(type), uint32(data.length), data]);
}

export function exportInfo(sizeBytes: number | bigint, flags = 3): Buffer {
  return Buffer.concat([uint16(0), uint64(BigInt(sizeBytes)), uint16(flags)]);
}

export function simpleReply(cookie: bigint, error: number): Buffer {
  return Buffer.concat([uint32(0x67446698), uint32(error), uint64(cookie)]);
}

/** A structured chunk; `lengthBytes` is what the header claims. */
export function chunk(
  cookie: bigint,
  type: number,
  payload: Buffer,
  isLast: boolean,
  lengthBytes = payload.length,
): Buffer {
  const header = [uint32(0x668e33ef), uint16(isLast ? 1 : 0), uint16(type), uint64(cookie), uint32(lengthBytes)];
  return Buffer.concat([...header, payload]);
}

export function dataChunk(cookie: bigint, offset: number, data: Buffer, isLast = false): Buffer {
  return chunk(cookie, 1, Buffer.concat([uint64(BigInt(offset)), data]), isLast);
}

export function holeChunk(cookie: bigint, offset: number, lengthBytes: number, isLast = false): Buffer {
  return chunk(cookie, 2, Buffer.concat([uint64(BigInt(offset)), uint32(lengthBytes)]), isLast);
}

export function statusChunk(cookie: bigint, context: number, extents: [number, number][], isLast = true): Buffer {
  return chunk(cookie, 5, Buffer.concat([uint32(context), ...extents.flat().map(uint32)]), isLast);
}

export function errorChunk(cookie: bigint, errno: number, words: string, isLast = true): Buffer {
  const text = Buffer.from(words);
  return chunk(cookie, 0x8001, Buffer.concat([uint32(errno), uint16(text.length), text]), isLast);
}

/** Takes bytes from a socket; never resolves once it has ended. */
function taker(socket: Socket): (count: number) => Promise<Buffer> {
  let bytes = Buffer.alloc(0);
  let wake = () => {};
  socket.on("data", (data) => {
    bytes = Buffer.concat([bytes, data]);
    wake();
  });
  return async (count) => {
    while (bytes.length < count) {
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
    const taken = bytes.subarray(0, count);
    bytes = bytes.subarray(count);
    return taken;
  };
}

export function uint16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

export function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function uint64(value: bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(value);
  return bytes;
}
