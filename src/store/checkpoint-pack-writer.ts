import { randomBytes } from "node:crypto";
import type { FileHandle } from "node:fs/promises";
import { rm } from "node:fs/promises";
import { crc32 } from "node:zlib";
import { TAG_BYTES } from "./checkpoint-kernels.ts";
import {
  BLOCK_PAGES,
  type Block,
  encodePackFooter,
  MAX_PACK_BLOCKS,
  PACK_ID_BYTES,
  PACK_PAGES,
  packPath,
} from "./checkpoint-pack.ts";
import { createPrivate, endOf, HEAD_BYTES, headOf, publish, TEMPORARY } from "./checkpoint-sealed-file.ts";
import { writeFully } from "./durable.ts";

const BUFFER_BYTES = 2 ** 20;

/** Writes a pack, block by block. It has a temporary name until it is finished. */
export class PackWriter {
  readonly id: string;
  /** The tags of all contents by their numbers; zeros where there is none. */
  readonly tags = Buffer.alloc(PACK_PAGES * TAG_BYTES);
  readonly #path: string;
  readonly #folderId: Buffer;
  readonly #file: FileHandle;
  readonly #blocks: Block[] = [];
  /** One is filled while the other is written. */
  #filling = Buffer.allocUnsafe(BUFFER_BYTES);
  #written = Buffer.allocUnsafe(BUFFER_BYTES);
  #filled = 0;
  #writing: Promise<void> = Promise.resolve();
  /** Where the buffer that is being filled goes. */
  #at = 0;

  private constructor(path: string, id: string, folderId: Buffer, file: FileHandle) {
    this.#path = path;
    this.id = id;
    this.#folderId = folderId;
    this.#file = file;
    this.#filled = headOf("GODWITPK").copy(this.#filling);
  }

  /** @param id that of the pack to be replaced; default: a new one */
  static async create(folder: string, folderId: Buffer, id?: string): Promise<PackWriter> {
    const ownId = id ?? randomBytes(PACK_ID_BYTES).toString("hex");
    const path = packPath(folder, ownId);
    return new PackWriter(path, ownId, folderId, await createPrivate(path + TEMPORARY));
  }

  get blocks(): number {
    return this.#blocks.length;
  }

  get isFull(): boolean {
    return this.#blocks.length === MAX_PACK_BLOCKS;
  }

  /** The bytes of its file so far. */
  get sizeBytes(): number {
    return this.#at + this.#filled;
  }

  /** Appends a block, which is copied. Its tags must stand in `tags`. */
  async add(stored: Uint8Array, present: number): Promise<void> {
    const storedBytes = present === 0 ? 0 : stored.length;
    const checksum = present === 0 ? 0 : crc32(stored);
    this.#blocks.push({ storedBytes, checksum, present });
    if (storedBytes > 0) await this.#append(stored);
  }

  /** Writes what is left, and lets the pack appear. */
  async finish(): Promise<void> {
    const tags: Buffer[] = [];
    this.#blocks.forEach(({ present }, block) => {
      for (let page = 0; page < BLOCK_PAGES; page++) {
        const at = (block * BLOCK_PAGES + page) * TAG_BYTES;
        if ((present & (1 << page)) !== 0) tags.push(this.tags.subarray(at, at + TAG_BYTES));
      }
    });
    const tagBytes = Buffer.concat(tags);
    await this.#append(tagBytes);
    const footer = encodePackFooter(this.#folderId, this.id, this.#blocks, crc32(tagBytes));
    await this.#append(endOf(footer, this.sizeBytes - HEAD_BYTES));
    await this.#flush();
    await this.#writing;
    await publish(this.#file, this.#path);
  }

  /** Removes what was written. */
  async abort(): Promise<void> {
    await this.#writing.catch(() => {});
    await this.#file.close();
    await rm(this.#path + TEMPORARY, { force: true });
  }

  async #append(bytes: Uint8Array): Promise<void> {
    for (let done = 0; done < bytes.length; ) {
      const part = Math.min(bytes.length - done, BUFFER_BYTES - this.#filled);
      this.#filling.set(bytes.subarray(done, done + part), this.#filled);
      this.#filled += part;
      done += part;
      if (this.#filled === BUFFER_BYTES) await this.#flush();
    }
  }

  async #flush(): Promise<void> {
    await this.#writing;
    this.#writing = writeFully(this.#file, this.#filling.subarray(0, this.#filled), this.#at);
    this.#writing.catch(() => {}); // it is awaited before the next one
    this.#at += this.#filled;
    this.#filled = 0;
    [this.#filling, this.#written] = [this.#written, this.#filling];
  }
}
