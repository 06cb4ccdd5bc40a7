/** What a sample of guest memory tells of what a migration will send: shares of forms, bytes of a page, and how well that is known. */

import type { DirtyWindow } from "./dirty-curve.ts";

export const PACKINGS = ["none", "lz4", "zstd"] as const;
export type Packing = (typeof PACKINGS)[number];

/** Consecutive pages that were looked at together. */
export interface ClusterSample {
  pages: number;
  zeroPages: number;
  /** That stand on a disk, as its index says. */
  diskPages: number;
  /** Runs of those: each takes a reference. */
  diskRuns: number;
  /** Of the others those that equal a page of another cluster before: of contents that were seen twice, and of those seen more often. */
  copies: Readonly<{ ofPairs: number; ofMore: number }>;
  /** What the others come to on the wire. */
  restBytes: Readonly<Record<Packing, number>>;
  /** That were another when they were read again. */
  changedPages: number;
  /** Between the two times. */
  againMs: number;
}

/** What a page of the guest's working set comes to, as its difference from before or whole. */
export interface ChangedCost {
  /** How many were seen. */
  pages: number;
  /** Of each, on average. */
  bytes: Readonly<Record<Packing, number>>;
}

export interface MemorySample {
  clusters: readonly ClusterSample[];
  changed: ChangedCost;
  /** Of bodies, by one core, as measured on the sample. */
  packBytesPerSecond: Readonly<Record<Exclude<Packing, "none">, number>>;
}

/** Shares of memory, and what their pages cost. */
export interface MemoryShares {
  zero: number;
  disk: number;
  /** That equal pages elsewhere in memory, and are sent as such. */
  copied: number;
  rest: number;
  /** On the wire. */
  diskBytesPerPage: number;
  restBytesPerPage: Readonly<Record<Packing, number>>;
}

export function sharesOf(clusters: readonly ClusterSample[]): MemoryShares {
  const total = (of: (cluster: ClusterSample) => number) => clusters.reduce((sum, cluster) => sum + of(cluster), 0);
  const pages = Math.max(
    1,
    total(({ pages }) => pages),
  );
  const [zeroPages, diskPages] = [total(({ zeroPages }) => zeroPages), total(({ diskPages }) => diskPages)];
  const restPages = pages - zeroPages - diskPages;
  const restBytes = (packing: Packing) =>
    restPages > 0 ? total(({ restBytes }) => restBytes[packing]) / restPages : WHOLE_PAGE_BYTES[packing];
  return {
    zero: zeroPages / pages,
    disk: diskPages / pages,
    copied: 0,
    rest: restPages / pages,
    diskBytesPerPage:
      diskPages > 0 ? (total(({ diskRuns }) => diskRuns) * REFERENCE_BYTES) / diskPages : REFERENCE_BYTES,
    restBytesPerPage: { none: restBytes("none"), lz4: restBytes("lz4"), zstd: restBytes("zstd") },
  };
}

/** A reference with its tag, on average (docs/page-format.md). */
const REFERENCE_BYTES = 22;
/** Of a page of which nothing is known: what is left of guests after references packs to a half (docs/benchmarks.md). */
const WHOLE_PAGE_BYTES: Readonly<Record<Packing, number>> = { none: 4096, lz4: 2500, zstd: 2048 };

/** Clusters drawn from the sample as often as it has, the same more than once: so the sample tells how sure it is (the bootstrap). */
export function redrawn(clusters: readonly ClusterSample[], random: () => number): ClusterSample[] {
  return clusters.map(() => clusters[Math.floor(random() * clusters.length)]!);
}

/**
 * That none of k clusters was of some kind says only that few are: a share u of memory may be of what was not seen, and then costs as
 * much as the rest. So many times u ≥ x as a sample of k misses it: (1 − x)^k (so for nine of ten u is up to about 3/k, the rule of three).
 */
export function withUnseen(shares: MemoryShares, clusters: number, random: () => number): MemoryShares {
  const seen = random() ** (1 / Math.max(1, clusters));
  return {
    ...shares,
    zero: shares.zero * seen,
    disk: shares.disk * seen,
    rest: 1 - (shares.zero + shares.disk) * seen,
  };
}

/**
 * Of the rest those that equal other pages of it: 2 to 15 % in the lab (docs/control-loop.md). A sample that is the share f of the memory has both
 * of two equal pages with f² only, so of a large guest it tells little: then what the lab saw counts.
 */
export function withCopies(
  shares: MemoryShares,
  clusters: readonly ClusterSample[],
  memoryPages: number,
  random: () => number,
): MemoryShares {
  const total = (of: (cluster: ClusterSample) => number) => clusters.reduce((sum, cluster) => sum + of(cluster), 0);
  const rest = total(({ pages, zeroPages, diskPages }) => pages - zeroPages - diskPages);
  const others = Math.min(1, total(({ pages }) => pages) / memoryPages);
  const pairs = total(({ copies }) => copies.ofPairs) + COPIES_WEIGHT * MOST_COPIED * random();
  const ofMore = total(({ copies }) => copies.ofMore) / Math.max(1, rest);
  const copied = shares.rest * Math.min(1, pairs / (others * rest + COPIES_WEIGHT) + ofMore);
  return { ...shares, copied, rest: shares.rest - copied };
}

/** The most that is thought of a guest of which nothing was seen. */
const MOST_COPIED = 0.15;
/** As how many pages that were compared with all others that counts: ten clusters, as what is equal lies together (copies of files). */
const COPIES_WEIGHT = 320;

/**
 * What the sample, read twice, tells of the dirty rate: a window like QEMU's own. Its deviation is that between the clusters, as what a
 * guest writes lies together.
 */
export function windowOf(clusters: readonly ClusterSample[], memoryPages: number): DirtyWindow | undefined {
  const read = clusters.filter(({ againMs }) => againMs > 0);
  if (read.length < 2) return undefined;
  const shares = read.map(({ changedPages, pages }) => changedPages / pages);
  const mean = shares.reduce((sum, share) => sum + share, 0) / shares.length;
  const variance = shares.reduce((sum, share) => sum + (share - mean) ** 2, 0) / (shares.length - 1);
  const windowMs = read.reduce((sum, { againMs }) => sum + againMs, 0) / read.length;
  // That none was seen does not say that there are none: with one more of a page the mean would be this.
  const leastDeviation = 1 / read.reduce((sum, { pages }) => sum + pages, 0);
  const deviation = Math.max(Math.sqrt(variance / shares.length), leastDeviation);
  return { windowMs, pages: mean * memoryPages, deviationPages: deviation * memoryPages };
}

/** Beside references and differences a token takes some bytes. */
const TOKEN_BYTES = 4;

/** What a page of the working set costs, where enough of them were seen; else like one that is sent for the first time. */
export function changedBytesOf({ changed }: MemorySample, shares: MemoryShares, packing: Packing): number {
  const whole = shares.restBytesPerPage[packing];
  const own = changed.pages > 0 ? changed.bytes[packing] + TOKEN_BYTES : whole;
  const weight = changed.pages / (changed.pages + WHOLE_WEIGHT);
  return own * weight + whole * (1 - weight);
}

/** The whole page counts as much as so many that were seen. */
const WHOLE_WEIGHT = 4;
