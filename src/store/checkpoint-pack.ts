/** A pack: contents of pages in compressed blocks (docs/store-format.md). */

import type { FileHandle } from "node:fs/promises";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { damaged } from "./checkpoint-errors.ts";
import { PAGE_BYTES, TAG_BYTES } from "./checkpoint-kernels.ts";
import { HEAD_BYTES, openSealed, readExactly, readInto } from "./checkpoint-sealed-file.ts";
import { FOLDER_ID_BYTES, foreign } from "./checkpoint-vm.ts";

export const PACK_SUFFIX = ".pack";
export const PACK_ID_BYTES = 8;
export const BLOCK_PAGES = 16;
export const BLOCK_BYTES = BLOCK_PAGES * PAGE_BYTES;
export const MAX_PACK_BLOCKS = 4096;
/** Contents of a pack: what 16 bits of a place can name. */
export const PACK_PAGES = MAX_PACK_BLOCKS * BLOCK_PAGES;

const FIXED_BYTES = FOLDER_ID_BYTES + PACK_ID_BYTES + 8;
const ENTRY_BYTES = 12;

/** A block of a pack: the length and checksum of what stands in the file, and which of its contents are there. */
export interface Block {
  readonly storedBytes: number;
  readonly checksum: number;
  /** A bit for each content, the lowest is the first. */
  readonly present: number;
}

export function packPath(folder: string, id: string): string {
  return join(folder, id + PACK_SUFFIX);
}

/** What a pack's file ends with but for the trailer. */
export function encodePackFooter(folderId: Buffer, id: string, blocks: readonly Block[], tagsChecksum: number): Buffer {
  const footer = Buffer.alloc(FIXED_BYTES + blocks.length * ENTRY_BYTES);
  folderId.copy(footer);
  footer.write(id, FOLDER_ID_BYTES, "hex");
  footer.writeUInt32LE(blocks.length, FIXED_BYTES - 8);
  footer.writeUInt32LE(tagsChecksum, FIXED_BYTES - 4);
  blocks.forEach(({ storedBytes, checksum, present }, index) => {
    const at = FIXED_BYTES + index * ENTRY_BYTES;
    footer.writeUInt32LE(storedBytes, at);
    footer.writeUInt32LE(checksum, at + 4);
    footer.writeUInt16LE(present, at + 8);
  });
  return footer;
}

/** A pack that is open for reading. */
export class Pack {
  readonly path: string;
  readonly id: string;
  readonly sizeBytes: number;
  readonly blocks: number;
  readonly #file: FileHandle;
  readonly #footer: Buffer;
  /** Where each block begins in the file, and the last one ends. */
  readonly #starts: Uint32Array;

  private constructor(path: string, id: string, file: FileHandle, footer: Buffer, sizeBytes: number) {
    this.path = path;
    this.id = id;
    this.sizeBytes = sizeBytes;
    this.#file = file;
    this.#footer = footer;
    this.blocks = footer.readUInt32LE(FIXED_BYTES - 8);
    this.#starts = new Uint32Array(this.blocks + 1);
    this.#starts[0] = HEAD_BYTES;
    for (let block = 0; block < this.blocks; block++) {
      this.#starts[block + 1] = this.#starts[block]! + this.block(block).storedBytes;
    }
  }

  /**
   * Opens a pack of the VM whose folder has this id.
   *
   * @throws STORE_CHECKPOINT_FOREIGN; as openSealed
   */
  static async open(folder: string, id: string, folderId: Buffer): Promise<Pack> {
    const path = packPath(folder, id);
    const { file, footer, bodyBytes, sizeBytes } = await openSealed(path, "GODWITPK");
    try {
      const blocks = footer.length < FIXED_BYTES ? -1 : footer.readUInt32LE(FIXED_BYTES - 8);
      if (blocks < 0 || blocks > MAX_PACK_BLOCKS || footer.length !== FIXED_BYTES + blocks * ENTRY_BYTES) {
        throw damaged(path, "its footer has an impossible length");
      }
      if (!folderId.equals(footer.subarray(0, FOLDER_ID_BYTES))) throw foreign(path);
      if (footer.toString("hex", FOLDER_ID_BYTES, FOLDER_ID_BYTES + PACK_ID_BYTES) !== id) {
        throw damaged(path, "it is another pack");
      }
      const pack = new Pack(path, id, file, footer, sizeBytes);
      if (pack.#starts[blocks]! + pack.contents * TAG_BYTES !== HEAD_BYTES + bodyBytes) {
        throw damaged(path, "its blocks have impossible lengths");
      }
      return pack;
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  block(block: number): Block {
    const at = FIXED_BYTES + block * ENTRY_BYTES;
    const storedBytes = this.#footer.readUInt32LE(at);
    const present = this.#presentOf(block);
    if (storedBytes > BLOCK_BYTES || (storedBytes === 0) !== (present === 0)) {
      throw damaged(this.path, `its block ${block} has an impossible length`);
    }
    return { storedBytes, checksum: this.#footer.readUInt32LE(at + 4), present };
  }

  /** Where a block begins in the file. */
  startOf(block: number): number {
    return this.#starts[block]!;
  }

  /** Whether a content is there, by its number. */
  has(content: number): boolean {
    const block = Math.floor(content / BLOCK_PAGES);
    return block < this.blocks && (this.#presentOf(block) & (1 << (content % BLOCK_PAGES))) !== 0;
  }

  /** How many contents are there. */
  get contents(): number {
    let contents = 0;
    for (let block = 0; block < this.blocks; block++) contents += bitsOf(this.#presentOf(block));
    return contents;
  }

  #presentOf(block: number): number {
    return this.#footer.readUInt16LE(FIXED_BYTES + block * ENTRY_BYTES + 8);
  }

  /** Fills `target` with blocks as they stand in the file, from `block` on. */
  async read(block: number, target: Uint8Array): Promise<void> {
    await readInto(this.path, this.#file, this.#starts[block]!, target);
  }

  /**
   * The tags of all contents by their numbers; zeros where there is none.
   *
   * @throws STORE_CHECKPOINT_DAMAGED, STORE_CHECKPOINT_READ
   */
  async tags(): Promise<Buffer> {
    const stored = await readExactly(this.path, this.#file, this.#starts[this.blocks]!, this.contents * TAG_BYTES);
    if (crc32(stored) !== this.#footer.readUInt32LE(FIXED_BYTES - 4)) {
      throw damaged(this.path, "its tags fail their checksum");
    }
    const tags = Buffer.alloc(this.blocks * BLOCK_PAGES * TAG_BYTES);
    let from = 0;
    for (let content = 0; content < this.blocks * BLOCK_PAGES; content++) {
      if (!this.has(content)) continue;
      stored.copy(tags, content * TAG_BYTES, from, from + TAG_BYTES);
      from += TAG_BYTES;
    }
    return tags;
  }

  async close(): Promise<void> {
    await this.#file.close();
  }
}

/** How many of 16 bits are set. */
function bitsOf(mask: number): number {
  let bits = 0;
  for (let rest = mask; rest !== 0; rest &= rest - 1) bits++;
  return bits;
}
