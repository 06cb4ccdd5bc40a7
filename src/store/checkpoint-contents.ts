import { rm } from "node:fs/promises";
import { BlockPacker } from "./checkpoint-block-codec.ts";
import { NO_PLACE } from "./checkpoint-entries.ts";
import { checkpointError } from "./checkpoint-errors.ts";
import {
  Arena,
  HASH_BYTES,
  type KernelSource,
  PAGE_BYTES,
  type StoreKernels,
  TAG_BYTES,
} from "./checkpoint-kernels.ts";
import { KnownContents } from "./checkpoint-known-contents.ts";
import { MAX_PACKS } from "./checkpoint-manifest.ts";
import { BLOCK_PAGES, PACK_PAGES, packPath } from "./checkpoint-pack.ts";
import { PackWriter } from "./checkpoint-pack-writer.ts";
import type { VmRecord } from "./checkpoint-vm.ts";

/** Pages that are looked at together, at most. */
export const BATCH_PAGES = 64;
const WORD_BYTES = 4;
const WORK_BYTES = 2 ** 20;

/** What a batch of pages became. */
export interface PutPages {
  /** NO_PLACE for pages that are all zero. */
  readonly places: Uint32Array;
  /** XXH3-64 of those that are not, two words each, the lower one first. */
  readonly hashes: Uint32Array;
}

/** The contents of a VM's folder: finds those that are there, and adds the others. */
export class Contents {
  readonly #folder: string;
  readonly #vm: VmRecord;
  readonly #kernels: StoreKernels;
  readonly #known: KnownContents;
  readonly #words: DataView;
  readonly #packer: BlockPacker;
  readonly #pages: number;
  readonly #addresses: number;
  readonly #hashes: number;
  readonly #tags: number;
  readonly #key: number;
  readonly #secret: number;
  readonly #scratch: number;
  readonly #put: PutPages = { places: new Uint32Array(BATCH_PAGES), hashes: new Uint32Array(2 * BATCH_PAGES) };
  readonly #ownPacks: string[] = [];
  #pack: PackWriter | undefined;
  /** Contents in the packer's block. */
  #waiting = 0;
  #finishedBytes = 0;

