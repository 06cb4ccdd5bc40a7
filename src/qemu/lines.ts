/** Bytes to lines: QMP sends one JSON object a line. */

const LINE_FEED = 0x0a;

/** Puts lines together from any cut into chunks; a line is decoded only when whole, so no character is ever split. */
export class LineSplitter {
  readonly #maxLineBytes: number;
  #parts: Uint8Array[] = [];
  #lengthBytes = 0;

  constructor(maxLineBytes: number) {
    this.#maxLineBytes = maxLineBytes;
  }

  /**
   * The lines that `chunk` ends, without their line feed.
   * @throws RangeError if a line grows past the limit; nothing may be pushed after that.
   */
  push(chunk: Uint8Array): string[] {
    const lines: string[] = [];
    for (let start = 0; start < chunk.length; ) {
      const lineFeed = chunk.indexOf(LINE_FEED, start);
      const end = lineFeed < 0 ? chunk.length : lineFeed;
      this.#lengthBytes += end - start;
      if (this.#lengthBytes > this.#maxLineBytes) throw new RangeError(`a line exceeds ${this.#maxLineBytes} bytes`);
      this.#parts.push(chunk.subarray(start, end));
      if (lineFeed < 0) break;
      lines.push(Buffer.concat(this.#parts, this.#lengthBytes).toString("utf8"));
      this.#parts = [];
      this.#lengthBytes = 0;
      start = lineFeed + 1;
    }
    return lines;
  }
}
