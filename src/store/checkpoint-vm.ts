/** The folder of a VM in the checkpoint store, and its file `vm`: who it is, and its keys (docs/store-format.md). */

import { createHash, randomBytes } from "node:crypto";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { checkpointError, damaged } from "./checkpoint-errors.ts";
import { TAG_KEY_BYTES } from "./checkpoint-kernels.ts";
import { createPrivate, endOf, headOf, openSealed, publish, TEMPORARY } from "./checkpoint-sealed-file.ts";
import { syncFolder, writeFully } from "./durable.ts";

export const FOLDER_ID_BYTES = 16;
export const MAX_NAME_BYTES = 65534;
const FIXED_BYTES = FOLDER_ID_BYTES + TAG_KEY_BYTES + 8 + 2;
const NAME = "vm";

/** What the file `vm` says. */
export interface VmRecord {
  readonly identity: string;
  /** Stands in every file of the folder. */
  readonly folderId: Buffer;
  /** Of the tags that tell contents apart; known to nobody else. */
  readonly tagKey: Buffer;
  /** Of the hashes that are told to the peer. */
  readonly seed: bigint;
}

/** The name of a VM's folder. */
export function folderNameOf(identity: string): string {
  return createHash("sha256").update(identity).digest("hex").slice(0, 32);
}

export function encodeVm({ identity, folderId, tagKey, seed }: VmRecord): Buffer {
  const name = Buffer.from(identity);
  if (name.length > MAX_NAME_BYTES) throw new RangeError(`an identity of ${name.length} bytes`);
  const numbers = Buffer.alloc(10);
  numbers.writeBigUInt64LE(seed);
  numbers.writeUInt16LE(name.length, 8);
  const footer = Buffer.concat([folderId, tagKey, numbers, name]);
  return Buffer.concat([headOf("GODWITVM"), endOf(footer, 0)]);
}

/**
 * Reads who the VM of a folder is.
 *
 * @throws STORE_CHECKPOINT_FOREIGN when the folder is not this VM's; as openSealed
 */
export async function readVm(folder: string, folderName: string): Promise<VmRecord> {
  const path = join(folder, NAME);
  const { file, footer } = await openSealed(path, "GODWITVM");
  await file.close();
  if (footer.length < FIXED_BYTES || footer.length !== FIXED_BYTES + footer.readUInt16LE(FIXED_BYTES - 2)) {
    throw damaged(path, "its footer has an impossible length");
  }
  const identity = footer.toString("utf8", FIXED_BYTES);
  if (folderNameOf(identity) !== folderName) throw foreign(path);
  return {
    identity,
    folderId: footer.subarray(0, FOLDER_ID_BYTES),
    tagKey: footer.subarray(FOLDER_ID_BYTES, FOLDER_ID_BYTES + TAG_KEY_BYTES),
    seed: footer.readBigUInt64LE(FOLDER_ID_BYTES + TAG_KEY_BYTES),
  };
}

/** Makes the file `vm` of a folder that has none, with new keys. */
export async function createVm(folder: string, identity: string): Promise<VmRecord> {
  const record = {
    identity,
    folderId: randomBytes(FOLDER_ID_BYTES),
    tagKey: randomBytes(TAG_KEY_BYTES),
    seed: randomBytes(8).readBigUInt64LE(),
  };
  const path = join(folder, NAME);
  await rm(path + TEMPORARY, { force: true });
  await using file = await createPrivate(path + TEMPORARY);
  await writeFully(file, encodeVm(record), 0);
  await publish(file, path);
  await syncFolder(folder);
  return record;
}

/** Removes the file `vm` of a folder. */
export async function removeVm(folder: string): Promise<void> {
  await rm(join(folder, NAME), { force: true });
}

/** A file that was copied from another VM's folder. */
export function foreign(path: string): Error {
  return checkpointError("STORE_CHECKPOINT_FOREIGN", `${path} belongs to another VM`, path);
}