  private constructor(source: KernelSource, folder: string, vm: VmRecord, entries: number) {
    this.#folder = folder;
    this.#vm = vm;
    const sizeBytes = WORK_BYTES + KnownContents.memoryBytes(source, entries);
    this.#kernels = source.create(sizeBytes);
    const { bytes } = this.#kernels;
    this.#words = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const arena = new Arena(this.#kernels, sizeBytes);
    this.#pages = arena.take(BATCH_PAGES * PAGE_BYTES);
    this.#addresses = arena.take(BATCH_PAGES * WORD_BYTES);
    this.#hashes = arena.take(BATCH_PAGES * HASH_BYTES);
    this.#tags = arena.take(BATCH_PAGES * TAG_BYTES);
    this.#scratch = arena.take(source.tagScratchBytes);
    const secret = source.xxh3Secret(vm.seed);
    this.#secret = arena.take(secret.length);
    this.#key = arena.take(vm.tagKey.length);
    bytes.set(secret, this.#secret);
    bytes.set(vm.tagKey, this.#key);
    this.#packer = new BlockPacker(this.#kernels, arena.take(BlockPacker.memoryBytes(source)));
    this.#known = new KnownContents(source, this.#kernels, arena, entries, folder, vm.folderId);
  }

  /** Learns what stands in the packs of a folder. `newPages` are to be expected. */
  static async open(source: KernelSource, folder: string, vm: VmRecord, newPages: number): Promise<Contents> {
    const { ids, contents: stored } = await KnownContents.survey(folder, vm.folderId);
    const contents = new Contents(source, folder, vm, stored + newPages);
    for (const id of ids) await contents.#known.learn(id);
    return contents;
  }

  /** The packs that the upper halves of places mean. */
  get packs(): readonly string[] {
    return this.#known.packs;
  }

  /** Bytes of the packs that were added. */
  get newBytes(): number {
    return this.#finishedBytes + (this.#pack?.sizeBytes ?? 0);
  }

  /**
   * Sees to it that the contents of at most BATCH_PAGES pages are there.
   *
   * @returns what is valid until the next call
   */
  async put(pages: Uint8Array): Promise<PutPages> {
    const { bytes, pages: kernels } = this.#kernels;
    const count = pages.length / PAGE_BYTES;
    bytes.set(pages, this.#pages);
    const nonZero = kernels.listNonZero(this.#pages, PAGE_BYTES, count, this.#addresses);
    kernels.hashPages(this.#secret, this.#addresses, nonZero, this.#hashes);
    kernels.tagPages(this.#key, this.#scratch, this.#addresses, nonZero, this.#tags);
    this.#put.places.fill(NO_PLACE, 0, count);
    for (let i = 0; i < nonZero; i++) {
      const address = this.#words.getUint32(this.#addresses + i * WORD_BYTES, true);
      const page = (address - this.#pages) / PAGE_BYTES;
      const hash = this.#hashes + i * HASH_BYTES;
      this.#put.hashes[2 * page] = this.#words.getUint32(hash, true);
      this.#put.hashes[2 * page + 1] = this.#words.getUint32(hash + WORD_BYTES, true);
      const tag = this.#tags + i * TAG_BYTES;
      // Mostly there is nothing to wait for, and a promise a page would cost more than the rest.
      const found = this.#known.find(tag);
      const place = typeof found === "number" ? found : await found;
      this.#put.places[page] = place === NO_PLACE ? await this.#store(address, tag) : place;
    }
    return this.#put;
  }

  /** Lets the last of the packs appear. */
  async finish(): Promise<void> {
    if (this.#waiting > 0) await this.#flushBlock();
    if (this.#pack !== undefined) await this.#finishPack(this.#pack);
  }

  /** Removes all that was added. */
  async abort(): Promise<void> {
    await this.#pack?.abort();
    this.#pack = undefined;
    for (const id of this.#ownPacks) await rm(packPath(this.#folder, id), { force: true });
  }

  async #store(address: number, tag: number): Promise<number> {
    this.#pack ??= await this.#createPack();
    const pack = this.#pack;
    const content = pack.blocks * BLOCK_PAGES + this.#waiting;
    const { bytes } = this.#kernels;
    this.#packer.block.set(bytes.subarray(address, address + PAGE_BYTES), this.#waiting++ * PAGE_BYTES);
    pack.tags.set(bytes.subarray(tag, tag + TAG_BYTES), content * TAG_BYTES);
    const place = this.#known.add(tag, content);
    if (this.#waiting === BLOCK_PAGES) await this.#flushBlock();
    return place;
  }

  async #createPack(): Promise<PackWriter> {
    if (this.packs.length === MAX_PACKS) {
      throw checkpointError("STORE_TOO_BIG", `a checkpoint cannot have more than ${MAX_PACKS} packs`, this.#folder);
    }
    const pack = await PackWriter.create(this.#folder, this.#vm.folderId);
    this.#known.begin(pack.id, pack.tags);
    return pack;
  }

  async #flushBlock(): Promise<void> {
    const pack = this.#pack!;
    this.#packer.block.fill(0, this.#waiting * PAGE_BYTES);
    await pack.add(this.#packer.pack(), 2 ** this.#waiting - 1);
    this.#waiting = 0;
    if (pack.blocks * BLOCK_PAGES === PACK_PAGES) await this.#finishPack(pack);
  }

  async #finishPack(pack: PackWriter): Promise<void> {
    this.#ownPacks.push(pack.id);
    await pack.finish();
    this.#finishedBytes += pack.sizeBytes;
    this.#pack = undefined;
  }
}
