import { meanOfDecay } from "../arithmetic.ts";
import { type Form, PAGE_BYTES } from "../samples.ts";
import { type PageClass, pagesOf, type Stretch, type Workload } from "./scenario.ts";

/** A literal page in QEMU's stream: 8 bytes of address and flags before it (migration/ram.c, save_page_header). */
export const RAW_BYTES_PER_PAGE = PAGE_BYTES + 8;
/** A zero page in it: the same 8 bytes and one for the value (migration/ram.c, save_zero_page_to_file). */
export const RAW_BYTES_PER_ZERO_PAGE = 9;

interface ClassState extends PageClass {
  /** Pages whose bit is set in QEMU's bitmap: they wait to be sent. */
  waiting: number;
  /** Of those, the ones that are as they were sent last. */
  unchanged: number;
  /** Writes since the last sync by the pages of the class. */
  exposure: number;
  /** … by each in the stretch of time in which pages are sent. */
  writes: number;
  /** Pages sent since the last sync that were written before they were sent, and not since: the next sync finds them all the same. */
  early: number;
}

/**
 * QEMU's dirty bitmap over a guest that writes, in expected numbers of pages instead of single ones, so that 4 TiB cost no more than
 * 1 GiB. Pages of a class are alike: they wait, and were written since the last sync, independently of each other.
 */
export class GuestMemory {
  readonly totalPages: number;
  readonly #classes: ClassState[];
  readonly #stretches: readonly Stretch[];
  readonly #rawBytesPerPage: number;
  readonly #unchangedShare: number;
  #waiting: number;
  /** Place in the stretches during the bulk round; past their end in all later ones. */
  #stretch = 0;
  #stretchLeft: number;
  #wireBytesPerPage = 0;
  /** Of most of the pages that wait. */
  #form: Form = "literal";

  constructor(workload: Workload) {
    const { memoryBytes, stretches, classes, rawBytesPerPage = RAW_BYTES_PER_PAGE, unchangedShare = 0 } = workload;
    this.#rawBytesPerPage = rawBytesPerPage;
    this.#unchangedShare = unchangedShare;
    this.totalPages = memoryBytes / PAGE_BYTES;
    this.#stretches = stretches;
    this.#stretchLeft = stretches[0]!.pages;
    const written = pagesOf(classes);
    // Memory that is never written waits but once; should QEMU sync before all of it was sent, it is of the mean kind.
    const rest = this.totalPages - written;
    const restCost = stretches.reduce((sum, s) => sum + s.pages * s.wireBytesPerPage, 0) / this.totalPages;
    const never: PageClass = {
      pages: rest,
      writesPerSecond: 0,
      pattern: "random",
      form: "literal",
      wireBytesPerPage: restCost,
    };
    const fresh = { unchanged: 0, exposure: 0, writes: 0, early: 0 };
    this.#classes = [...classes, never].map((one) => ({ ...one, ...fresh, waiting: one.pages }));
    this.#waiting = this.totalPages;
    this.#reckonCost();
  }

  get waitingPages(): number {
    return this.#waiting;
  }

  /** What the pages that are sent next cost, and how many of them cost the same. */
  get next(): Stretch {
    const stretch = this.#stretches[this.#stretch];
    if (stretch !== undefined) return { ...stretch, pages: Math.min(this.#stretchLeft, this.#waiting) };
    const wireBytesPerPage = this.#wireBytesPerPage;
    return { form: this.#form, pages: this.#waiting, wireBytesPerPage, rawBytesPerPage: this.#rawBytesPerPage };
  }

  /** The guest runs for `ms`, while what is then said to be sent goes out, with its writes multiplied by `activity`. */
  run(ms: number, activity: number): void {
    for (const one of this.#classes) {
      if (one.pages <= 0) continue;
      const writes = (one.writesPerSecond * activity * ms) / 1000 / one.pages;
      one.exposure += writes;
      if (this.#unchangedShare === 0 || one.pattern === "walk") continue;
      const kept = Math.exp(-writes);
      one.unchanged *= kept;
      one.early *= kept;
      one.writes = writes;
    }
    if (this.#unchangedShare > 0) this.#reckonCost();
  }

  /** `pages` of the waiting ones are sent, of all classes alike; not more than {@link next} says. */
  send(pages: number): void {
    if (this.#waiting <= 0) return;
    const share = Math.max(0, 1 - pages / this.#waiting);
    for (const one of this.#classes) {
      if (this.#unchangedShare > 0) one.early += one.waiting * (1 - share) * writtenBefore(one);
      one.waiting *= share;
      one.unchanged *= share;
    }
    this.#waiting *= share;
    this.#stretchLeft -= pages;
    while (this.#stretch < this.#stretches.length && this.#stretchLeft < 0.5) {
      this.#stretch++;
      this.#stretchLeft += this.#stretches[this.#stretch]?.pages ?? 0;
    }
  }

  /** QEMU looks for what was written: sets the bits of those pages, and returns how many were not set already. */
  sync(): number {
    let dirtied = 0;
    for (const one of this.#classes) {
      const found = (one.pages - one.waiting) * coverage(one);
      one.waiting += found;
      one.unchanged += one.early;
      one.early = 0;
      one.exposure = 0;
      dirtied += found;
    }
    this.#stretch = this.#stretches.length;
    this.#waiting += dirtied;
    this.#reckonCost();
    return dirtied;
  }

  /** What would wait after a sync now, and what it would cost to send. */
  residual(): { pages: number; wireBytes: number } {
    let pages = 0;
    let wireBytes = 0;
    for (const one of this.#classes) {
      const count = one.waiting + (one.pages - one.waiting) * coverage(one);
      pages += count;
      wireBytes += (count - this.#unchangedShare * (one.unchanged + one.early)) * one.wireBytesPerPage;
    }
    return { pages, wireBytes };
  }

  #reckonCost(): void {
    const costly = (one: ClassState) => one.waiting - this.#unchangedShare * one.unchanged;
    const wireBytes = this.#classes.reduce((sum, one) => sum + costly(one) * one.wireBytesPerPage, 0);
    this.#wireBytesPerPage = this.#waiting > 0 ? wireBytes / this.#waiting : 0;
    this.#form = this.#classes.reduce((most, one) => (one.waiting > most.waiting ? one : most)).form;
  }
}

/** The share of a class that was written since the last sync. */
function coverage({ pattern, exposure }: ClassState): number {
  return pattern === "walk" ? Math.min(1, exposure) : -Math.expm1(-exposure);
}

/** Of pages sent evenly in the last stretch of time, the share that was written between the last sync and its sending, and not since. */
function writtenBefore({ pattern, exposure, writes }: ClassState): number {
  if (pattern === "walk") return 0;
  return meanOfDecay(writes) - Math.exp(-exposure);
}
