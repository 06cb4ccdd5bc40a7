import { HEADER_BYTES, KIND, PAGE_BYTES, PAGE_RECORD_BYTES } from "../stream/format.ts";
import { DeltaWorth } from "./delta-worth.ts";
import { DELTA, KEPT, MAX_DELTA_PAGES, MAX_DIFFERENCE_BYTES, MAX_TAGGED_PAGES, SAME } from "./limits.ts";
import { NO_SLOT, PageCache } from "./page-cache.ts";
import { type PageKernels, TAG_BYTES } from "./page-kernels.ts";
import { RUN_TAGS_BYTES, RunTags } from "./run-tags.ts";
import { SamePages } from "./same-pages.ts";
import { XXH3_SECRET_BYTES } from "./xxh3-secret.ts";

/** Consecutive page records that go out in one form. */
export interface FormRun {
  readonly kind: typeof KIND.literal | typeof SAME | typeof DELTA | typeof KEPT;
  readonly count: number;
  /** Of the first page; those of the others follow it. Literal pages have none. */
  readonly slot: number;
  /** Of SAME. */
  readonly tag: Uint8Array;
  /** Of DELTA: the address of the differences, one after the other, and how long each is. */
  readonly from: number;
  readonly lengths: readonly number[];
}

/** Records that are looked at in one call, at most. */
export const MAX_FORM_RECORDS = 128;

/**
 * Where differences are made, in turn. Those of an open batch (256 KiB at most) and of the call under way (as many) stand until as
 * much again was made.
 */
const RING_BYTES = 1 << 20;
/** The difference between equal pages: its bitmap. */
const NO_DIFFERENCE_BYTES = 64;
const NO_TAG: Uint8Array = new Uint8Array(0);
/** What kernels are given and give, u32 each: the addresses of an older and a newer page, a length, the halves of a hash. */
const [OLDER, NEWER, LENGTH, HASH_LOW, HASH_HIGH, WORDS] = [0, 1, 2, 4, 5, 8];
const WORD_BYTES = 4;
/** Bytes from one sample of a page to the next. */
const SAMPLE_STEP = 2048;

type OpenRun = { -readonly [Key in keyof FormRun]: FormRun[Key] } & { record: number; lengths: number[] };

/** Finds cheaper forms for pages by what the page cache holds, and keeps that up: the sender's end of the cache. */
export class CacheForms {
  /** No page will be sent again: none is put in any more. */
  isLastRound = false;
  readonly #kernels: PageKernels;
  readonly #cache: PageCache;
  readonly #samePages: SamePages;
  readonly #worth = new DeltaWorth();
  readonly #tags: RunTags;
  readonly #slots: number;
  readonly #ring: number;
  readonly #secret: number;
  readonly #wordsAt: number;
  readonly #view: DataView;
  readonly #words: Uint32Array;
  /** Where the next difference is made. */
  #next: number;
  /** Of the page that was looked at last. */
  #slot = NO_SLOT;
  #differenceBytes = 0;

  /** The memory that a cache of so many slots takes: a multiple of 16. */
  static memoryBytes(slots: number): number {
    return slots * PAGE_BYTES + RING_BYTES + RUN_TAGS_BYTES + XXH3_SECRET_BYTES + WORDS * WORD_BYTES;
  }

