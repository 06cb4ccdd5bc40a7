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
import { PACK_PAGES, Pack } from "./checkpoint-pack.ts";
import type { CheckpointReader } from "./checkpoint-reader.ts";
import type { VmRecord } from "./checkpoint-vm.ts";

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
  readonly #folder: string;
  readonly #vm: VmRecord;
  readonly #kernels: StoreKernels;
  readonly #words: DataView;
  readonly #at: {
    pages: number;
    addresses: number;
    hashes: number;
    tags: number;
    scratch: number;
    secret: number;
    key: number;
  };
  readonly #problems = new Set<string>();
  #damagedPages = 0;
  #last = -1;
  #tagsPack = -1;
  #tags: Buffer | undefined;

  constructor(source: KernelSource, folder: string, vm: VmRecord, reader: CheckpointReader) {
    this.#reader = reader;
    this.#folder = folder;
    this.#vm = vm;
    this.#kernels = source.create(WORK_BYTES);
    const { bytes } = this.#kernels;
    this.#words = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const arena = new Arena(this.#kernels, WORK_BYTES);
    const secret = source.xxh3Secret(vm.seed);
    this.#at = {
      pages: arena.take(BATCH_PAGES * PAGE_BYTES),
      addresses: arena.take(BATCH_PAGES * WORD_BYTES),
      hashes: arena.take(BATCH_PAGES * HASH_BYTES),
      tags: arena.take(BATCH_PAGES * TAG_BYTES),
      scratch: arena.take(source.tagScratchBytes),
      secret: arena.take(secret.length),
      key: arena.take(vm.tagKey.length),
    };
    bytes.set(secret, this.#at.secret);
    bytes.set(vm.tagKey, this.#at.key);
  }

  /** @param onProgress is told how many pages were checked */
  async check(onProgress: (pages: number) => void): Promise<CheckpointCheck> {
    const { pages, id } = this.#reader;
    for (let first = 0; first < pages; first += CHUNK_PAGES) {
      const count = Math.min(CHUNK_PAGES, pages - first);
      await this.#orDamaged(count, () => this.#checkChunk(first, count));
      onProgress(first + count);
    }
    return { id, pages, damagedPages: this.#damagedPages, problems: [...this.#problems] };
  }

  /** What fails is a problem of so many pages. */
  async #orDamaged(pages: number, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (!(error instanceof GodwitError)) throw error;
      this.#report(pages, messageOf(error));
    }
  }

  #report(pages: number, problem: string): void {
    this.#damagedPages += pages;
    if (this.#problems.size < MAX_PROBLEMS) this.#problems.add(problem);
  }

  async #checkChunk(first: number, count: number): Promise<void> {
    const chunk = first / CHUNK_PAGES;
    const [numbers, hashes, places] = await this.#reader.chunk(chunk);
    this.#checkOrder(numbers);
    for (let at = 0; at < count; at += BATCH_PAGES) {
      await this.#checkPages(first + at, Math.min(BATCH_PAGES, count - at), hashes, places, at);
    }
  }

  #checkOrder(numbers: Buffer): void {
    for (let at = 0; at < numbers.length; at += 8) {
      const number = Number(numbers.readBigUInt64LE(at));
      if (number <= this.#last || number >= MAX_PAGE_NUMBER)
        this.#report(1, `its page numbers are out of order at ${number}`);
      this.#last = number;
    }
  }

  /** Pages together where they can be read, else one by one. */
  async #checkPages(first: number, count: number, hashes: Buffer, places: Buffer, row: number): Promise<void> {
    const target = this.#kernels.bytes.subarray(this.#at.pages, this.#at.pages + count * PAGE_BYTES);
    try {
      await this.#reader.read(first * PAGE_BYTES, target);
    } catch (error) {
      if (count === 1) throw error;
      for (let i = 0; i < count; i++) {
        await this.#orDamaged(1, () => this.#checkPages(first + i, 1, hashes, places, row + i));
      }
      return;
    }
    const { pages, addresses, hashes: found, tags, scratch, secret, key } = this.#at;
    for (let i = 0; i < count; i++) this.#words.setUint32(addresses + i * WORD_BYTES, pages + i * PAGE_BYTES, true);
    this.#kernels.pages.hashPages(secret, addresses, count, found);
    this.#kernels.pages.tagPages(key, scratch, addresses, count, tags);
    for (let i = 0; i < count; i++) {
      const place = places.readUInt32LE((row + i) * WORD_BYTES);
      const isHash = this.#isSame(found + i * HASH_BYTES, hashes, (row + i) * HASH_BYTES, HASH_BYTES);
      const isTag = this.#isSame(
        tags + i * TAG_BYTES,
        await this.#tagsOf(place),
        (place % PACK_PAGES) * TAG_BYTES,
        TAG_BYTES,
      );
      if (!isHash || !isTag) this.#report(1, `page ${first + i} is not what it was`);
    }
  }

  #isSame(at: number, other: Buffer, otherAt: number, bytes: number): boolean {
    for (let offset = 0; offset < bytes; offset += WORD_BYTES) {
      if (this.#words.getUint32(at + offset, true) !== other.readUInt32LE(otherAt + offset)) return false;
    }
    return true;
  }

  async #tagsOf(place: number): Promise<Buffer> {
    const number = Math.floor(place / PACK_PAGES);
    if (number !== this.#tagsPack) {
      const pack = await Pack.open(this.#folder, this.#reader.record.packs[number]!, this.#vm.folderId);
      try {
        this.#tags = await pack.tags();
        this.#tagsPack = number;
      } finally {
        await pack.close();
      }
    }
    return this.#tags!;
  }
}
