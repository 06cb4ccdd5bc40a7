/** The layout of an index file, docs/index-format.md. No I/O here. */

import { crc32 } from "node:zlib";
import { z } from "zod";
import { GodwitError, messageOf } from "../errors.ts";

export const BLOCK_BYTES = 4096;
export const HASH_BYTES = 8;
/** Blocks of a part. */
export const PART_BLOCKS = 8192;
/** What the hashes of a part take. */
export const PART_HASH_BYTES = PART_BLOCKS * HASH_BYTES;
export const HEADER_BYTES = 65_536;

const MAGIC = "GDWTINDX";
const VERSION = 1;
const FIXED_BYTES = 48;
const CHECKSUM_AT = 44;
const ENTRY_BYTES = 16;
const MAX_SIZE_BYTES = 2 ** 44;

const text = z.string().max(16_384);
const decimal = z
  .string()
  .regex(/^\d{1,20}$/)
  .transform(BigInt);

const aboutSchema = z.object({
  vm: text,
  disk: text,
  vmName: text.nullable(),
  image: text,
  files: z
    .array(z.object({ dev: decimal, inode: decimal, sizeBytes: z.int().nonnegative(), mtimeNs: decimal }))
    .max(256)
    .nullable(),
  bitmap: text.nullable(),
  savedMs: z.number().nonnegative(),
});

/** What an index is of, and of when. The fields are in docs/index-format.md. */
export type IndexAbout = z.infer<typeof aboutSchema>;

export interface IndexHeader {
  readonly seed: bigint;
  /** Of the disk. */
  readonly sizeBytes: number;
  readonly about: IndexAbout;
}

/** "stale": it was written to since it was read. */
export type PartState = "unknown" | "known" | "stale";
const STATES: readonly PartState[] = ["unknown", "known", "stale"];

/** @throws RangeError when `about` is longer than a header has room for */
export function encodeHeader({ seed, sizeBytes, about }: IndexHeader): Buffer {
  const json = Buffer.from(JSON.stringify(about, (_key, value) => (typeof value === "bigint" ? String(value) : value)));
  const header = Buffer.alloc(HEADER_BYTES);
  if (json.length > HEADER_BYTES - FIXED_BYTES) throw new RangeError("what the index is of takes too many bytes");
  header.write(MAGIC, "latin1");
  header.writeUInt32LE(VERSION, 8);
  header.writeUInt32LE(json.length, 12);
  header.writeBigUInt64LE(seed, 16);
  header.writeBigUInt64LE(BigInt(sizeBytes), 24);
  header.writeUInt32LE(PART_BLOCKS, 32);
  json.copy(header, FIXED_BYTES);
  header.writeUInt32LE(headerChecksum(header, json.length), CHECKSUM_AT);
  return header;
}

/**
 * @param header the first HEADER_BYTES of a file, or what there is of them
 * @throws GodwitError STORE_INDEX_NEWER for another version, STORE_INDEX_DAMAGED for anything else that is no header
 */
export function decodeHeader(header: Buffer): IndexHeader {
  if (header.length < FIXED_BYTES || header.toString("latin1", 0, 8) !== MAGIC) throw damaged("it is none");
  const version = header.readUInt32LE(8);
  if (version !== VERSION) throw new GodwitError("STORE_INDEX_NEWER", `it has version ${version}`, { version });
  const aboutBytes = header.readUInt32LE(12);
  if (aboutBytes > header.length - FIXED_BYTES) throw damaged("it is cut off");
  if (headerChecksum(header, aboutBytes) !== header.readUInt32LE(CHECKSUM_AT)) throw damaged("its header is damaged");
  const sizeBytes = header.readBigUInt64LE(24);
  if (sizeBytes > MAX_SIZE_BYTES || header.readUInt32LE(32) !== PART_BLOCKS) throw damaged("its sizes make no sense");
  try {
    const about = aboutSchema.parse(JSON.parse(header.toString("utf8", FIXED_BYTES, FIXED_BYTES + aboutBytes)));
    return { seed: header.readBigUInt64LE(16), sizeBytes: Number(sizeBytes), about };
  } catch (cause) {
    throw damaged(`it does not say what it is of: ${messageOf(cause)}`, cause);
  }
}

