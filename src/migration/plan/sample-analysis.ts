/** What a sample of guest memory comes to as pages of a migration: which are zero or on a disk, how others pack, and how they change. */

import { MAX_DIFFERENCE_BYTES } from "../../compact/limits.ts";
import { MAX_LOOKUPS, PageIndex } from "../../compact/page-index.ts";
import { LZ4_TABLE_BYTES, NOT_FOUND } from "../../compact/page-kernels.ts";
import { xxh3Secret } from "../../compact/xxh3-secret.ts";
import type { ClusterSample, MemorySample, Packing } from "../../control/planning/page-costs.ts";
import { PAGE_BYTES } from "../../stream/format.ts";
import { createKernels, type Kernels } from "../kernels.ts";
import { runJob } from "../workers/job.ts";
import { CLUSTER_BYTES, CLUSTER_PAGES, MAX_CLUSTERS, type SampleTarget } from "./sampled-memory.ts";

/** What has changed is kept up to here, and the rest only counted. */
const MAX_CHANGED_BYTES = 4 * 1024 * 1024;
/** As in a migration (BATCH_PAYLOAD_BYTES): what has changed is packed together. */
const BODY_BYTES = 256 * 1024;
/** Of two equal pages: the bitmap of their difference. */
const NO_DIFFERENCE_BYTES = 64;
const HASH_BYTES = 8;
const WORD_BYTES = 4;
const SAMPLE_PAGES = MAX_CLUSTERS * CLUSTER_PAGES;

/** Areas of the kernels' memory, and how long each is; alignment of 64. */
const AREAS = {
  /** The sample, as it was read last. */
  sample: MAX_CLUSTERS * CLUSTER_BYTES,
  /** A cluster that was read again. */
  again: CLUSTER_BYTES,
  changed: MAX_CHANGED_BYTES,
  difference: CLUSTER_PAGES * MAX_DIFFERENCE_BYTES,
  body: BODY_BYTES,
  packed: BODY_BYTES,
  lz4: LZ4_TABLE_BYTES,
  hashes: CLUSTER_PAGES * HASH_BYTES,
  nonZero: CLUSTER_PAGES * WORD_BYTES,
  older: CLUSTER_PAGES * WORD_BYTES,
  newer: CLUSTER_PAGES * WORD_BYTES,
  lengths: CLUSTER_PAGES * WORD_BYTES,
  secret: 192,
  index: PageIndex.memoryBytes(SAMPLE_PAGES),
} as const;
type Area = keyof typeof AREAS;

/** A sample that is taken and then looked at. */
export class SampleAnalysis {
  readonly first: SampleTarget;
  readonly second: SampleTarget;
  readonly #kernels: Kernels;
  readonly #at: Readonly<Record<Area, number>>;
  readonly #view: DataView;
  readonly #index: PageIndex;
  readonly #againMs = new Float64Array(MAX_CLUSTERS);
  readonly #changedPages = new Uint32Array(MAX_CLUSTERS);
  /** Which pages of the sample are all zero, and which stand on a disk. */
  readonly #isZero = new Uint8Array(SAMPLE_PAGES);
  readonly #isOnDisk = new Uint8Array(SAMPLE_PAGES);
  readonly #hashes = new Uint8Array(SAMPLE_PAGES * HASH_BYTES);
  /** Of each page of a cluster the first one of the sample that has its hash. */
  readonly #equals = new Uint32Array(CLUSTER_PAGES);
  readonly #timesSeen = new Uint16Array(SAMPLE_PAGES);
  #clusters = 0;
  #changedBytes = 0;
  #keptChanges = 0;
  readonly #packMs = { lz4: 0, zstd: 0 };
  #packedBytes = 0;

