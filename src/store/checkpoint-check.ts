import { GodwitError, messageOf } from "../errors.ts";
import { CHUNK_PAGES, MAX_PAGE_NUMBER } from "./checkpoint-chunk.ts";
import {
  Arena,
  HASH_BYTES,
  type KernelSource,
  PAGE_BYTES,
  type StoreKernels,
  TAG_BYTES,
} from "./checkpoint-kernels.ts";
import { PACK_PAGES } from "./checkpoint-pack.ts";
import type { CheckpointReader, ChunkColumns } from "./checkpoint-reader.ts";

/** Pages that are checked together. */
const BATCH_PAGES = 256;
/** Further problems are counted only. */
const MAX_PROBLEMS = 10;
const WORD_BYTES = 4;
const WORK_BYTES = 2 ** 21;

/** What a check found. */
export interface CheckpointCheck {
  readonly id: string;
  readonly pages: number;
  /** Pages that cannot be read, or are not what they were. */
  readonly damagedPages: number;
  /** The first few problems, in words. */
  readonly problems: readonly string[];
}

/** Reads all of a checkpoint, and compares each page with its hash and its tag. */
export class CheckpointChecker {
  readonly #reader: CheckpointReader;
  readonly #kernels: StoreKernels;
  readonly #words: DataView;
  readonly #pages: number;
  readonly #addresses: number;
  readonly #hashes: number;
  readonly #tags: number;
  readonly #scratch: number;
  readonly #secret: number;
  readonly #key: number;
  /** Packs of which something could not be read. */
  readonly damagedPacks = new Set<string>();
  readonly #problems = new Set<string>();
  #damagedPages = 0;
  #lastNumber = -1;
  /** Those of the pack that was last asked for. */
  #packTags: { pack: number; tags: Buffer | undefined } = { pack: -1, tags: undefined };

  constructor(source: KernelSource, reader: CheckpointReader) {
    this.#reader = reader;
    this.#kernels = source.create(WORK_BYTES);
    const { bytes } = this.#kernels;
    this.#words = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const arena = new Arena(this.#kernels, WORK_BYTES);
    const secret = source.xxh3Secret(reader.seed);
    this.#pages = arena.take(BATCH_PAGES * PAGE_BYTES);
    this.#addresses = arena.take(BATCH_PAGES * WORD_BYTES);
    this.#hashes = arena.take(BATCH_PAGES * HASH_BYTES);
    this.#tags = arena.take(BATCH_PAGES * TAG_BYTES);
    this.#scratch = arena.take(source.tagScratchBytes);
    this.#secret = arena.take(secret.length);
    this.#key = arena.take(reader.tagKey.length);
    bytes.set(secret, this.#secret);
    bytes.set(reader.tagKey, this.#key);
  }

  /** @param onProgress is told how many pages were checked */
  async check(onProgress: (pages: number) => void): Promise<CheckpointCheck> {
    const { pages, id } = this.#reader;
    for (let first = 0; first < pages; first += CHUNK_PAGES) {
      const count = Math.min(CHUNK_PAGES, pages - first);
      const columns = await this.#orDamaged(count, () => this.#reader.chunk(first / CHUNK_PAGES));
      if (columns) await this.#checkChunk(first, count, columns);
      onProgress(first + count);
    }
    return { id, pages, damagedPages: this.#damagedPages, problems: [...this.#problems] };
  }

  /** What fails is a problem of so many pages. */
  async #orDamaged<T>(pages: number, work: () => Promise<T>): Promise<T | undefined> {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof GodwitError)) throw error;
      this.#report(pages, messageOf(error));
      return undefined;
    }
  }

  #report(pages: number, problem: string): void {
    this.#damagedPages += pages;
    if (this.#problems.size < MAX_PROBLEMS) this.#problems.add(problem);
  }

  async #checkChunk(first: number, count: number, { numbers, hashes, places }: ChunkColumns): Promise<void> {
    this.#checkOrder(numbers);
    for (let row = 0; row < count; row += BATCH_PAGES) {
      const rows = Math.min(BATCH_PAGES, count - row);
      if (await this.#read(first + row, rows)) {
        await this.#checkPages(first, row, rows, hashes, places);
        continue;
      }
      for (let one = row; one < row + rows; one++) {
        const isRead = await this.#orDamaged(1, () => this.#readOne(first + one));
        if (isRead) await this.#checkPages(first, one, 1, hashes, places);
        else this.#noteDamaged(places.readUInt32LE(one * WORD_BYTES));
      }
    }
  }

  #noteDamaged(place: number): void {
    const pack = this.#reader.record.packs[Math.floor(place / PACK_PAGES)];
    if (pack !== undefined) this.damagedPacks.add(pack);
  }

  #checkOrder(numbers: Buffer): void {
    for (let at = 0; at < numbers.length; at += 8) {
      const number = Number(numbers.readBigUInt64LE(at));
      const isInOrder = number > this.#lastNumber && number < MAX_PAGE_NUMBER;
      if (!isInOrder) this.#report(1, `page number ${number} is out of order`);
      this.#lastNumber = number;
    }
  }

  /** Whether all of these pages can be read. */
  async #read(position: number, pages: number): Promise<boolean> {
    const target = this.#kernels.bytes.subarray(this.#pages, this.#pages + pages * PAGE_BYTES);
    return this.#reader.read(position * PAGE_BYTES, target).then(
      () => true,
      () => false,
    );
  }

  async #readOne(position: number): Promise<boolean> {
    await this.#reader.read(position * PAGE_BYTES, this.#kernels.bytes.subarray(this.#pages, this.#pages + PAGE_BYTES));
    return true;
  }

  async #checkPages(first: number, row: number, rows: number, hashes: Buffer, places: Buffer): Promise<void> {
    for (let i = 0; i < rows; i++) {
      this.#words.setUint32(this.#addresses + i * WORD_BYTES, this.#pages + i * PAGE_BYTES, true);
    }
    this.#kernels.pages.hashPages(this.#secret, this.#addresses, rows, this.#hashes);
    this.#kernels.pages.tagPages(this.#key, this.#scratch, this.#addresses, rows, this.#tags);
    for (let i = 0; i < rows; i++) {
      const place = places.readUInt32LE((row + i) * WORD_BYTES);
      const tags = await this.#tagsOf(Math.floor(place / PACK_PAGES));
      const isSame =
        this.#equals(this.#hashes + i * HASH_BYTES, hashes, (row + i) * HASH_BYTES, HASH_BYTES) &&
        (tags === undefined ||
          this.#equals(this.#tags + i * TAG_BYTES, tags, (place % PACK_PAGES) * TAG_BYTES, TAG_BYTES));
      if (!isSame) this.#report(1, `page ${first + row + i} is not what it was`);
    }
  }

  #equals(at: number, other: Buffer, otherAt: number, bytes: number): boolean {
    for (let offset = 0; offset < bytes; offset += WORD_BYTES) {
      if (this.#words.getUint32(at + offset, true) !== other.readUInt32LE(otherAt + offset)) return false;
    }
    return true;
  }

  /** The tags of a pack. Pages can be read without: that there are none is told, and no page's fault. */
  async #tagsOf(pack: number): Promise<Buffer | undefined> {
    if (pack !== this.#packTags.pack) {
      this.#packTags = { pack, tags: await this.#orDamaged(0, () => this.#reader.tagsOf(pack)) };
    }
    return this.#packTags.tags;
  }
}
