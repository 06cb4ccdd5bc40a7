import { HEADER_BYTES, PAGE_RECORD_BYTES } from "../stream/format.ts";
import type { PlaceFound } from "./batch-writer.ts";
import { DISK, MAX_TAGGED_PAGES } from "./limits.ts";
import { MAX_LOOKUPS } from "./page-index.ts";
import { NOT_FOUND, type PageKernels, TAG_BYTES } from "./page-kernels.ts";
import { RUN_TAGS_BYTES, RunTags } from "./run-tags.ts";
import { XXH3_SECRET_BYTES } from "./xxh3-secret.ts";

/** What is known of the pages of disks, or of a checkpoint. Its sources' blocks are counted through. */
export interface IndexedPlaces {
  readonly kind: PlaceFound["kind"];
  /** Place of its first source in WELCOME's list; the others follow. */
  readonly firstSource: number;
  /** For each source the number of its first block, and the number after the last one's last block. */
  readonly firstBlocks: readonly number[];
  readonly index: {
    /** Of its hashes. */
    readonly secret: Uint8Array;
    /** The numbers of at most MAX_LOOKUPS hashes (u64 each), NOT_FOUND where there is none. May leave keys in place of the hashes. */
    lookup(hashes: Uint8Array, out: Uint32Array): void;
    /** Whether block `number` has the key that `lookup` left at `at`, whatever other block has it too. */
    has?(number: number, keys: Uint8Array, at: number): boolean;
  };
}

/**
 * Pages of a run of disk blocks at most. A block that has changed costs all of its run, and a longer one saves next to nothing more:
 * a token is 1/6000 of 32 pages. Checkpoints do not change.
 */
const DISK_RUN_PAGES = 32;
const HASH_BYTES = 8;
const ADDRESS_BYTES = 4;
const NOWHERE = 0xff;

/** Kernel memory that a PlaceMatcher of so many indexes works in. */
export function placeMatcherBytes(indexes: number): number {
  return RUN_TAGS_BYTES + indexes * XXH3_SECRET_BYTES + MAX_LOOKUPS * (HASH_BYTES + ADDRESS_BYTES);
}

/** Finds literal pages in several indexes: in the first that has them. */
export class PlaceMatcher {
  readonly #kernels: PageKernels;
  readonly #bytes: Uint8Array;
  readonly #words: DataView;
  readonly #places: readonly IndexedPlaces[];
  readonly #tags: RunTags;
  readonly #secrets: number;
  readonly #hashes: number;
  readonly #addresses: number;
  /** For each index the sources that are not looked in any more. */
  readonly #off: readonly Set<number>[];
  /** Of each record the index that has it, by its place in `places`, and its number there. */
  readonly #foundIn = new Uint8Array(MAX_LOOKUPS);
  readonly #found = new Uint32Array(MAX_LOOKUPS);
  /** Records that no index has had so far, and what the next one says. */
  readonly #left = new Uint16Array(MAX_LOOKUPS);
  readonly #numbers = new Uint32Array(MAX_LOOKUPS);