  /** @param seed of the hashes of the host's indexes */
  constructor(seed: bigint) {
    const { offsets, totalBytes } = layOut();
    this.#kernels = createKernels(totalBytes + 64);
    const base = Math.ceil(this.#kernels.base / 64) * 64;
    const places = offsets.map(([area, at]) => [area, base + at]);
    this.#at = Object.fromEntries(places) as Record<Area, number>;
    const { bytes, pages } = this.#kernels;
    this.#view = new DataView(bytes.buffer);
    const secret = xxh3Secret(seed);
    bytes.set(secret, this.#at.secret);
    this.#index = new PageIndex(pages, bytes, this.#at.index, SAMPLE_PAGES, secret);
    this.first = {
      place: (cluster) => this.#cluster(cluster),
      taken: (cluster) => {
        this.#clusters = cluster + 1;
      },
    };
    this.second = {
      place: () => bytes.subarray(this.#at.again, this.#at.again + CLUSTER_BYTES),
      taken: (cluster, ms) => this.#compare(cluster, ms),
    };
  }

  #cluster(cluster: number): Uint8Array {
    const at = this.#at.sample + cluster * CLUSTER_BYTES;
    return this.#kernels.bytes.subarray(at, at + CLUSTER_BYTES);
  }

  /** What has changed since it was read first; then the newer content takes the older one's place. */
  #compare(cluster: number, ms: number): void {
    const { pages, bytes } = this.#kernels;
    const at = this.#at;
    const older = at.sample + cluster * CLUSTER_BYTES;
    for (let i = 0; i < CLUSTER_PAGES; i++) {
      this.#view.setUint32(at.older + i * WORD_BYTES, older + i * PAGE_BYTES, true);
      this.#view.setUint32(at.newer + i * WORD_BYTES, at.again + i * PAGE_BYTES, true);
    }
    pages.encodeDeltas(at.older, at.newer, CLUSTER_PAGES, MAX_DIFFERENCE_BYTES, at.difference, at.lengths);
    let from = at.difference;
    for (let i = 0; i < CLUSTER_PAGES; i++) {
      const length = this.#view.getUint32(at.lengths + i * WORD_BYTES, true);
      if (length !== NO_DIFFERENCE_BYTES) {
        this.#changedPages[cluster]!++;
        if (length > 0) this.#keepChange(from, length);
        else this.#keepChange(at.again + i * PAGE_BYTES, PAGE_BYTES);
      }
      from += length;
    }
    this.#againMs[cluster] = ms;
    bytes.copyWithin(older, at.again, at.again + CLUSTER_BYTES);
  }

  #keepChange(from: number, length: number): void {
    if (this.#changedBytes + length > MAX_CHANGED_BYTES) return;
    this.#kernels.bytes.copyWithin(this.#at.changed + this.#changedBytes, from, from + length);
    this.#changedBytes += length;
    this.#keptChanges++;
  }

  /** Hashes what was read, to be looked for on disks. */
  hash(): void {
    const { pages } = this.#kernels;
    const at = this.#at;
    this.#isZero.fill(1);
    for (let cluster = 0; cluster < this.#clusters; cluster++) {
      const first = at.sample + cluster * CLUSTER_BYTES;
      const count = pages.listNonZero(first, PAGE_BYTES, CLUSTER_PAGES, at.nonZero);
      pages.hashPages(at.secret, at.nonZero, count, at.hashes);
      const hashes = this.#hashesOf(cluster);
      for (let i = 0; i < count; i++) {
        const page = (this.#view.getUint32(at.nonZero + i * WORD_BYTES, true) - first) / PAGE_BYTES;
        this.#isZero[cluster * CLUSTER_PAGES + page] = 0;
        const hash = at.hashes + i * HASH_BYTES;
        hashes.set(this.#kernels.bytes.subarray(hash, hash + HASH_BYTES), page * HASH_BYTES);
      }
      this.#index.addHashes(hashes, cluster * CLUSTER_PAGES);
    }
  }

  #hashesOf(cluster: number): Uint8Array {
    const bytes = CLUSTER_PAGES * HASH_BYTES;
    return this.#hashes.subarray(cluster * bytes, (cluster + 1) * bytes);
  }

  /** Marks the pages whose hashes (u64 each) stand on a disk; of equal pages one, which stands for all. */
  foundOnDisk(hashes: Uint8Array): void {
    const found = new Uint32Array(MAX_LOOKUPS);
    for (let from = 0; from < hashes.length; from += MAX_LOOKUPS * HASH_BYTES) {
      const some = hashes.subarray(from, from + MAX_LOOKUPS * HASH_BYTES);
      this.#index.lookup(some, found);
      for (let i = 0; i < some.length / HASH_BYTES; i++) {
        const page = found[i]!;
        if (page !== NOT_FOUND) this.#isOnDisk[page] = 1;
      }
    }
  }

  /** Packs what neither is zero nor stands on a disk, and what has changed. */
  result(): MemorySample {
    this.#countEquals();
    const clusters = Array.from({ length: this.#clusters }, (_, cluster) => this.#clusterSample(cluster));
    const speed = (ms: number) => (ms > 0 ? (this.#packedBytes * 1000) / ms : Number.POSITIVE_INFINITY);
    return {
      clusters,
      changed: this.#changedCost(),
      packBytesPerSecond: { lz4: speed(this.#packMs.lz4), zstd: speed(this.#packMs.zstd) },
    };
  }

  /** How many pages of the sample have the content of each that is the first with its own. */
  #countEquals(): void {
    this.#timesSeen.fill(0);
    for (let cluster = 0; cluster < this.#clusters; cluster++) {
      this.#index.lookup(this.#hashesOf(cluster), this.#equals);
      for (const first of this.#equals) if (first !== NOT_FOUND) this.#timesSeen[first]!++;
    }
  }

  #clusterSample(cluster: number): ClusterSample {
    const { bytes } = this.#kernels;
    this.#index.lookup(this.#hashesOf(cluster), this.#equals);
    let [zeroPages, diskPages, diskRuns, bodyBytes] = [0, 0, 0, 0];
    const copies = { ofPairs: 0, ofMore: 0 };
    let isRun = false;
    for (let i = 0; i < CLUSTER_PAGES; i++) {
      const page = cluster * CLUSTER_PAGES + i;
      const first = this.#equals[i]!;
      const isDisk = this.#isOnDisk[first] === 1;
      if (isDisk) {
        diskPages++;
        if (!isRun) diskRuns++;
      } else if (this.#isZero[page] === 1) zeroPages++;
      else {
        const from = this.#at.sample + page * PAGE_BYTES;
        bytes.copyWithin(this.#at.body + bodyBytes, from, from + PAGE_BYTES);
        bodyBytes += PAGE_BYTES;
        if (Math.floor(first / CLUSTER_PAGES) !== cluster)
          copies[this.#timesSeen[first] === 2 ? "ofPairs" : "ofMore"]++;
      }
      isRun = isDisk;
    }
    return {
      pages: CLUSTER_PAGES,
      zeroPages,
      diskPages,
      diskRuns,
      copies,
      restBytes: this.#packed(this.#at.body, bodyBytes),
      changedPages: this.#changedPages[cluster]!,
      againMs: this.#againMs[cluster]!,
    };
  }

  #changedCost(): MemorySample["changed"] {
    const sums = { none: 0, lz4: 0, zstd: 0 };
    for (let from = 0; from < this.#changedBytes; from += BODY_BYTES) {
      const packed = this.#packed(this.#at.changed + from, Math.min(BODY_BYTES, this.#changedBytes - from));
      for (const packing of ["none", "lz4", "zstd"] as const) sums[packing] += packed[packing];
    }
    const pages = this.#keptChanges;
    const mean = (sum: number) => (pages > 0 ? sum / pages : 0);
    return { pages, bytes: { none: mean(sums.none), lz4: mean(sums.lz4), zstd: mean(sums.zstd) } };
  }

  /** What a body comes to; as it is where it does not shrink. */
  #packed(from: number, bytes: number): Record<Packing, number> {
    if (bytes === 0) return { none: 0, lz4: 0, zstd: 0 };
    this.#packedBytes += bytes;
    return { none: bytes, lz4: this.#pack("lz4", 0, from, bytes), zstd: this.#pack("zstd", 1, from, bytes) };
  }

  #pack(codec: "lz4" | "zstd", level: number, from: number, bytes: number): number {
    const { pages, bytes: memory } = this.#kernels;
    const [to, table] = [this.#at.packed, this.#at.lz4];
    const packed = runJob(pages, memory, { task: "pack", codec, level, from, bytes, to, capacity: bytes - 1, table });
    this.#packMs[codec] += packed.ms;
    return packed.bytes > 0 ? packed.bytes : bytes;
  }
}

/** Where each area begins, at multiples of 64. */
function layOut(): { offsets: [string, number][]; totalBytes: number } {
  const offsets: [string, number][] = [];
  let totalBytes = 0;
  for (const [area, bytes] of Object.entries(AREAS)) {
    offsets.push([area, totalBytes]);
    totalBytes += Math.ceil(bytes / 64) * 64;
  }
  return { offsets, totalBytes };
}
