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
import { createPrivate, TEMPORARY } from "./checkpoint-sealed-file.ts";
import { type StagedPages, type StagedZeros, Staging } from "./checkpoint-staging.ts";
import type { VmRecord } from "./checkpoint-vm.ts";
import { syncFolder } from "./durable.ts";

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
  readonly #staging = new Staging(BATCH_PAGES);
  #working: Promise<void> | undefined;
  #error: unknown;
  /** The highest page number of all entries. */
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
    this.#staging.add(first, pages);
    this.#addedPages += count;
  }

  /** Says that pages are all zero by now. */
  zero(first: number, count: number): void {
    this.#checkNumbers(first, count);
    this.#staging.zero(first, count);
  }

  /**
   * Waits until what was added is written, so that no more of it stands in memory.
   *
   * @throws STORE_FULL, STORE_NOT_WRITABLE, STORE_TOO_BIG
   */
  async drained(): Promise<void> {
    while (!this.#staging.isEmpty || this.#working) {
      this.#working ??= this.#work().finally(() => {
        this.#working = undefined;
      });
      await this.#working;
    }
    if (this.#error) throw this.#error;
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
      await this.abort().catch(() => {}); // what is left of it is removed by the next writer
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

  async #work(): Promise<void> {
    try {
      for (let batch = this.#next(); batch; batch = this.#next()) {
        if (batch.kind === "pages") await this.#put(batch);
        else await this.#zero(batch);
      }
    } catch (error) {
      this.#error = writeError(this.#parts.folder, error);
    }
    if (this.#error) throw this.#error;
  }

  #next(): StagedPages | StagedZeros | undefined {
    return this.#error ? undefined : this.#staging.next();
  }

  async #put(batch: StagedPages): Promise<void> {
    const { places, hashes } = await this.#parts.contents.put(this.#staging.pagesOf(batch));
    this.#staging.done(batch);
    for (const [index, page] of batch.numbers.entries()) {
      const place = places[index]!;
      if (place === NO_PLACE && page > this.#highest) continue; // there is nothing that it replaces
      this.#entries.add(page, hashes[2 * index]!, hashes[2 * index + 1]!, place);
      if (page > this.#highest) this.#highest = page;
      if (this.#entries.isFull) await this.#entries.spill();
    }
    this.#checkSize(0);
  }

  async #zero({ first, count }: StagedZeros): Promise<void> {
    const end = Math.min(first + count, this.#highest + 1);
    for (let page = first; page < end; page++) {
      this.#entries.add(page, 0, 0, NO_PLACE);
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
