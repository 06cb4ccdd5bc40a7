/** A chunk of a manifest in memory, its columns as they stand in the file (docs/store-format.md). */

export const CHUNK_PAGES = 8192;
/** The bytes of a page in each of the columns: page number, XXH3-64, place. */
export const COLUMN_BYTES = [8, 8, 4] as const;
export const ROW_BYTES = 20;

export type Column = 0 | 1 | 2;
export const COLUMN = { number: 0, hash: 1, place: 2 } as const satisfies Record<string, Column>;

/** Page numbers are below this: 52 bits of physical address, in pages. */
export const MAX_PAGE_NUMBER = 2 ** 40;

const WORD = 2 ** 32;

/** Up to CHUNK_PAGES rows. It is filled and handed on again and again. */
export class Chunk {
  rows = 0;
  readonly columns: readonly [Uint8Array, Uint8Array, Uint8Array];
  readonly #numbers: Uint32Array;
  readonly #hashes: Uint32Array;
  readonly places: Uint32Array;

  constructor() {
    this.columns = [
      new Uint8Array(CHUNK_PAGES * COLUMN_BYTES[0]),
      new Uint8Array(CHUNK_PAGES * COLUMN_BYTES[1]),
      new Uint8Array(CHUNK_PAGES * COLUMN_BYTES[2]),
    ];
    this.#numbers = new Uint32Array(this.columns[0].buffer);
    this.#hashes = new Uint32Array(this.columns[1].buffer);
    this.places = new Uint32Array(this.columns[2].buffer);
  }

  get isFull(): boolean {
    return this.rows === CHUNK_PAGES;
  }

  numberAt(row: number): number {
    return this.#numbers[2 * row + 1]! * WORD + this.#numbers[2 * row]!;
  }

  add(number: number, hashLow: number, hashHigh: number, place: number): void {
    const row = this.rows++;
    this.#numbers[2 * row] = number % WORD;
    this.#numbers[2 * row + 1] = Math.floor(number / WORD);
    this.#hashes[2 * row] = hashLow;
    this.#hashes[2 * row + 1] = hashHigh;
    this.places[row] = place;
  }

  addFrom(other: Chunk, row: number): void {
    const { places } = other;
    this.add(other.numberAt(row), other.#hashes[2 * row]!, other.#hashes[2 * row + 1]!, places[row]!);
  }

  /** The part of a column that is filled. */
  column(column: Column): Uint8Array {
    return this.columns[column].subarray(0, this.rows * COLUMN_BYTES[column]);
  }
}

/** Where a column of a chunk begins behind the chunk's beginning, when it has so many rows. */
export function columnOffset(column: Column, rows: number): number {
  return column === COLUMN.number ? 0 : column === COLUMN.hash ? 8 * rows : 16 * rows;
}
