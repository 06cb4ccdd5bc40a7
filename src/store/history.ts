/** What earlier migrations of this host's VMs came to: their traces (docs/trace-format.md), a folder a VM. */
import { createHash } from "node:crypto";
import { open, readdir, rename, rm, rmdir, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { messageOf } from "../errors.ts";
import { isAlive } from "../processes.ts";
import { openStateFolder } from "./state-dir.ts";

const FOLDER = "history";
const TRACE_FILE = /^\d{8}T\d{9}Z-[0-9a-f]{8}\.trace$/;
const TEMPORARY_FILE = /\.(\d+)\.tmp$/;
const ID_DIGITS = 32;
const MAX_TRACES_A_VM = 32;
const MAX_BYTES = 64 * 1024 * 1024;
/** No line of a trace is longer. */
const MAX_LINE_BYTES = 16 * 1024;

/** A trace that is kept. */
export interface KeptTrace {
  readonly path: string;
  /** The folder's name stands for the VM. */
  readonly vm: string;
  readonly sizeBytes: number;
}

/** The first line of a trace and its last, without line feeds: the header, and the outcome if it was written to its end. */
export interface TraceEnds {
  readonly first: string;
  readonly last: string;
}

/** The history of this host. It is only knowledge: what of it can't be read or written is left out, and costs no more. */
export class HistoryStore {
  readonly #stateDir: string;
  readonly #folder: string;
  readonly #warn: (message: string) => void;

  private constructor(stateDir: string, folder: string, warn: (message: string) => void) {
    this.#stateDir = stateDir;
    this.#folder = folder;
    this.#warn = warn;
  }

  /**
   * Opens the folder, and makes it if need be; undefined, and a warning, where it can't be used.
   *
   * @param warn is told, in one clause, what could not be kept
   */
  static async open(stateDir: string, warn: (message: string) => void): Promise<HistoryStore | undefined> {
    try {
      return new HistoryStore(stateDir, await openStateFolder(stateDir, FOLDER), warn);
    } catch (error) {
      warn(`nothing is known of earlier migrations: ${messageOf(error)}`);
      return undefined;
    }
  }

  /** The ends of a VM's traces, the newest first. */
  async *ends(identity: string): AsyncGenerator<TraceEnds> {
    for (const { path } of (await this.#tracesOf(vmOf(identity))).toReversed()) {
      const ends = await endsOf(path).catch(() => undefined);
      if (ends !== undefined) yield ends;
    }
  }

  /** The traces of one VM, or of all; of each the oldest first. */
  async list(identity?: string): Promise<KeptTrace[]> {
    if (identity !== undefined) return this.#tracesOf(vmOf(identity));
    const vms = await readdir(this.#folder).catch(() => []);
    return (await Promise.all(vms.map((vm) => this.#tracesOf(vm)))).flat();
  }

  /** Keeps the trace of a migration, and of the older ones only as many as there is room for. Never rejects. */
  async add(identity: string, session: string, trace: string): Promise<void> {
    const name = `${new Date().toISOString().replaceAll(/[-:.]/g, "")}-${session.slice(0, 8)}.trace`;
    try {
      const vm = vmOf(identity);
      const folder = await openStateFolder(this.#stateDir, join(FOLDER, vm));
      const temporaryPath = join(folder, `${name}.${process.pid}.tmp`);
      await writeDurably(temporaryPath, trace);
      await rename(temporaryPath, join(folder, name));
      await this.#makeRoom(vm);
    } catch (error) {
      this.#warn(`the migration is not kept in the history: ${messageOf(error)}`);
    }
  }

  async #makeRoom(vm: string): Promise<void> {
    const own = await this.#tracesOf(vm);
    for (const { path } of own.slice(0, Math.max(0, own.length - MAX_TRACES_A_VM))) await rm(path, { force: true });
    const byAge = (await this.list()).sort((a, b) => (nameOf(a) < nameOf(b) ? -1 : 1));
    let bytes = byAge.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
    for (const { path, vm, sizeBytes } of byAge) {
      if (bytes <= MAX_BYTES) return;
      await rm(path, { force: true });
      await rmdir(join(this.#folder, vm)).catch(() => {}); // there are others in it
      bytes -= sizeBytes;
    }
  }

  async #tracesOf(vm: string): Promise<KeptTrace[]> {
    const folder = join(this.#folder, vm);
    const traces: KeptTrace[] = [];
    for (const name of (await readdir(folder).catch(() => [])).sort()) {
      const path = join(folder, name);
      const pid = TEMPORARY_FILE.exec(name)?.[1];
      if (pid !== undefined && !isAlive(Number(pid))) await rm(path, { force: true }).catch(() => {});
      const size = TRACE_FILE.test(name) ? await stat(path).catch(() => undefined) : undefined;
      if (size !== undefined) traces.push({ path, vm, sizeBytes: size.size });
    }
    return traces;
  }
}

/** Names of folders say nothing about VMs, whatever their names are. */
function vmOf(identity: string): string {
  return createHash("sha256").update(identity).digest("hex").slice(0, ID_DIGITS);
}

function nameOf({ path }: KeptTrace): string {
  return path.slice(path.lastIndexOf("/") + 1);
}

async function writeDurably(path: string, text: string): Promise<void> {
  await writeFile(path, text, { mode: 0o600, flush: true });
}

async function endsOf(path: string): Promise<TraceEnds> {
  await using file = await open(path);
  const { size } = await file.stat();
  const bytes = Math.min(size, MAX_LINE_BYTES);
  const [head, tail] = [Buffer.alloc(bytes), Buffer.alloc(bytes)];
  await file.read(head, 0, bytes, 0);
  await file.read(tail, 0, bytes, size - bytes);
  const [first = ""] = head.toString().split("\n");
  const last = tail.toString().trimEnd().split("\n").at(-1) ?? "";
  return { first, last };
}
