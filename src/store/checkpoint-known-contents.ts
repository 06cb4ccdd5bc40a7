import { readdir } from "node:fs/promises";
import { NO_PLACE } from "./checkpoint-entries.ts";
import { codeOf } from "./checkpoint-errors.ts";
import {
  type Arena,
  HASH_BYTES,
  type KernelSource,
  NOT_FOUND,
  type StoreKernels,
  TAG_BYTES,
} from "./checkpoint-kernels.ts";
import { MAX_PACKS } from "./checkpoint-manifest.ts";
import { PACK_PAGES, PACK_SUFFIX, Pack } from "./checkpoint-pack.ts";

/** Contents that are known, at most: 410 MB. What is beyond may be stored twice. */
const MAX_KNOWN = 32 * 2 ** 20;
/** Packs whose tags stand in memory, a megabyte each. Places near each other are asked for together. */
const MAX_TAG_TABLES = 32;
const WORD_BYTES = 4;

/** Which contents a VM's folder has, by their tags. */
export class KnownContents {
  /** The pack that the upper half of a place means. */
  readonly packs: string[] = [];
  readonly #kernels: StoreKernels;
  readonly #words: DataView;
  readonly #table: number;
  readonly #buckets: number;
  /** The first 8 bytes of a tag, which the table takes for a hash; and what it gives. */
  readonly #hash: number;
  readonly #value: number;
  readonly #folder: string;
  readonly #folderId: Buffer;
  /** Tags by pack, those used last behind. */
  readonly #tags = new Map<number, Buffer>();
  #lastPack = -1;
  #lastTags: Buffer = Buffer.alloc(0);

  static memoryBytes(source: KernelSource, entries: number): number {
    return source.indexBucketsFor(Math.min(entries, MAX_KNOWN)) * source.indexBucketBytes;
  }

  constructor(
    source: KernelSource,
    kernels: StoreKernels,
    arena: Arena,
    entries: number,
    folder: string,
    folderId: Buffer,
  ) {
    this.#kernels = kernels;
    const { bytes } = kernels;
    this.#words = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#hash = arena.take(HASH_BYTES);
    this.#value = arena.take(WORD_BYTES);
    const tableBytes = KnownContents.memoryBytes(source, entries);
    this.#buckets = tableBytes / source.indexBucketBytes;
    this.#table = arena.take(tableBytes);
    bytes.fill(0xff, this.#table, this.#table + tableBytes);
    this.#folder = folder;
    this.#folderId = folderId;
  }

  /** The packs of a folder that can be read, and how many contents they have. */
  static async survey(folder: string, folderId: Buffer): Promise<{ ids: string[]; contents: number }> {
    const names = (await readdir(folder)).filter((name) => name.endsWith(PACK_SUFFIX)).slice(0, MAX_PACKS / 2);
    const ids: string[] = [];
    let contents = 0;
    for (const name of names) {
      const id = name.slice(0, -PACK_SUFFIX.length);
      const pack = await ifIntact(() => Pack.open(folder, id, folderId));
      if (pack === undefined) continue;
      ids.push(id);
      contents += pack.contents;
      await pack.close();
    }
    return { ids, contents };
  }

  /** Takes the contents of a pack in, if its tags can be read. */
  async learn(id: string): Promise<void> {
    const tags = await ifIntact(() => this.#read(id));
    if (tags === undefined) return;
    this.begin(id, tags);
    for (let at = 0; at < tags.length; at += TAG_BYTES) {
      const [low, high] = [tags.readUInt32LE(at), tags.readUInt32LE(at + WORD_BYTES)];
      if (low === 0 && high === 0) continue; // there is no content of this number
      this.#words.setUint32(this.#hash, low, true);
      this.#words.setUint32(this.#hash + WORD_BYTES, high, true);
      this.add(this.#hash, at / TAG_BYTES);
    }
  }

  /** Further contents are in this pack. `tags` will have them. */
  begin(id: string, tags: Buffer): void {
    this.packs.push(id);
    this.#keep(this.packs.length - 1, tags);
  }

  /** Adds a content of the last pack; returns its place. */
  add(tag: number, content: number): number {
    const place = (this.packs.length - 1) * PACK_PAGES + content;
    this.#words.setUint32(this.#value, place, true);
    this.#kernels.pages.insertPages(this.#table, this.#buckets, tag, this.#value, 1);
    return place;
  }

  /** The place of the content with the tag at this address; NO_PLACE if it is not known. */
  find(tag: number): number | Promise<number> {
    this.#kernels.pages.lookupPages(this.#table, this.#buckets, tag, 1, this.#value);
    const place = this.#words.getUint32(this.#value, true);
    if (place === NOT_FOUND) return NO_PLACE;
    const pack = Math.floor(place / PACK_PAGES);
    if (pack === this.#lastPack) return this.#confirm(place, this.#lastTags, tag);
    const tags = this.#tags.get(pack);
    if (tags === undefined) return this.#findStored(place, pack, tag);
    this.#keep(pack, tags);
    return this.#confirm(place, tags, tag);
  }

  async #findStored(place: number, pack: number, tag: number): Promise<number> {
    const tags = await ifIntact(() => this.#read(this.packs[pack]!));
    if (tags === undefined) return NO_PLACE;
    this.#keep(pack, tags);
    return this.#confirm(place, tags, tag);
  }

  /** The table compares a part of the tag only. */
  #confirm(place: number, tags: Buffer, tag: number): number {
    const at = (place % PACK_PAGES) * TAG_BYTES;
    for (let offset = 0; offset < TAG_BYTES; offset += WORD_BYTES) {
      if (tags.readUInt32LE(at + offset) !== this.#words.getUint32(tag + offset, true)) return NO_PLACE;
    }
    return place;
  }

  #keep(pack: number, tags: Buffer): void {
    this.#lastPack = pack;
    this.#lastTags = tags;
    this.#tags.delete(pack);
    this.#tags.set(pack, tags);
    if (this.#tags.size > MAX_TAG_TABLES) this.#tags.delete(this.#tags.keys().next().value!);
  }

  async #read(id: string): Promise<Buffer> {
    const pack = await Pack.open(this.#folder, id, this.#folderId);
    try {
      return await pack.tags();
    } finally {
      await pack.close();
    }
  }
}

/** What cannot be read is not used: its contents are stored again. */
async function ifIntact<T>(read: () => Promise<T>): Promise<T | undefined> {
  return read().catch((error) => {
    if (codeOf(error)?.startsWith("STORE_CHECKPOINT_")) return undefined;
    throw error;
  });
}
