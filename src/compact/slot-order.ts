const NONE = -1;

/** Slots by when they were last of use: a list linked both ways, in two arrays. */
export class SlotOrder {
  readonly #newer: Int32Array;
  readonly #older: Int32Array;
  #newest = NONE;
  #oldest = NONE;

  constructor(slots: number) {
    this.#newer = new Int32Array(slots);
    this.#older = new Int32Array(slots);
  }

  /** −1 while there is none. */
  get oldest(): number {
    return this.#oldest;
  }

  /** There are none any more. */
  clear(): void {
    this.#newest = NONE;
    this.#oldest = NONE;
  }

  addNewest(slot: number): void {
    this.#older[slot] = this.#newest;
    this.#newer[slot] = NONE;
    if (this.#newest === NONE) this.#oldest = slot;
    else this.#newer[this.#newest] = slot;
    this.#newest = slot;
  }

  toNewest(slot: number): void {
    if (slot === this.#newest) return;
    this.#remove(slot);
    this.addNewest(slot);
  }

  toOldest(slot: number): void {
    if (slot === this.#oldest) return;
    this.#remove(slot);
    this.#newer[slot] = this.#oldest;
    this.#older[slot] = NONE;
    this.#older[this.#oldest] = slot;
    this.#oldest = slot;
  }

  #remove(slot: number): void {
    const newer = this.#newer[slot]!;
    const older = this.#older[slot]!;
    if (newer === NONE) this.#newest = older;
    else this.#older[newer] = older;
    if (older === NONE) this.#oldest = newer;
    else this.#newer[older] = newer;
  }
}
