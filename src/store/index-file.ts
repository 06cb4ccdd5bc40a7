/** Reading and writing one index file, docs/index-format.md. */

import { type FileHandle, open, rename, rm } from "node:fs/promises";
import { GodwitError, messageOf } from "../errors.ts";
import { writeFully } from "./durable.ts";
import {
  blocksOfPart,
  decodeHeader,
  encodeHeader,
  HASH_BYTES,
  HEADER_BYTES,
  type IndexAbout,
  type IndexHeader,
  PART_HASH_BYTES,
  type PartState,
  PartTable,
  tableBytesOf,
} from "./index-format.ts";

/** An index as it was saved. Parts that turn out to be damaged become unknown. */
export class StoredIndex implements AsyncDisposable {
  readonly header: IndexHeader;
  /** What the file takes on disk. */
  readonly storedBytes: number;
  readonly #file: FileHandle;
  readonly #table: PartTable;

  private constructor(header: IndexHeader, storedBytes: number, file: FileHandle, table: PartTable) {
    this.header = header;
    this.storedBytes = storedBytes;
    this.#file = file;
    this.#table = table;
  }

  /**
   * @returns undefined if there is no such file
   * @throws GodwitError STORE_INDEX_DAMAGED, STORE_INDEX_NEWER
   */
  static async open(path: string): Promise<StoredIndex | undefined> {
    await using undo = new AsyncDisposableStack();
    try {
      const file = undo.adopt(await open(path, "r"), (opened) => opened.close());
      const header = decodeHeader(await readUpTo(file, Buffer.alloc(HEADER_BYTES), 0));
      const table = Buffer.alloc(tableBytesOf(header.sizeBytes)); // 8 MiB at most
      await readUpTo(file, table, HEADER_BYTES); // what is missing of it says "unknown"
      const storedBytes = (await file.stat()).blocks * 512;
      undo.move();
      return new StoredIndex(header, storedBytes, file, new PartTable(header.sizeBytes, table));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
      throw error instanceof GodwitError
        ? error
        : new GodwitError("STORE_INDEX_DAMAGED", `it can't be read: ${messageOf(error)}`, { path }, { cause: error });
    }
  }

  get parts(): number {
    return this.#table.parts;
  }

  state(part: number): PartState {
    return this.#table.state(part);
  }