  /** @param base where in `bytes`, the kernels' memory, placeMatcherBytes(places.length) are to be used; 16-byte aligned */
  constructor(
    kernels: PageKernels,
    bytes: Uint8Array,
    base: number,
    places: readonly IndexedPlaces[],
    tagKey: Uint8Array,
  ) {
    this.#kernels = kernels;
    this.#bytes = bytes;
    this.#words = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#places = places;
    this.#off = places.map(() => new Set());
    this.#tags = new RunTags(kernels, bytes, base);
    this.#tags.setKey(tagKey);
    this.#hashes = base + RUN_TAGS_BYTES;
    this.#addresses = this.#hashes + MAX_LOOKUPS * HASH_BYTES;
    this.#secrets = this.#addresses + MAX_LOOKUPS * ADDRESS_BYTES;
    places.forEach(({ index }, i) => void bytes.set(index.secret, this.#secrets + i * XXH3_SECRET_BYTES));
  }

  /** No page is found there any more. Returns false if that was so already. */
  switchOff({ kind, source }: Pick<PlaceFound, "kind" | "source">): boolean {
    const i = this.#places.findIndex(
      (places) =>
        places.kind === kind &&
        source >= places.firstSource &&
        source < places.firstSource + places.firstBlocks.length - 1,
    );
    const off = this.#off[i]!;
    const wasOn = !off.has(source);
    off.add(source);
    return wasOn;
  }

  /** The runs among `records` literal page records that stand from address `from` on, in order. */
  match(from: number, records: number): PlaceFound[] {
    const runs: PlaceFound[] = [];
    for (let at = 0; at < records; at += MAX_LOOKUPS) {
      const count = Math.min(records - at, MAX_LOOKUPS);
      const content = from + at * PAGE_RECORD_BYTES + HEADER_BYTES;
      this.#lookUp(content, count);
      const found = this.#runs(count);
      const pages = found.map((run) => ({ address: content + run.record * PAGE_RECORD_BYTES, count: run.count }));
      const tags = this.#tags.tag(pages, PAGE_RECORD_BYTES);
      found.forEach((run, i) => {
        runs.push({ ...run, record: at + run.record, tag: tags.subarray(i * TAG_BYTES, (i + 1) * TAG_BYTES) });
      });
    }
    return runs;
  }

  #lookUp(content: number, count: number): void {
    this.#foundIn.fill(NOWHERE, 0, count);
    for (let record = 0; record < count; record++) this.#left[record] = record;
    let left = count;
    for (let i = 0; i < this.#places.length && left > 0; i++) left = this.#lookUpIn(i, content, left);
  }

  /** Looks in one index for the records that are left; returns how many are left then. */
  #lookUpIn(i: number, content: number, left: number): number {
    const { index, firstSource, firstBlocks } = this.#places[i]!;
    const off = this.#off[i]!;
    if (off.size === firstBlocks.length - 1) return left;
    for (let k = 0; k < left; k++) {
      const address = content + this.#left[k]! * PAGE_RECORD_BYTES;
      this.#words.setUint32(this.#addresses + k * ADDRESS_BYTES, address, true);
    }
    this.#kernels.hashPages(this.#secrets + i * XXH3_SECRET_BYTES, this.#addresses, left, this.#hashes);
    index.lookup(this.#bytes.subarray(this.#hashes, this.#hashes + left * HASH_BYTES), this.#numbers);
    let stillLeft = 0;
    for (let k = 0; k < left; k++) {
      const record = this.#left[k]!;
      let number = this.#numbers[k]!;
      // Of blocks that are alike the one that goes on where the record before stands.
      const next = record > 0 && this.#foundIn[record - 1] === i ? this.#found[record - 1]! + 1 : number;
      if (number !== next && index.has?.(next, this.#bytes, this.#hashes + k * HASH_BYTES)) number = next;
      const isOff = number !== NOT_FOUND && off.size > 0 && off.has(firstSource + placeOf(number, firstBlocks));
      if (number === NOT_FOUND || isOff) {
        this.#left[stillLeft++] = record;
      } else {
        this.#foundIn[record] = i;
        this.#found[record] = number;
      }
    }
    return stillLeft;
  }

  /** What was found, consecutive blocks of a source put together. */
  #runs(count: number): Omit<PlaceFound, "tag">[] {
    const runs: Omit<PlaceFound, "tag">[] = [];
    for (let record = 0; record < count; ) {
      const foundIn = this.#foundIn[record]!;
      const places = this.#places[foundIn];
      if (places === undefined) {
        record++;
        continue;
      }
      const { kind, firstSource, firstBlocks } = places;
      const number = this.#found[record]!;
      const place = placeOf(number, firstBlocks);
      const end = firstBlocks[place + 1]!;
      const maxPages = Math.min(count - record, end - number, kind === DISK ? DISK_RUN_PAGES : MAX_TAGGED_PAGES);
      let pages = 1;
      while (
        pages < maxPages &&
        this.#foundIn[record + pages] === foundIn &&
        this.#found[record + pages] === number + pages
      )
        pages++;
      runs.push({ record, count: pages, kind, source: firstSource + place, block: number - firstBlocks[place]! });
      record += pages;
    }
    return runs;
  }
}

/** At most 64 disks, and mostly one: no search is faster. */
function placeOf(number: number, firstBlocks: readonly number[]): number {
  return firstBlocks.findLastIndex((first, place) => first <= number && number < (firstBlocks[place + 1] ?? 0));
}
