/** What all files of the checkpoint store have in common: head, body, footer, trailer (docs/store-format.md). */

import { type FileHandle, open, rename } from "node:fs/promises";
import { crc32 } from "node:zlib";
import { checkpointError, damaged, readError } from "./checkpoint-errors.ts";

export type Magic = "GODWITVM" | "GODWITPK" | "GODWITCP";

const FORMAT_VERSION = 1;
export const HEAD_BYTES = 16;
const TRAILER_BYTES = 16;
/** Longer footers are refused before they are read. */
const MAX_FOOTER_BYTES = 4 * 2 ** 20;
/** What is being written: no reader looks at it. */
export const TEMPORARY = ".tmp";

const MAGIC_BYTES = 8;

/** What a file begins with. */
export function headOf(magic: Magic): Buffer {
  const head = Buffer.alloc(HEAD_BYTES);
  head.write(magic, "latin1");
  head.writeUInt32LE(FORMAT_VERSION, MAGIC_BYTES);
  head.writeUInt32LE(crc32(head.subarray(0, MAGIC_BYTES + 4)), MAGIC_BYTES + 4);
  return head;
}

/** What a file ends with: its footer and trailer, behind `bodyBytes` bytes of body. */
export function endOf(footer: Buffer, bodyBytes: number): Buffer {
  const trailer = Buffer.alloc(TRAILER_BYTES);
  trailer.writeUInt32LE(footer.length);
  trailer.writeUInt32LE(crc32(footer), 4);
  trailer.writeBigUInt64LE(BigInt(HEAD_BYTES + bodyBytes + footer.length + TRAILER_BYTES), 8);
  return Buffer.concat([footer, trailer]);
}

/** A file whose frame was checked. */
export interface SealedFile {
  readonly path: string;
  readonly file: FileHandle;
  readonly footer: Buffer;
  readonly bodyBytes: number;
  readonly sizeBytes: number;
  /** When it was last modified, ms since 1970. */
  readonly modifiedMs: number;
}

/**
 * Opens a file and checks its frame.
 *
 * @throws STORE_CHECKPOINT_DAMAGED, STORE_CHECKPOINT_NEWER, STORE_CHECKPOINT_GONE, STORE_CHECKPOINT_READ
 */
export async function openSealed(path: string, magic: Magic): Promise<SealedFile> {
  const file = await open(path, "r").catch((cause) => {
    throw readError(path, cause);
  });
  try {
    const { size: sizeBytes, mtimeMs } = await file.stat();
    if (sizeBytes < HEAD_BYTES + TRAILER_BYTES) throw damaged(path, "it is cut off");
    checkHead(path, magic, await readExactly(path, file, 0, HEAD_BYTES));
    const trailer = await readExactly(path, file, sizeBytes - TRAILER_BYTES, TRAILER_BYTES);
    const footerBytes = trailer.readUInt32LE();
    const bodyBytes = sizeBytes - HEAD_BYTES - footerBytes - TRAILER_BYTES;
    if (trailer.readBigUInt64LE(8) !== BigInt(sizeBytes))
      throw damaged(path, "it is cut off, or more stands behind it");
    if (footerBytes > MAX_FOOTER_BYTES || bodyBytes < 0) throw damaged(path, "its footer has an impossible length");
    const footer = await readExactly(path, file, HEAD_BYTES + bodyBytes, footerBytes);
    if (crc32(footer) !== trailer.readUInt32LE(4)) throw damaged(path, "its footer fails its checksum");
    return { path, file, footer, bodyBytes, sizeBytes, modifiedMs: Math.round(mtimeMs) };
  } catch (error) {
    await file.close();
    throw error;
  }
}

function checkHead(path: string, magic: Magic, head: Buffer): void {
  const isIntact = crc32(head.subarray(0, MAGIC_BYTES + 4)) === head.readUInt32LE(MAGIC_BYTES + 4);
  if (!isIntact || head.toString("latin1", 0, MAGIC_BYTES) !== magic) throw damaged(path, "it has no head of ours");
  const version = head.readUInt32LE(MAGIC_BYTES);
  if (version === FORMAT_VERSION) return;
  const text = `${path} has format ${version}, which needs a newer godwit`;
  throw checkpointError("STORE_CHECKPOINT_NEWER", text, path);
}

/** Reads so many bytes, which must be there. */
export async function readExactly(path: string, file: FileHandle, at: number, bytes: number): Promise<Buffer> {
  const target = Buffer.allocUnsafe(bytes);
  await readInto(path, file, at, target);
  return target;
}

/** As `readExactly`, into `target`. */
export async function readInto(path: string, file: FileHandle, at: number, target: Uint8Array): Promise<void> {
  for (let done = 0; done < target.length; ) {
    const { bytesRead } = await file.read(target, done, target.length - done, at + done).catch((cause) => {
      throw readError(path, cause);
    });
    if (bytesRead === 0) throw damaged(path, "it is cut off");
    done += bytesRead;
  }
}

/** A new file that only its owner reads. */
export function createPrivate(path: string): Promise<FileHandle> {
  return open(path, "wx+", 0o600);
}

/** Lets a file of a temporary name appear under its own, once all of it is on the disk; closes it. */
export async function publish(file: FileHandle, path: string): Promise<void> {
  try {
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(path + TEMPORARY, path);
}
