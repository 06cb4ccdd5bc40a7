import type { PlaceFound } from "../compact/batch-writer.ts";
import type { References, ReferredRun } from "../compact/encoder.ts";
import { SAME } from "../compact/limits.ts";
import type { PlaceMatcher } from "../compact/place-matcher.ts";
import { GodwitError } from "../errors.ts";
import { PAGE_RECORD_BYTES } from "../stream/format.ts";
import type { RepairHeader } from "../wire/messages.ts";

/** References to a disk or a checkpoint are judged by so many pages at a time. */
const GUARD_PAGES = 4096;

type Source = Pick<PlaceFound, "kind" | "source">;

/** How the references to a source have done lately. */
interface Record {
  readonly source: Source;
  pages: number;
  failedPages: number;
}

/** A token that the destination has not acknowledged. */
interface Referred {
  /** None for pages of the page cache, which is not judged: it is the same at both ends. */
  readonly record: Record | undefined;
  readonly pages: number;
  hasFailed: boolean;
}

/**
 * The references of the sender: finds them, remembers those that are not settled (those to the page cache too), and stops those to
 * a disk or checkpoint that mostly fail.
 *
 * Bounded by the window: a reference is of 4104 raw bytes at least.
 */
export class PlaceReferences implements References {
  readonly #matcher: PlaceMatcher | undefined;
  readonly #onSwitchedOff: (source: Source) => void;
  /** By raw offset, and in its order. */
  readonly #referred = new Map<number, Referred>();
  readonly #records: Record[] = [];
  #nackedPages = 0;

  /** @param matcher undefined where there is no disk or checkpoint */
  constructor(matcher: PlaceMatcher | undefined, onSwitchedOff: (source: Source) => void) {
    this.#matcher = matcher;
    this.#onSwitchedOff = onSwitchedOff;
  }

  /** Pages that the destination has asked for. */
  get nackedPages(): number {
    return this.#nackedPages;
  }

  match(from: number, records: number): readonly PlaceFound[] {
    return this.#matcher?.match(from, records) ?? [];
  }

  referred(rawOffset: number, { kind, source, count }: ReferredRun): void {
    const record = kind === SAME ? undefined : this.#recordOf({ kind, source });
    this.#referred.set(rawOffset, { record, pages: count, hasFailed: false });
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

  /** Those that are not settled went with their connection: nobody asks for them any more. */
  drop(): void {
    this.#referred.clear();
  }

  #judge({ record, pages, hasFailed }: Referred): void {
    if (record === undefined) return;
    record.pages += pages;
    if (hasFailed) record.failedPages += pages;
    if (record.pages < GUARD_PAGES) return;
    const mostlyFails = record.failedPages > record.pages / 2;
    if (mostlyFails && this.#matcher?.switchOff(record.source)) this.#onSwitchedOff(record.source);
    record.pages = 0;
    record.failedPages = 0;
  }

  #recordOf({ kind, source }: Source): Record {
    let record = this.#records.find((known) => known.source.kind === kind && known.source.source === source);
    if (record === undefined) {
      record = { source: { kind, source }, pages: 0, failedPages: 0 };
      this.#records.push(record);
    }
    return record;
  }
}
