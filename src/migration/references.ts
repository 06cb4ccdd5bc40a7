import type { DiskMatcher } from "../compact/disk-matcher.ts";
import type { PlaceFound, References } from "../compact/encoder.ts";
import { GodwitError } from "../errors.ts";
import { PAGE_RECORD_BYTES } from "../stream/format.ts";
import type { RepairHeader } from "../wire/messages.ts";

/** References to a disk are judged by so many pages at a time. */
const GUARD_PAGES = 4096;

/** A token that the destination has not acknowledged. */
interface Referred {
  readonly disk: number;
  readonly pages: number;
  hasFailed: boolean;
}

/** How the references to a disk have done lately. */
interface Record {
  pages: number;
  failedPages: number;
}

/**
 * The references of the sender: finds them, remembers those that are not settled, and stops those to a disk that mostly fail.
 *
 * Bounded by the window: a reference is of 4104 raw bytes at least.
 */
export class DiskReferences implements References {
  readonly #matcher: DiskMatcher;
  readonly #onSwitchedOff: (disk: number) => void;
  /** By raw offset, and in its order. */
  readonly #referred = new Map<number, Referred>();
  readonly #records: Record[] = [];
  #nackedPages = 0;

  constructor(matcher: DiskMatcher, onSwitchedOff: (disk: number) => void) {
    this.#matcher = matcher;
    this.#onSwitchedOff = onSwitchedOff;
  }

  /** Pages that the destination has asked for. */
  get nackedPages(): number {
    return this.#nackedPages;
  }

  match(from: number, records: number): readonly PlaceFound[] {
    return this.#matcher.match(from, records);
  }

  referred(rawOffset: number, { source, count }: PlaceFound): void {
    this.#referred.set(rawOffset, { disk: source, pages: count, hasFailed: false });
  }

  /**
   * The destination could not regenerate this range.
   *
   * @throws GodwitError PEER_BAD_NACK when it is not that of a reference, is acknowledged, or was asked for before
   */
  nacked({ rawOffset, rawBytes }: RepairHeader): void {
    const referred = this.#referred.get(rawOffset);
    if (referred === undefined || referred.hasFailed || rawBytes !== referred.pages * PAGE_RECORD_BYTES) {
      throw new GodwitError("PEER_BAD_NACK", "the peer asked for bytes that no reference stood for", {
        rawOffset,
        rawBytes,
      });
    }
    referred.hasFailed = true;
    this.#nackedPages += referred.pages;
  }

  /** The destination has all up to `rawOffset`: the references before it are settled. */
  acknowledged(rawOffset: number): void {
    for (const [from, referred] of this.#referred) {
      if (from + referred.pages * PAGE_RECORD_BYTES > rawOffset) return;
      this.#referred.delete(from);
      this.#judge(referred);
    }
  }

  #judge({ disk, pages, hasFailed }: Referred): void {
    this.#records[disk] ??= { pages: 0, failedPages: 0 };
    const record = this.#records[disk];
    record.pages += pages;
    if (hasFailed) record.failedPages += pages;
    if (record.pages < GUARD_PAGES) return;
    if (record.failedPages > record.pages / 2 && this.#matcher.switchOff(disk)) this.#onSwitchedOff(disk);
    this.#records[disk] = { pages: 0, failedPages: 0 };
  }
}
