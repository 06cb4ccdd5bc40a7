/** A manifest: which pages a checkpoint has, and where each stands (docs/store-format.md). */

import type { FileHandle } from "node:fs/promises";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import {
  CHUNK_PAGES,
  type Chunk,
  COLUMN,
  COLUMN_BYTES,
  type Column,
  columnOffset,
  ROW_BYTES,
} from "./checkpoint-chunk.ts";
import { damaged } from "./checkpoint-errors.ts";
import { PACK_ID_BYTES } from "./checkpoint-pack.ts";
import {
  createPrivate,
  endOf,
  HEAD_BYTES,
  headOf,
  openSealed,
  publish,
  readExactly,
  TEMPORARY,
} from "./checkpoint-sealed-file.ts";
import { FOLDER_ID_BYTES, foreign, MAX_NAME_BYTES, type VmRecord } from "./checkpoint-vm.ts";
import { writeFully } from "./durable.ts";

export const MANIFEST_SUFFIX = ".checkpoint";
const MAX_PAGES = 2 ** 31;
/** One less than 16 bits can name, so that no place is NO_PLACE. */
export const MAX_PACKS = 65535;
const NO_NAME = 65535;
const FIXED_BYTES = FOLDER_ID_BYTES + 8 + 8 + 8 + 4 + 4;
const ORIGINS = ["migration", "saved"] as const;
const CHECKSUM_BYTES = 4;

/** What a checkpoint was taken from: kept by itself after a migration, or saved when asked for. */
export type CheckpointOrigin = (typeof ORIGINS)[number];

/** What a manifest's footer says, but for its checksums. */
export interface ManifestRecord {
  readonly identity: string;
  readonly vmName: string | null;
  readonly createdMs: number;
  readonly memoryBytes: number;
  readonly origin: CheckpointOrigin;
  readonly pages: number;
  readonly packs: readonly string[];
}

export function manifestPath(folder: string, id: string): string {
  return join(folder, id + MANIFEST_SUFFIX);
}

function encodeManifestFooter(folderId: Buffer, record: ManifestRecord, checksums: Buffer): Buffer {
  const fixed = Buffer.alloc(FIXED_BYTES);
  folderId.copy(fixed);
  let at = FOLDER_ID_BYTES;
  at = fixed.writeBigUInt64LE(BigInt(record.createdMs), at);
  at = fixed.writeBigUInt64LE(BigInt(record.memoryBytes), at);
  at = fixed.writeBigUInt64LE(BigInt(record.pages), at);
  at = fixed.writeUInt32LE(record.packs.length, at);
  fixed.writeUInt32LE(ORIGINS.indexOf(record.origin), at);
  const names = [encodeName(record.identity), encodeName(record.vmName)];
  return Buffer.concat([fixed, ...names, Buffer.from(record.packs.join(""), "hex"), checksums]);
}

function encodeName(name: string | null): Buffer {
  const bytes = Buffer.from(name ?? "");
  if (bytes.length > MAX_NAME_BYTES) throw new RangeError(`a name of ${bytes.length} bytes`);
  const length = Buffer.alloc(2);
  length.writeUInt16LE(name === null ? NO_NAME : bytes.length);
  return Buffer.concat([length, bytes]);
}

function decodeFooter(path: string, footer: Buffer, vm: VmRecord): { record: ManifestRecord; checksums: Buffer } {
  let at = 0;
  const take = (bytes: number): Buffer => {
    if (at + bytes > footer.length) throw damaged(path, "its footer is too short");
    at += bytes;
    return footer.subarray(at - bytes, at);
  };
  const takeName = (): string | null => {
    const bytes = take(2).readUInt16LE();
    return bytes === NO_NAME ? null : take(bytes).toString("utf8");
  };
  const fixed = take(FIXED_BYTES);
  if (!vm.folderId.equals(fixed.subarray(0, FOLDER_ID_BYTES))) throw foreign(path);
  const numbers = fixed.subarray(FOLDER_ID_BYTES);
  const pages = Number(numbers.readBigUInt64LE(16));
  const packs = numbers.readUInt32LE(24);
  const origin = ORIGINS[numbers.readUInt32LE(28)];
  if (pages > MAX_PAGES || packs > MAX_PACKS || origin === undefined) throw damaged(path, "its footer makes no sense");
  const identity = takeName();
  const vmName = takeName();
  if (identity !== vm.identity) throw foreign(path);
  const ids = take(packs * PACK_ID_BYTES);
  const record = {
    identity,
    vmName,
    createdMs: Number(numbers.readBigUInt64LE(0)),
    memoryBytes: Number(numbers.readBigUInt64LE(8)),
    origin,
    pages,
    packs: Array.from({ length: packs }, (_, i) => ids.toString("hex", i * PACK_ID_BYTES, (i + 1) * PACK_ID_BYTES)),
  };
  const checksums = take(Math.ceil(pages / CHUNK_PAGES) * COLUMN_BYTES.length * CHECKSUM_BYTES);
  if (at !== footer.length) throw damaged(path, "its footer is too long");
  return { record, checksums };
}

