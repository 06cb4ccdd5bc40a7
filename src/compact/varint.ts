/** LEB128 for JavaScript's exact integers (below 2^53): at most 8 bytes. */
export const MAX_VARINT_BYTES = 8;

/** Writes `value` (0 ≤ value < 2^53) at `at`; returns the address after it. */
export function writeVarint(target: Uint8Array, at: number, value: number): number {
  while (value >= 0x80) {
    target[at++] = (value % 0x80) | 0x80;
    value = Math.floor(value / 0x80);
  }
  target[at++] = value;
  return at;
}

/** Maps small negative and positive numbers to small positive ones: 0, −1, 1, −2 → 0, 1, 2, 3. */
export function zigzag(value: number): number {
  return value >= 0 ? value * 2 : -value * 2 - 1;
}

export function unzigzag(value: number): number {
  return value % 2 === 0 ? value / 2 : -(value + 1) / 2;
}

/** Reads varints one after the other. `at` is past the end when what it read was cut off, too long or not exact. */
export class VarintReader {
  readonly #bytes: Uint8Array;
  readonly #end: number;
  at: number;

  constructor(bytes: Uint8Array, at: number, end: number) {
    this.#bytes = bytes;
    this.at = at;
    this.#end = end;
  }

  /** The next value, or −1 for one that is cut off, longer than 8 bytes or not below 2^53. */
  next(): number {
    let value = 0;
    let scale = 1;
    for (let i = 0; i < MAX_VARINT_BYTES && this.at < this.#end; i++) {
      const byte = this.#bytes[this.at++]!;
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return Number.isSafeInteger(value) ? value : -1;
      scale *= 0x80;
    }
    return -1;
  }
}
