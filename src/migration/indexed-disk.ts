/** One disk of a running VM with what is known of its content: docs/index-format.md says what is read again, and when. */

import { GodwitError, messageOf } from "../errors.ts";
import type { WriteWatch } from "../qemu/dirty-bitmap.ts";
import type { Disk } from "../qemu/disks.ts";
import { identityOf, type VmFacts } from "../qemu/facts.ts";
import { type BlockHasher, type Known, type ReadCounts, ReadingPlan, readDisk } from "../store/disk-index.ts";
import type { DiskReader, Extent, FileIdentity } from "../store/disk-reader.ts";
import type { IndexWriter, StoredIndex } from "../store/index-file.ts";
import { BLOCK_BYTES, blocksOfPart, HASH_BYTES, PART_BLOCKS, PART_HASH_BYTES } from "../store/index-format.ts";
import { knownBy } from "../store/index-known.ts";
import type { IndexStore, IndexSubject } from "../store/index-store.ts";

/** Takes the hashes (u64 each) of the blocks of a disk from `firstBlock` on. */
export type HashSink = (firstBlock: number, hashes: Uint8Array) => void;

/** A disk that can be read, and its index. */
export class IndexedDisk {
  readonly reader: DiskReader;
  readonly known: Known;
  /** Blocks whose content was known from before, zeros not counted. */
  readonly knownBlocks: number;
  readonly counts: ReadCounts = { readBytes: 0, newBlocks: 0, readMs: 0 };
  readonly #record: DiskRecord;
  readonly #files: readonly FileIdentity[] | null;
  readonly #plan: ReadingPlan;
  #writer: IndexWriter | undefined;
  #isNotWritable = false;
  #isDoubted = false;
  /** Parts of which only some blocks were read now. */
  readonly #mixedParts: number[] = [];
  #saving: Promise<boolean> | undefined;

  constructor(record: DiskRecord, reader: DiskReader, known: Known, files: readonly FileIdentity[] | null) {
    this.#record = record;
    this.reader = reader;
    this.known = known;
    this.knownBlocks = known.stored?.hashes ?? 0;
    this.#files = files;
    this.#plan = new ReadingPlan(reader.sizeBytes, known);
  }

  get id(): string {
    return this.#record.disk.id;
  }

  /** QEMU's name for its image, or where it is read instead. */
  get image(): string {
    return this.#record.disk.image;
  }

  /** About how many blocks the index will hold, zeros not counted. */
  async expectedBlocks(): Promise<number> {
    const allocatedBytes = (await this.reader.allocatedBytes?.().catch(() => undefined)) ?? this.reader.sizeBytes;
    const blocks = Math.min(Math.ceil(allocatedBytes / BLOCK_BYTES), Math.floor(this.reader.sizeBytes / BLOCK_BYTES));
    // Of blocks that have changed it holds the old and the new.
    return Math.max(blocks, this.knownBlocks) + Math.ceil(this.knownBlocks / 8);
  }

  /** Hands over what is known from before, also of blocks that may have changed since. */
  async load(sink: HashSink, signal: AbortSignal): Promise<void> {
    const { stored } = this.known;
    if (stored === undefined) return;
    const parts = Array.from({ length: stored.parts }, (_, part) => part).filter(
      (part) => stored.hashesOf(part) > 0 && stored.blocks(part) === blocksOfPart(this.reader.sizeBytes, part),
    );
    // One is read while the one before is handed over.
    const buffers = [0, 1].map(() => new Uint8Array(PART_HASH_BYTES)) as [Uint8Array, Uint8Array];
    const read = (i: number) => (i < parts.length ? stored.readPart(parts[i]!, buffers[i % 2]!) : undefined);
    let damagedParts = 0;
    let reading = read(0);
    for (const [i, part] of parts.entries()) {
      if (signal.aborted) break;
      const isRead = await reading;
      reading = read(i + 1);
      if (isRead) sink(part * PART_BLOCKS, buffers[i % 2]!.subarray(0, stored.blocks(part) * HASH_BYTES));
      else damagedParts++;
    }
    await reading;
    if (damagedParts > 0) this.#warn(`is damaged in ${damagedParts} of ${stored.parts} parts, which are read again`);
  }

  /** Whether it can be kept. */
  get isKept(): boolean {
    return this.#record.store !== undefined && !this.#isNotWritable;
  }

