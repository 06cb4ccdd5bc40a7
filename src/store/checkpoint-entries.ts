/** The pages of a checkpoint as they come, sorted by their numbers in bounded memory: sorted runs in a file, merged at the end. */

import type { FileHandle } from "node:fs/promises";
import { CHUNK_PAGES, Chunk, COLUMN, type Column } from "./checkpoint-chunk.ts";
import { readInto } from "./checkpoint-sealed-file.ts";
import { writeFully } from "./durable.ts";

/** The place of a page that is all zero, and so not kept. */
export const NO_PLACE = 0xffffffff;

/** Entries that are sorted at once, at most: 40 MB. */
const MAX_RUN_ENTRIES = 2 ** 21;
/** A sort key is a page number (40 bits) above the entry's own (21 bits): of two of a page, the later one is greater. */
const ENTRY_BITS = 21;
const LOW_NUMBER_BITS = 32 - ENTRY_BITS;
const LOW_NUMBERS = 2 ** LOW_NUMBER_BITS;

interface Run {
  readonly at: number;
  readonly entries: number;
}

/** Takes entries in any order; a later one of a page replaces the earlier. */
export class Entries {
  readonly #path: string;
  readonly #file: FileHandle;
  readonly #keys: BigUint64Array;
  readonly #keyWords: Uint32Array;
  readonly #hashes: Uint32Array;
  readonly #places: Uint32Array;
  readonly #runs: Run[] = [];
  #entries = 0;
  #last = -1;
  #isAscending = true;
  #end = 0;

  /** @param file empty, at `path`; the caller closes and removes it */
  constructor(path: string, file: FileHandle, expectedPages: number) {
    const size = Math.min(MAX_RUN_ENTRIES, Math.max(expectedPages, CHUNK_PAGES));
    this.#path = path;
    this.#file = file;
    this.#keys = new BigUint64Array(size);
    this.#keyWords = new Uint32Array(this.#keys.buffer);
    this.#hashes = new Uint32Array(2 * size);
    this.#places = new Uint32Array(size);
  }

  /** Whether `spill` is due. */
  get isFull(): boolean {
    return this.#entries === this.#places.length;
  }

  add(page: number, hashLow: number, hashHigh: number, place: number): void {
    const entry = this.#entries++;
    this.#keyWords[2 * entry] = ((page % LOW_NUMBERS) << ENTRY_BITS) | entry;
    this.#keyWords[2 * entry + 1] = Math.floor(page / LOW_NUMBERS);
    this.#hashes[2 * entry] = hashLow;
    this.#hashes[2 * entry + 1] = hashHigh;
    this.#places[entry] = place;
    this.#isAscending &&= page > this.#last;
    this.#last = page;
  }

  /** Writes what stands in memory as a run. */
  async spill(): Promise<void> {
    if (this.#entries === 0) return;
    if (!this.#isAscending) this.#keys.subarray(0, this.#entries).sort();
    const at = this.#end;
    const chunk = new Chunk();
    let entries = 0;
    for (let index = 0; index < this.#entries; index++) {
      if (index + 1 < this.#entries && this.#pageAt(index) === this.#pageAt(index + 1)) continue;
      const entry = this.#keyWords[2 * index]! & (2 ** ENTRY_BITS - 1);
      const page = this.#pageAt(index);
      chunk.add(page, this.#hashes[2 * entry]!, this.#hashes[2 * entry + 1]!, this.#places[entry]!);
      entries++;
      if (chunk.isFull) await this.#write(chunk);
    }
    await this.#write(chunk);
    this.#runs.push({ at, entries });
    this.#entries = 0;
    this.#last = -1;
    this.#isAscending = true;
  }

  /** All pages that are kept, in order. A chunk is valid until the next is asked for. */
  async *sorted(): AsyncGenerator<Chunk> {
    await this.spill();
    const runs = this.#runs.map((run) => new RunReader(this.#path, this.#file, run));
    for (const run of runs) await run.fill();
    const out = new Chunk();
    for (;;) {
      const page = Math.min(...runs.map((run) => run.page));
      if (page === Number.POSITIVE_INFINITY) break;
      const newest = runs.findLast((run) => run.page === page)!;
      for (const run of runs) {
        if (run !== newest && run.page === page) await run.next();
      }
      // All of the run up to where another one goes on: runs hardly overlap, since QEMU sends memory in order.
      const limit = Math.min(...runs.map((run) => (run === newest ? Number.POSITIVE_INFINITY : run.page)));
      while (newest.page < limit) {
        if (newest.place !== NO_PLACE) newest.copyTo(out);
        if (newest.isAtLast) await newest.fill();
        else newest.skip();
        if (out.isFull) {
          yield out;
          out.rows = 0;
        }
      }
    }
    if (out.rows > 0) yield out;
  }

  #pageAt(index: number): number {
    return this.#keyWords[2 * index + 1]! * LOW_NUMBERS + (this.#keyWords[2 * index]! >>> ENTRY_BITS);
  }

  async #write(chunk: Chunk): Promise<void> {
    for (const column of COLUMNS) {
      await writeFully(this.#file, chunk.column(column), this.#end);
      this.#end += chunk.column(column).length;
    }
    chunk.rows = 0;
  }
}

const COLUMNS: readonly Column[] = [COLUMN.number, COLUMN.hash, COLUMN.place];

/** Reads a run again, entry by entry. */
class RunReader {
  readonly #path: string;
  readonly #file: FileHandle;
  readonly #chunk = new Chunk();
  #at: number;
  #entries: number;
  #row = 0;
  /** The page of the entry it is at; infinite behind the last one. */
  page = Number.POSITIVE_INFINITY;

  constructor(path: string, file: FileHandle, { at, entries }: Run) {
    this.#path = path;
    this.#file = file;
    this.#at = at;
    this.#entries = entries;
  }

  get place(): number {
    return this.#chunk.places[this.#row]!;
  }

  /** Whether what comes next must be read from the file, by `fill`. */
  get isAtLast(): boolean {
    return this.#row + 1 === this.#chunk.rows;
  }

  async next(): Promise<void> {
    if (this.isAtLast) await this.fill();
    else this.skip();
  }

  skip(): void {
    this.page = this.#chunk.numberAt(++this.#row);
  }

  copyTo(out: Chunk): void {
    out.addFrom(this.#chunk, this.#row);
  }

  async fill(): Promise<void> {
    const rows = Math.min(this.#entries, CHUNK_PAGES);
    this.#chunk.rows = rows;
    this.#row = 0;
    for (const column of COLUMNS) {
      const target = this.#chunk.column(column);
      await readInto(this.#path, this.#file, this.#at, target);
      this.#at += target.length;
    }
    this.#entries -= rows;
    this.page = rows > 0 ? this.#chunk.numberAt(0) : Number.POSITIVE_INFINITY;
  }
}
