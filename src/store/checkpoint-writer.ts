import type { FileHandle } from "node:fs/promises";
import { rm } from "node:fs/promises";
import { MAX_PAGE_NUMBER } from "./checkpoint-chunk.ts";
import { BATCH_PAGES, type Contents } from "./checkpoint-contents.ts";
import { Entries, NO_PLACE } from "./checkpoint-entries.ts";
import { tooBig, writeError } from "./checkpoint-errors.ts";
import type { ListedCheckpoint } from "./checkpoint-folder.ts";
import { PAGE_BYTES } from "./checkpoint-kernels.ts";
import { type ManifestRecord, ManifestWriter, manifestPath } from "./checkpoint-manifest.ts";
import { PACK_PAGES } from "./checkpoint-pack.ts";
import { createPrivate, syncFolder, TEMPORARY } from "./checkpoint-sealed-file.ts";
import type { VmRecord } from "./checkpoint-vm.ts";

/** Batches that are kept for being filled again. */
const MAX_SPARE_BATCHES = 64;

/** What is waiting to be put in: pages, or numbers of pages that are all zero. */
interface Batch {
  readonly pages: Uint8Array | undefined;
  first: number;
  count: number;
}

/** What a writer is given by the store. */
export interface WriterParts {
  readonly id: string;
  readonly folder: string;
  readonly vm: VmRecord;
  readonly contents: Contents;
  readonly record: Omit<ManifestRecord, "pages" | "packs">;
  readonly maxBytes: number;
  /** Called when the checkpoint has appeared; returns what `finish` does. */
  readonly published: () => Promise<ListedCheckpoint>;
  /** Called in any case, at the end. */
  readonly release: () => Promise<void>;
}

/**
 * Writes one checkpoint. Pages are copied when they are added, and compressed and written while `drained` is awaited.
 *
 * It holds the VM's lock until it is finished, aborted or disposed of.
 */
export class CheckpointWriter implements AsyncDisposable {
  readonly id: string;
  readonly #parts: WriterParts;
  readonly #entries: Entries;
  readonly #entriesPath: string;
  readonly #entriesFile: FileHandle;
  readonly #queue: Batch[] = [];
  readonly #spare: Uint8Array[] = [];
  #working: Promise<void> | undefined;
  #error: unknown;
  /** The highest page number so far. */
  #highest = -1;
  #addedPages = 0;
  #isOpen = true;
  /** Whether the manifest has appeared, or was about to. */
  #mayBeThere = false;

  private constructor(parts: WriterParts, entriesPath: string, entriesFile: FileHandle) {
    this.id = parts.id;
    this.#parts = parts;
    this.#entriesPath = entriesPath;
    this.#entriesFile = entriesFile;
    this.#entries = new Entries(entriesPath, entriesFile, Math.ceil(parts.record.memoryBytes / PAGE_BYTES));
  }

  static async create(parts: WriterParts): Promise<CheckpointWriter> {
    const path = `${parts.folder}/${parts.id}.entries${TEMPORARY}`;
    return new CheckpointWriter(parts, path, await createPrivate(path));
  }

  /** Pages that were added, those that were replaced included. */
  get addedPages(): number {
    return this.#addedPages;
  }

  /** Bytes that were written, but for the manifest's. */
  get writtenBytes(): number {
    return this.#parts.contents.newBytes;
  }

  /**
   * Adds consecutive pages, the first of which has the number `first`. They are copied; what was added before under the same
   * numbers is replaced. All-zero pages take no room.
   */
  add(first: number, pages: Uint8Array): void {
    const count = pages.length / PAGE_BYTES;
    this.#checkNumbers(first, count);
    for (let done = 0; done < count; ) {
      const batch = this.#batchFor(first + done);
      const part = Math.min(count - done, BATCH_PAGES - batch.count);
      batch.pages!.set(pages.subarray(done * PAGE_BYTES, (done + part) * PAGE_BYTES), batch.count * PAGE_BYTES);
      batch.count += part;
      done += part;
    }
    this.#addedPages += count;
    this.#highest = Math.max(this.#highest, first + count - 1);
  }