  /** How many hashes it has of those parts that are not unknown; a part that is damaged may lie. */
  get hashes(): number {
    let sum = 0;
    for (let part = 0; part < this.parts; part++) {
      if (this.state(part) !== "unknown") sum += Math.min(this.#table.hashes(part), this.blocks(part));
    }
    return sum;
  }

  blocks(part: number): number {
    return blocksOfPart(this.header.sizeBytes, part);
  }

  /** How many hashes a part has that are not 0. */
  hashesOf(part: number): number {
    return this.#table.hashes(part);
  }

  /**
   * Reads the hashes of a part, `blocks(part)` of them. Returns false if they are not known, or damaged: then `target` is
   * undefined, and from now on they are not known.
   */
  async readPart(part: number, target: Uint8Array): Promise<boolean> {
    if (this.state(part) === "unknown") return false;
    const hashes = target.subarray(0, this.blocks(part) * HASH_BYTES);
    if (this.#table.hashes(part) === 0) {
      hashes.fill(0);
      return true;
    }
    const read = await readUpTo(this.#file, hashes, this.#table.hashesAt(part)).catch(() => hashes.subarray(0, 0));
    if (read.length === hashes.length && this.#table.holds(part, hashes)) return true;
    this.#table.set(part, "unknown", hashes, 0);
    return false;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file.close();
  }
}

/** Writes a new version of an index; it is there, whole, once `finish` has returned. */
export class IndexWriter implements AsyncDisposable {
  readonly #path: string;
  readonly #temporaryPath: string;
  readonly #sizeBytes: number;
  readonly #seed: bigint;
  readonly #file: FileHandle;
  readonly #table: PartTable;
  readonly #isPut: Uint8Array;
  #isFinished = false;

  private constructor(path: string, temporaryPath: string, sizeBytes: number, seed: bigint, file: FileHandle) {
    this.#path = path;
    this.#temporaryPath = temporaryPath;
    this.#sizeBytes = sizeBytes;
    this.#seed = seed;
    this.#file = file;
    this.#table = new PartTable(sizeBytes);
    this.#isPut = new Uint8Array(this.#table.parts);
  }

  /** @throws GodwitError STORE_INDEX_NOT_WRITABLE */
  static async create(path: string, temporaryPath: string, sizeBytes: number, seed: bigint): Promise<IndexWriter> {
    const file = await open(temporaryPath, "w+", 0o600).catch((cause) => {
      throw notWritable(path, cause);
    });
    return new IndexWriter(path, temporaryPath, sizeBytes, seed, file);
  }

  /**
   * The hashes of a part, which was read.
   *
   * @param count how many of them are not 0
   * @throws GodwitError STORE_INDEX_NOT_WRITABLE
   */
  async put(part: number, hashes: Uint8Array, count: number, state: PartState = "known"): Promise<void> {
    if (count > 0) await this.#write(hashes, this.#table.hashesAt(part));
    this.#table.set(part, state, hashes, count);
    this.#isPut[part] = 1;
  }

  /** What was put of a part may be wrong: it is to be read again. */
  doubt(part: number): void {
    this.#table.doubt(part);
  }

  /**
   * Takes from `previous` what was not put, writes what the index is of, and puts it in the place of the one that was there.
   *
   * @param isStale whether a part of `previous` was written to since it was read
   * @throws GodwitError STORE_INDEX_NOT_WRITABLE
   */
  async finish(
    about: IndexAbout,
    previous: StoredIndex | undefined,
    isStale: (part: number) => boolean,
  ): Promise<void> {
    if (previous !== undefined) await this.#keep(previous, isStale);
    try {
      await this.#write(encodeHeader({ seed: this.#seed, sizeBytes: this.#sizeBytes, about }), 0);
      await this.#write(this.#table.bytes, HEADER_BYTES);
      await rename(this.#temporaryPath, this.#path);
    } catch (cause) {
      throw notWritable(this.#path, cause);
    }
    this.#isFinished = true;
  }

  /** Without `finish`, nothing is left of it. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file.close();
    if (!this.#isFinished) await rm(this.#temporaryPath, { force: true });
  }

  async #keep(previous: StoredIndex, isStale: (part: number) => boolean): Promise<void> {
    const hashes = new Uint8Array(PART_HASH_BYTES);
    for (let part = 0; part < this.#table.parts; part++) {
      const blocks = blocksOfPart(this.#sizeBytes, part);
      if (this.#isPut[part] || previous.blocks(part) !== blocks || !(await previous.readPart(part, hashes))) continue;
      const state = isStale(part) ? "stale" : previous.state(part);
      await this.put(part, hashes.subarray(0, blocks * HASH_BYTES), previous.hashesOf(part), state);
    }
  }

  async #write(bytes: Uint8Array, at: number): Promise<void> {
    try {
      await writeFully(this.#file, bytes, at);
    } catch (cause) {
      throw notWritable(this.#path, cause);
    }
  }
}

function notWritable(path: string, cause: unknown): GodwitError {
  if (cause instanceof GodwitError) return cause;
  const why = `the index can't be kept: ${messageOf(cause)}`;
  return new GodwitError("STORE_INDEX_NOT_WRITABLE", why, { path }, { cause });
}

/** Returns what there was to be read. */
async function readUpTo<T extends Uint8Array>(file: FileHandle, target: T, at: number): Promise<T> {
  for (let done = 0; done < target.length; ) {
    const { bytesRead } = await file.read(target, done, target.length - done, at + done);
    if (bytesRead === 0) return target.subarray(0, done) as T;
    done += bytesRead;
  }
  return target;
}
