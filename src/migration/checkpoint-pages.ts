import type { StreamEvent, StreamHandler } from "../stream/events.ts";
import { HEADER_BYTES, KIND, type Kind, PAGE_BYTES, PAGE_RECORD_BYTES } from "../stream/format.ts";
import type { PageSink } from "./checkpoint-take.ts";

/** Page numbers below which a checkpoint's must be (docs/store-format.md). */
const MAX_PAGE_NUMBER = 2 ** 40;

/**
 * Takes the pages of a migration stream for a checkpoint. A page's number is its page in its ramblock, after all pages of the ramblocks before.
 *
 * Pages in other forms than QEMU's usual ones (XBZRLE, compressed) are left out: the checkpoint has their earlier version or none, and
 * whoever uses it checks what it finds.
 */
export class CheckpointPages implements StreamHandler {
  readonly #memory: Uint8Array;
  readonly #writer: PageSink;
  readonly #firstPages = new Map<string, number>();
  #blockPages = 0;
  #seenPages = 0;
  /** Number of the page that ends the next raw bytes. */
  #namedPage: number | undefined;

  /** @param memory that of the addresses; records are overwritten in it once they were handed over */
  constructor(memory: Uint8Array, writer: PageSink) {
    this.#memory = memory;
    this.#writer = writer;
  }

  /** Of all ramblocks together. */
  get totalBytes(): number {
    return this.#blockPages * PAGE_BYTES;
  }

  /** Of the pages that came, those included that came again. */
  get seenBytes(): number {
    return this.#seenPages * PAGE_BYTES;
  }

  event(event: StreamEvent): void {
    if (event.type === "ramblock") {
      this.#firstPages.set(event.name, this.#blockPages);
      this.#blockPages += Math.ceil(event.lengthBytes / PAGE_BYTES);
    } else if (event.type === "page" && event.form.startsWith("named-")) {
      const number = this.#numberOf(event.block, event.page, 1);
      if (event.form === "named-page") this.#namedPage = number;
      else if (number !== undefined) this.#writer.zero(number, 1);
    }
  }

  raw(_from: number, to: number): void {
    if (this.#namedPage !== undefined) this.#writer.add(this.#namedPage, this.#memory.subarray(to - PAGE_BYTES, to));
    this.#namedPage = undefined;
  }

  pages(kind: Kind, from: number, _to: number, firstPage: number, records: number, block: string): void {
    const number = this.#numberOf(block, firstPage, records);
    if (number === undefined) return;
    this.#seenPages += records;
    if (kind !== KIND.literal) return this.#writer.zero(number, records);
    // The headers between the pages go; nobody needs the records any more.
    for (let i = 0; i < records; i++) {
      const page = from + i * PAGE_RECORD_BYTES + HEADER_BYTES;
      this.#memory.copyWithin(from + i * PAGE_BYTES, page, page + PAGE_BYTES);
    }
    this.#writer.add(number, this.#memory.subarray(from, from + records * PAGE_BYTES));
  }

  #numberOf(block: string, page: number, pages: number): number | undefined {
    const first = this.#firstPages.get(block);
    return first === undefined || first + page + pages > MAX_PAGE_NUMBER ? undefined : first + page;
  }
}