  /** Says that pages are all zero by now. */
  zero(first: number, count: number): void {
    this.#checkNumbers(first, count);
    const replaced = Math.min(count, this.#highest + 1 - first); // nothing was added beyond
    if (replaced > 0) this.#queue.push({ pages: undefined, first, count: replaced });
  }

  /**
   * Waits until what was added is written, so that no more of it stands in memory.
   *
   * @throws STORE_FULL, STORE_NOT_WRITABLE, STORE_TOO_BIG
   */
  async drained(): Promise<void> {
    while (this.#queue.length > 0 || this.#working) {
      this.#working ??= this.#work().finally(() => {
        this.#working = undefined;
      });
      await this.#working;
    }
  }

  /**
   * Lets the checkpoint appear, and makes room for it. When it could not appear, nothing is left of it.
   *
   * @throws STORE_FULL, STORE_NOT_WRITABLE, STORE_TOO_BIG
   */
  async finish(): Promise<ListedCheckpoint> {
    if (!this.#isOpen) throw new TypeError("the checkpoint was ended");
    try {
      await this.drained();
      await this.#publish();
    } catch (error) {
      await this.abort();
      throw writeError(this.#parts.folder, error);
    }
    try {
      return await this.#parts.published();
    } finally {
      await this.#end();
    }
  }

  /** Gives up; nothing is left of the checkpoint. */
  async abort(): Promise<void> {
    if (!this.#isOpen) return;
    this.#error ??= new TypeError("the checkpoint was ended");
    await this.#working?.catch(() => {});
    const { folder, id, contents } = this.#parts;
    try {
      if (this.#mayBeThere) await rm(manifestPath(folder, id), { force: true });
      await contents.abort();
    } catch (error) {
      throw writeError(folder, error);
    } finally {
      await this.#end();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.abort();
  }

  #checkNumbers(first: number, count: number): void {
    if (!this.#isOpen) throw new TypeError("the checkpoint was ended");
    if (this.#error) throw this.#error;
    const isRight = Number.isSafeInteger(first) && Number.isSafeInteger(count) && first >= 0 && count >= 0;
    if (!isRight || first + count > MAX_PAGE_NUMBER) throw new RangeError(`no such pages: ${first}+${count}`);
  }

  /** What page `page` can be appended to. */
  #batchFor(page: number): Batch {
    const last = this.#queue.at(-1);
    if (last?.pages && last.count < BATCH_PAGES && last.first + last.count === page) return last;
    const pages = this.#spare.pop() ?? new Uint8Array(BATCH_PAGES * PAGE_BYTES);
    const batch = { pages, first: page, count: 0 };
    this.#queue.push(batch);
    return batch;
  }

  async #work(): Promise<void> {
    try {
      for (let batch = this.#next(); batch; batch = this.#next()) {
        if (batch.pages) await this.#put(batch, batch.pages);
        else await this.#zero(batch);
      }
    } catch (error) {
      this.#error = writeError(this.#parts.folder, error);
    }
    if (this.#error) throw this.#error;
  }

  #next(): Batch | undefined {
    return this.#error ? undefined : this.#queue.shift();
  }

  async #put({ first, count }: Batch, pages: Uint8Array): Promise<void> {
    const { places, hashes } = await this.#parts.contents.put(pages.subarray(0, count * PAGE_BYTES));
    for (let page = 0; page < count; page++) {
      this.#entries.add(first + page, hashes[2 * page]!, hashes[2 * page + 1]!, places[page]!);
      if (this.#entries.isFull) await this.#entries.spill();
    }
    if (this.#spare.length < MAX_SPARE_BATCHES) this.#spare.push(pages);
    this.#checkSize(0);
  }

  async #zero({ first, count }: Batch): Promise<void> {
    for (let page = 0; page < count; page++) {
      this.#entries.add(first + page, 0, 0, NO_PLACE);
      if (this.#entries.isFull) await this.#entries.spill();
    }
  }

  #checkSize(manifestBytes: number): void {
    const { maxBytes, contents, folder } = this.#parts;
    if (contents.newBytes + manifestBytes > maxBytes) throw tooBig(folder, maxBytes);
  }

  async #publish(): Promise<void> {
    const { folder, id, contents, vm, record } = this.#parts;
    await contents.finish();
    await syncFolder(folder);
    const manifest = await ManifestWriter.create(folder, id);
    try {
      const packs = new PackList(contents.packs);
      for await (const chunk of this.#entries.sorted()) {
        packs.rename(chunk.places, chunk.rows);
        await manifest.add(chunk);
      }
      this.#checkSize(manifest.sizeBytes);
      this.#mayBeThere = true;
      await manifest.finish(vm.folderId, { ...record, packs: packs.ids });
    } catch (error) {
      await manifest.abort();
      throw error;
    }
    await syncFolder(folder);
  }

  async #end(): Promise<void> {
    this.#isOpen = false;
    try {
      await using _released = { [Symbol.asyncDispose]: this.#parts.release };
      await this.#entriesFile.close();
      await rm(this.#entriesPath, { force: true });
    } catch (error) {
      throw writeError(this.#parts.folder, error);
    }
  }
}

/** The packs that a manifest names, of all that there are. */
class PackList {
  readonly ids: string[] = [];
  readonly #all: readonly string[];
  readonly #numbers = new Map<number, number>();

  constructor(all: readonly string[]) {
    this.#all = all;
  }

  /** Puts places with these numbers in the place of those that were among all. */
  rename(places: Uint32Array, rows: number): void {
    for (let row = 0; row < rows; row++) {
      const place = places[row]!;
      const pack = Math.floor(place / PACK_PAGES);
      places[row] = this.#numberOf(pack) * PACK_PAGES + (place % PACK_PAGES);
    }
  }

  #numberOf(pack: number): number {
    let number = this.#numbers.get(pack);
    if (number === undefined) {
      number = this.ids.push(this.#all[pack]!) - 1;
      this.#numbers.set(pack, number);
    }
    return number;
  }
}