function headerChecksum(header: Buffer, aboutBytes: number): number {
  return crc32(header.subarray(FIXED_BYTES, FIXED_BYTES + aboutBytes), crc32(header.subarray(0, CHECKSUM_AT)));
}

function damaged(why: string, cause?: unknown): GodwitError {
  return new GodwitError("STORE_INDEX_DAMAGED", why, {}, cause === undefined ? {} : { cause });
}

/** Whether a disk of so many bytes can have an index. */
export function canBeIndexed(sizeBytes: number): boolean {
  return sizeBytes < MAX_SIZE_BYTES;
}

/** The blocks of part `part` of a disk; 0 behind its end. */
export function blocksOfPart(sizeBytes: number, part: number): number {
  return Math.max(0, Math.min(PART_BLOCKS, Math.floor(sizeBytes / BLOCK_BYTES) - part * PART_BLOCKS));
}

/** The parts of a disk, by their numbers: the state of each, and the checksum of its hashes. */
export class PartTable {
  readonly parts: number;
  /** As it stands in the file, from HEADER_BYTES on. */
  readonly bytes: Buffer;
  readonly #number = Buffer.alloc(4);

  constructor(sizeBytes: number, bytes?: Buffer) {
    this.parts = Math.ceil(Math.floor(sizeBytes / BLOCK_BYTES) / PART_BLOCKS);
    this.bytes = bytes ?? Buffer.alloc(this.parts * ENTRY_BYTES);
  }

  /** Where the hashes of a part stand in the file. */
  hashesAt(part: number): number {
    const tableEnd = Math.ceil((HEADER_BYTES + this.bytes.length) / HEADER_BYTES) * HEADER_BYTES;
    return tableEnd + part * PART_HASH_BYTES;
  }

  /** What the entry says; "unknown" if it is damaged. */
  state(part: number): PartState {
    const at = part * ENTRY_BYTES;
    if (part >= this.parts || this.#checksum(part) !== this.bytes.readUInt32LE(at + 12)) return "unknown";
    return STATES[this.bytes[at]!] ?? "unknown";
  }

  /** How many hashes of the part are not 0. */
  hashes(part: number): number {
    return this.bytes.readUInt32LE(part * ENTRY_BYTES + 4);
  }

  /** Whether these are the hashes of the part. */
  holds(part: number, hashes: Uint8Array): boolean {
    return crc32(hashes) === this.bytes.readUInt32LE(part * ENTRY_BYTES + 8);
  }

  /** @param count how many of `hashes` are not 0 */
  set(part: number, state: PartState, hashes: Uint8Array, count: number): void {
    const at = part * ENTRY_BYTES;
    this.bytes.fill(0, at, at + ENTRY_BYTES);
    if (state === "unknown") return;
    this.bytes[at] = STATES.indexOf(state);
    this.bytes.writeUInt32LE(count, at + 4);
    this.bytes.writeUInt32LE(count === 0 ? 0 : crc32(hashes), at + 8);
    this.bytes.writeUInt32LE(this.#checksum(part), at + 12);
  }

  /** A part that is known is to be read again; what its hashes say is worth a try until then. */
  doubt(part: number): void {
    if (this.state(part) !== "known") return;
    this.bytes[part * ENTRY_BYTES] = STATES.indexOf("stale");
    this.bytes.writeUInt32LE(this.#checksum(part), part * ENTRY_BYTES + 12);
  }

  #checksum(part: number): number {
    const at = part * ENTRY_BYTES;
    this.#number.writeUInt32LE(part);
    return crc32(this.bytes.subarray(at, at + 12), crc32(this.#number));
  }
}

/** What the table of a disk of so many bytes takes in the file. */
export function tableBytesOf(sizeBytes: number): number {
  return new PartTable(sizeBytes, Buffer.alloc(0)).parts * ENTRY_BYTES;
}

/** How many of the hashes are not 0. */
export function countHashes(hashes: Uint8Array): number {
  const view = new DataView(hashes.buffer, hashes.byteOffset, hashes.length);
  let count = 0;
  for (let at = 0; at < hashes.length; at += HASH_BYTES) {
    if (view.getUint32(at, true) !== 0 || view.getUint32(at + 4, true) !== 0) count++;
  }
  return count;
}
