/** A page index without limits: the plain sibling of assembly/page-index.ts. */
export class ReferencePageIndex {
  readonly #values = new Map<bigint, number>();

  /** Puts hashes with their values in; the first value of a hash stays. Returns how many were put in. */
  insert(hashes: readonly bigint[], values: readonly number[]): number {
    const before = this.#values.size;
    hashes.forEach((hash, index) => {
      if (!this.#values.has(hash)) this.#values.set(hash, values[index]!);
    });
    return this.#values.size - before;
  }

  /** The values of hashes, undefined where there is none. */
  lookup(hashes: readonly bigint[]): (number | undefined)[] {
    return hashes.map((hash) => this.#values.get(hash));
  }
}
