import { rm } from "node:fs/promises";
import { connect, createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { LineSplitter } from "../src/qemu/lines.ts";
import { temporaryFolder } from "./leftovers.ts";
import { Meter } from "./meter.ts";

/** Options of {@link startTap}. */
export interface TapOptions {
  /** The monitor of the QEMU to listen at. */
  readonly qmpPath: string;
  /** The end at which this QEMU stands: a source writes the stream, a destination reads it. */
  readonly direction: "source" | "destination";
  /** A file to write the stream to; a further migration overwrites it. */
  readonly recordTo?: string;
}

/** What went through a tap; "return" is the way back, from the destination QEMU to the source QEMU. */
export interface TapDigest {
  readonly sha256: string;
  readonly bytes: number;
  readonly returnSha256: string;
  readonly returnBytes: number;
}

/** A witness between a QEMU and the program that migrates it. */
export interface Tap extends AsyncDisposable {
  /** The monitor to give to the program, in place of QEMU's own. */
  readonly qmpPath: string;
  /** What went through in a migration, the first being 0, once all its connections are closed. Default: the last. */
  digest(migration?: number): Promise<TapDigest>;
  close(): Promise<void>;
}

/** One migration's connections, and what went through them. */
interface Measured {
  readonly forward: Meter;
  readonly back: Meter;
  readonly relays: Promise<void>[];
}

const MAX_LINE_BYTES = 16 * 1024 * 1024;

/**
 * Puts a monitor in front of a QEMU's that passes every line on as it is, but for the unix socket in `migrate` and
 * `migrate-incoming`: so the stream is led through the tap, which hashes and counts what QEMU itself wrote or read.
 */
export async function startTap({ qmpPath, direction, recordTo }: TapOptions): Promise<Tap> {
  const folder = temporaryFolder();
  const listener = new Listener();
  const pathInFront = join(folder.path, "qmp");
  const qemuPath = join(folder.path, "stream");
  const migrations: Measured[] = [];

  const lead = async (programPath: string): Promise<string> => {
    const measured: Measured = { forward: new Meter(recordTo), back: new Meter(), relays: [] };
    const { forward, back, relays } = measured;
    migrations.push(measured);
    // A source connects to us, and we to the program; the program connects to us, and we to a destination.
    const [near, far] = direction === "source" ? [qemuPath, programPath] : [programPath, qemuPath];
    await listener.listen(near, (socket) => relays.push(relay(socket, listener.connect(far), forward, back)));
    return qemuPath;
  };
  await listener.listen(pathInFront, (socket) => {
    const rewrite = (chunks: AsyncIterable<Uint8Array>) => rewriteCommands(chunks, lead);
    relayWith(socket, listener.connect(qmpPath), rewrite, passOn).catch(() => {}); // both ends see the close
  });

  const digest = async (migration = -1) => {
    // A QEMU may be told more than once before it takes it.
    const measured = migrations.filter(({ relays }) => relays.length > 0).at(migration);
    if (measured === undefined) throw new Error("no migration has gone through the tap");
    await Promise.allSettled(measured.relays);
    const [there, andBack] = [measured.forward.digest(), measured.back.digest()];
    return { ...there, returnSha256: andBack.sha256, returnBytes: andBack.bytes };
  };
  const close = async () => {
    listener.close();
    await Promise.allSettled(migrations.flatMap(({ relays }) => relays));
    folder[Symbol.dispose]();
  };
  return { qmpPath: pathInFront, digest, close, [Symbol.asyncDispose]: close };
}

type Step = (chunks: AsyncIterable<Uint8Array>) => AsyncIterable<Uint8Array>;

const passOn: Step = (chunks) => chunks;

function relay(near: Socket, far: Socket, forward: Meter, back: Meter): Promise<void> {
  const [there, andBack] = [forward, back].map(
    (meter): Step =>
      (chunks) =>
        meter.measure(chunks),
  ) as [Step, Step];
  return relayWith(near, far, there, andBack);
}

/** Joins two sockets, honouring back-pressure and half-close; an error at one end closes both. */
async function relayWith(near: Socket, far: Socket, forward: Step, back: Step): Promise<void> {
  try {
    await Promise.all([pipeline(near, forward, far), pipeline(far, back, near)]);
  } finally {
    near.destroy();
    far.destroy();
  }
}

/** The sockets of a tap. */
class Listener {
  readonly #servers = new Map<string, Server>();
  readonly #sockets = new Set<Socket>();

  /** Listens at a path, in place of what was there. */
  async listen(path: string, onConnection: (socket: Socket) => void): Promise<void> {
    this.#servers.get(path)?.close();
    await rm(path, { force: true });
    const server = createServer({ allowHalfOpen: true }, (socket) => onConnection(this.#keep(socket)));
    this.#servers.set(path, server);
    await new Promise<void>((resolve, reject) => server.once("error", reject).listen(path, resolve));
  }

  connect(path: string): Socket {
    return this.#keep(connect({ path, allowHalfOpen: true }));
  }

  close(): void {
    for (const server of this.#servers.values()) server.close();
    for (const socket of this.#sockets) socket.destroy();
  }

  #keep(socket: Socket): Socket {
    this.#sockets.add(socket);
    return socket.once("close", () => this.#sockets.delete(socket));
  }
}

async function* rewriteCommands(
  chunks: AsyncIterable<Uint8Array>,
  lead: (path: string) => Promise<string>,
): AsyncIterable<Uint8Array> {
  const splitter = new LineSplitter(MAX_LINE_BYTES);
  for await (const chunk of chunks)
    for (const line of splitter.push(chunk)) yield Buffer.from(`${await rewriteCommand(line, lead)}\n`);
}

/**
 * A QMP line with the unix socket of `migrate` or `migrate-incoming`, named by `uri` or by `channels`, replaced by the one
 * that `lead` names for it; any other line as it is.
 */
export async function rewriteCommand(line: string, lead: (path: string) => Promise<string>): Promise<string> {
  if (!line.includes('"migrate')) return line;
  const command = JSON.parse(line) as MigrateCommand;
  if (command.execute !== "migrate" && command.execute !== "migrate-incoming") return line;
  const { uri, channels } = command.arguments ?? {};
  if (uri?.startsWith("unix:")) {
    const replaced = `unix:${await lead(uri.slice("unix:".length))}`;
    return JSON.stringify({ ...command, arguments: { ...command.arguments, uri: replaced } });
  }
  const [channel] = channels ?? [];
  if (channels?.length !== 1 || channel?.addr.type !== "unix") return line;
  const replaced = [{ ...channel, addr: { ...channel.addr, path: await lead(channel.addr.path) } }];
  return JSON.stringify({ ...command, arguments: { ...command.arguments, channels: replaced } });
}

/** qapi/migration.json, `migrate`, as far as it names a unix socket. */
interface MigrateCommand {
  readonly execute?: string;
  readonly arguments?: {
    readonly uri?: string;
    readonly channels?: readonly { readonly addr: { readonly type?: string; readonly path: string } }[];
  };
}