/** A manifest that is open for reading. */
export class Manifest {
  readonly path: string;
  readonly record: ManifestRecord;
  readonly chunks: number;
  readonly sizeBytes: number;
  /** When the checkpoint was last used, ms since 1970. */
  readonly usedMs: number;
  readonly #file: FileHandle;
  readonly #checksums: Buffer;

  private constructor(
    path: string,
    file: FileHandle,
    record: ManifestRecord,
    checksums: Buffer,
    usedMs: number,
    sizeBytes: number,
  ) {
    this.path = path;
    this.record = record;
    this.chunks = Math.ceil(record.pages / CHUNK_PAGES);
    this.sizeBytes = sizeBytes;
    this.usedMs = usedMs;
    this.#file = file;
    this.#checksums = checksums;
  }

  /**
   * Opens the manifest of a checkpoint of this VM.
   *
   * @throws STORE_CHECKPOINT_FOREIGN; as openSealed
   */
  static async open(folder: string, id: string, vm: VmRecord): Promise<Manifest> {
    const path = manifestPath(folder, id);
    const { file, footer, bodyBytes, sizeBytes, modifiedMs } = await openSealed(path, "GODWITCP");
    try {
      const { record, checksums } = decodeFooter(path, footer, vm);
      if (record.pages * ROW_BYTES !== bodyBytes) throw damaged(path, "it has another number of pages than it says");
      return new Manifest(path, file, record, checksums, modifiedMs, sizeBytes);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** The pages of a chunk. */
  rowsOf(chunk: number): number {
    return Math.min(CHUNK_PAGES, this.record.pages - chunk * CHUNK_PAGES);
  }

  /**
   * A column of a chunk.
   *
   * @throws STORE_CHECKPOINT_DAMAGED, STORE_CHECKPOINT_READ
   */
  async column(chunk: number, column: Column): Promise<Buffer> {
    const rows = this.rowsOf(chunk);
    const at = HEAD_BYTES + chunk * CHUNK_PAGES * ROW_BYTES + columnOffset(column, rows);
    const bytes = await readExactly(this.path, this.#file, at, rows * COLUMN_BYTES[column]);
    const checksumAt = (chunk * COLUMN_BYTES.length + column) * CHECKSUM_BYTES;
    if (crc32(bytes) !== this.#checksums.readUInt32LE(checksumAt)) {
      const first = chunk * CHUNK_PAGES;
      throw damaged(this.path, `what it says of its pages ${first} to ${first + rows - 1} fails its checksum`);
    }
    return bytes;
  }

  async close(): Promise<void> {
    await this.#file.close();
  }
}

/** Writes a manifest, chunk by chunk. It has a temporary name until it is finished. */
export class ManifestWriter {
  readonly #path: string;
  readonly #file: FileHandle;
  readonly #checksums: Buffer[] = [];
  #pages = 0;
  #end = HEAD_BYTES;

  private constructor(path: string, file: FileHandle) {
    this.#path = path;
    this.#file = file;
  }

  static async create(folder: string, id: string): Promise<ManifestWriter> {
    const path = manifestPath(folder, id);
    const file = await createPrivate(path + TEMPORARY);
    const writer = new ManifestWriter(path, file);
    try {
      await writeFully(file, headOf("GODWITCP"), 0);
      return writer;
    } catch (error) {
      await writer.abort();
      throw error;
    }
  }

  /** The bytes of its file so far. */
  get sizeBytes(): number {
    return this.#end;
  }

  /** Appends a chunk; only the last one may be less than full. */
  async add(chunk: Chunk): Promise<void> {
    this.#pages += chunk.rows;
    for (const column of [COLUMN.number, COLUMN.hash, COLUMN.place]) {
      const bytes = chunk.column(column);
      const checksum = Buffer.alloc(CHECKSUM_BYTES);
      checksum.writeUInt32LE(crc32(bytes));
      this.#checksums.push(checksum);
      await writeFully(this.#file, bytes, this.#end);
      this.#end += bytes.length;
    }
  }

  /** Lets the manifest appear. */
  async finish(folderId: Buffer, record: Omit<ManifestRecord, "pages">): Promise<void> {
    const footer = encodeManifestFooter(folderId, { ...record, pages: this.#pages }, Buffer.concat(this.#checksums));
    await writeFully(this.#file, endOf(footer, this.#end - HEAD_BYTES), this.#end);
    await publish(this.#file, this.#path);
  }

  async abort(): Promise<void> {
    await this.#file.close();
    await rm(this.#path + TEMPORARY, { force: true });
  }
}