  /**
   * @param base where in `bytes`, the kernels' memory, `memoryBytes(slots)` are to be used; 16-byte aligned
   * @param slots at least one
   * @param secret of the hashes by which equal pages are found (xxh3Secret)
   */
  constructor(
    kernels: PageKernels,
    bytes: Uint8Array,
    base: number,
    slots: number,
    tagKey: Uint8Array,
    secret: Uint8Array,
  ) {
    this.#kernels = kernels;
    this.#cache = new PageCache(slots);
    this.#samePages = new SamePages(slots);
    this.#slots = base;
    this.#ring = base + slots * PAGE_BYTES;
    this.#next = this.#ring;
    this.#tags = new RunTags(kernels, bytes, this.#ring + RING_BYTES);
    this.#tags.setKey(tagKey);
    this.#secret = this.#ring + RING_BYTES + RUN_TAGS_BYTES;
    bytes.set(secret, this.#secret);
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#wordsAt = this.#secret + XXH3_SECRET_BYTES;
    this.#words = new Uint32Array(bytes.buffer, bytes.byteOffset + this.#wordsAt, WORDS);
  }

  /** The receiver may not have got what was put in last: the cache is empty, and names no slot that it has not put something in again. */
  clear(): void {
    this.#cache.clear();
    this.#samePages.clear();
  }

  /**
   * The forms of `records` (MAX_FORM_RECORDS at most) literal page records that stand from address `from` on, all of them, in order.
   * They are to be sent so: the cache is already as it will be after them. Differences stand until 512 KiB of others were made.
   */
  match(block: string, firstPage: number, from: number, records: number): readonly FormRun[] {
    const number = this.#cache.blockNumber(block);
    const runs: OpenRun[] = [];
    let run: OpenRun | undefined;
    for (let record = 0; record < records; record++) {
      const content = from + record * PAGE_RECORD_BYTES + HEADER_BYTES;
      const kind = number === undefined ? KIND.literal : this.#formOf(number, firstPage + record, content);
      if (run === undefined || kind !== run.kind || !this.#goesOn(run)) {
        const difference = this.#next - this.#differenceBytes;
        run = { kind, record, count: 0, slot: this.#slot, tag: NO_TAG, from: difference, lengths: [] };
        runs.push(run);
      }
      run.count++;
      if (kind === DELTA) run.lengths.push(this.#differenceBytes);
    }
    this.#tagSame(runs, from);
    return runs;
  }

  /** Whether the page that was looked at last, of the same kind, belongs to `run`. */
  #goesOn({ kind, count, slot }: FormRun): boolean {
    if (kind === KIND.literal) return true;
    if (this.#slot !== slot + count) return false;
    if (kind === SAME) return count < MAX_TAGGED_PAGES;
    const isAtRingStart = this.#next - this.#differenceBytes === this.#ring;
    return kind === KEPT || (count < MAX_DELTA_PAGES && !isAtRingStart);
  }

  /** Decides on a page, and does to the cache what its token will do at the receiver. */
  #formOf(block: number, page: number, content: number): FormRun["kind"] {
    if (!this.#worth.isWorthTrying(block, page)) return KIND.literal;
    this.#words[NEWER] = content;
    const own = this.#cache.find(block, page);
    if (own === NO_SLOT) return this.#formByContent(own);
    this.#slot = own;
    this.#differenceBytes = this.#difference(MAX_DIFFERENCE_BYTES);
    if (this.#differenceBytes === 0) {
      this.#cache.useless(own);
      const kind = this.#formByContent(own);
      this.#worth.tried(kind === SAME);
      return kind;
    }
    this.#worth.tried(true);
    this.#cache.used(own);
    return this.#differenceBytes === NO_DIFFERENCE_BYTES ? SAME : this.#update();
  }

  /** The length of the difference between the page and what stands in `#slot`; 0 if it is more than `limit`. */
  #difference(limit: number): number {
    if (this.#next + limit > this.#ring + RING_BYTES) this.#next = this.#ring;
    this.#words[OLDER] = this.#slots + this.#slot * PAGE_BYTES;
    const lengths = this.#addressOf(LENGTH);
    this.#kernels.encodeDeltas(this.#addressOf(OLDER), this.#addressOf(NEWER), 1, limit, this.#next, lengths);
    return this.#words[LENGTH]!;
  }

  /** Brings `#slot` up to date by the difference that was made last, which stays. */
  #update(): typeof DELTA {
    const from = this.#next;
    this.#next += this.#differenceBytes;
    const page = this.#addressOf(OLDER);
    this.#kernels.applyDeltas(page, page, 1, from, this.#next, this.#addressOf(LENGTH));
    this.#samePages.forget(this.#slot);
    return DELTA;
  }

  /** @param own the slot of an older version that is no help, or NO_SLOT */
  #formByContent(own: number): FormRun["kind"] {
    const content = this.#words[NEWER]!;
    const isHashed = this.#samePages.isWorthLooking(this.#sampleOf(content));
    if (isHashed && this.#findSame()) return SAME;
    if (this.isLastRound) return KIND.literal;
    this.#slot = own === NO_SLOT ? this.#cache.admit() : own;
    if (this.#slot === NO_SLOT) return KIND.literal;
    this.#kernels.copyPages(content, 0, this.#slots + this.#slot * PAGE_BYTES, 0, 1);
    if (isHashed) this.#samePages.put(this.#slot, this.#words[HASH_LOW]!, this.#words[HASH_HIGH]!);
    else this.#samePages.forget(this.#slot);
    return KEPT;
  }

  /** Hashes the page; `#slot` is the one with an equal page then, if there is one. */
  #findSame(): boolean {
    this.#kernels.hashPages(this.#secret, this.#addressOf(NEWER), 1, this.#addressOf(HASH_LOW));
    this.#slot = this.#samePages.find(this.#words[HASH_LOW]!, this.#words[HASH_HIGH]!);
    const isFound = this.#slot !== NO_SLOT && this.#difference(NO_DIFFERENCE_BYTES) > 0;
    this.#samePages.looked(isFound);
    return isFound;
  }

  /** From two places of a page, as parts of many are alike. */
  #sampleOf(content: number): number {
    let sample = 0;
    for (let at = SAMPLE_STEP / 2; at < PAGE_BYTES; at += SAMPLE_STEP)
      sample = Math.imul(sample, 31) + this.#view.getUint32(content + at, true);
    return sample;
  }

  #tagSame(runs: readonly OpenRun[], from: number): void {
    const same = runs.filter(({ kind }) => kind === SAME);
    if (same.length === 0) return;
    const pages = same.map(({ record, count }) => ({
      address: from + record * PAGE_RECORD_BYTES + HEADER_BYTES,
      count,
    }));
    const tags = this.#tags.tag(pages, PAGE_RECORD_BYTES);
    same.forEach((run, i) => {
      run.tag = tags.subarray(i * TAG_BYTES, (i + 1) * TAG_BYTES);
    });
  }

  #addressOf(word: number): number {
    return this.#wordsAt + word * WORD_BYTES;
  }
}