  /**
   * Reads what is not known. Returns whether all is known then.
   *
   * @throws what reading throws
   */
  read(hasher: BlockHasher, sink: HashSink, goesOn: () => boolean, signal: AbortSignal): Promise<boolean> {
    const { reader, known, counts } = this;
    const onPart = async (part: number, hashes: Uint8Array, count: number, isReadWhole: boolean) => {
      sink(part * PART_BLOCKS, hashes);
      if (!isReadWhole) this.#mixedParts.push(part);
      await this.#keep((writer) => writer.put(part, hashes, count));
    };
    return readDisk(reader, known, this.#plan, { hasher, onPart, goesOn, signal, counts });
  }

  /** What is known from before may be wrong, though nothing says so: it is to be read again the next time. */
  doubt(): void {
    this.#isDoubted = true;
  }

  /** Writes the index if there is something new to it, the first time. Returns whether it was written. Never rejects. */
  save(isVmHere: boolean): Promise<boolean> {
    this.#saving ??= this.#save(isVmHere);
    return this.#saving;
  }

  async #save(isVmHere: boolean): Promise<boolean> {
    const { subject, watch } = this.#record;
    const { stored, changes } = this.known;
    // What is known from before is worth more with a bitmap than without.
    const isToBeWatched = isVmHere && watch?.previous === undefined && stored !== undefined && changes !== null;
    let isSaved = false;
    const isDoubted = this.#isDoubted && stored !== undefined;
    if (this.#writer !== undefined || isDoubted || (isToBeWatched && watch !== undefined)) {
      const bitmap = isVmHere ? (watch?.bitmap ?? null) : null;
      const files = this.#files?.map((file) => ({ ...file })) ?? null;
      const about = { ...subject, files, bitmap, savedMs: Date.now() };
      isSaved = await this.#keep((writer) => {
        if (isDoubted) for (const part of this.#mixedParts) writer.doubt(part);
        return writer.finish(about, stored, (part) => isDoubted || this.#plan.isStale(part));
      });
    }
    await this.#writer?.[Symbol.asyncDispose]().catch(() => {});
    await stored?.[Symbol.asyncDispose]().catch(() => {});
    return isSaved;
  }

  /** Ends what is not to be noted any more. Never rejects. */
  async settle(isVmHere: boolean, isSaved: boolean): Promise<void> {
    const { watch } = this.#record;
    if (!isVmHere) await watch?.drop();
    else if (isSaved) await watch?.keep();
    else await watch?.undo();
  }

  /** Does something with the file that is being written, for as long as there can be one. Returns whether it was done. */
  async #keep(work: (writer: IndexWriter) => Promise<void>): Promise<boolean> {
    const { store, subject } = this.#record;
    if (store === undefined || this.#isNotWritable) return false;
    try {
      this.#writer ??= await store.create(subject, this.reader.sizeBytes);
      await work(this.#writer);
      return true;
    } catch (error) {
      this.#isNotWritable = true;
      this.#record.warn(`disk ${this.id}: ${messageOf(error)}`);
      await this.#writer?.[Symbol.asyncDispose]().catch(() => {});
      this.#writer = undefined;
      return false;
    }
  }

  #warn(what: string): void {
    this.#record.warn(`the index of disk ${this.id} ${what}`);
  }
}

/** A disk before it is open. */
export class DiskRecord {
  readonly disk: Disk;
  readonly subject: IndexSubject;
  readonly store: IndexStore | undefined;
  readonly warn: (message: string) => void;
  stored: StoredIndex | undefined;
  watch: WriteWatch | undefined;

  constructor(disk: Disk, vm: VmFacts, store: IndexStore | undefined, warn: (message: string) => void) {
    this.disk = disk;
    this.subject = {
      vm: identityOf(vm) ?? `image:${disk.image}`,
      disk: disk.id,
      vmName: vm.name,
      image: disk.image,
    };
    this.store = store;
    this.warn = warn;
  }

  async find(): Promise<void> {
    try {
      this.stored = await this.store?.find(this.subject);
    } catch (error) {
      if (!(error instanceof GodwitError)) throw error;
      this.warn(`the index of disk ${this.disk.id} is not used: ${error.message}; it is built anew`);
    }
  }

  async with(reader: DiskReader, changes: (() => AsyncIterable<Extent>) | undefined): Promise<IndexedDisk> {
    const files = await reader.identity().catch(() => null);
    const { stored } = this;
    const known = stored ? await knownBy(stored, files, this.disk.image, changes) : undefined;
    if (stored !== undefined && known === undefined) await stored[Symbol.asyncDispose]();
    return new IndexedDisk(this, reader, known ?? { stored: undefined, changes: null }, files);
  }

  /** As if it had never been looked at. */
  async forget(): Promise<void> {
    await this.watch?.undo();
    await this.stored?.[Symbol.asyncDispose]();
  }
}
