/** Builds or refreshes the indexes of a VM's disks, ahead of a migration. */

import { PAGE_HASHER_BYTES, PageHasher } from "../compact/page-hasher.ts";
import { xxh3Secret } from "../compact/xxh3-secret.ts";
import { GodwitError, messageOf } from "../errors.ts";
import { readFacts } from "../qemu/facts.ts";
import { QmpClient } from "../qemu/qmp.ts";
import { BLOCK_BYTES, PART_BLOCKS } from "../store/index-format.ts";
import { IndexStore } from "../store/index-store.ts";
import { specificAdviceFor } from "./advice.ts";
import { type DiskPaths, listDisksAt } from "./disk-paths.ts";
import type { IndexedDisk } from "./indexed-disk.ts";
import { IndexedDisks } from "./indexed-disks.ts";
import { createKernels } from "./kernels.ts";

/** How often progress is reported. */
const PROGRESS_MS = 250;

/** What came of a disk. */
export interface DiskIndexed {
  disk: string;
  image: string;
  sizeBytes: number;
  /** Blocks that were known from before, zeros not counted. */
  knownBlocks: number;
  /** What was read; the rest is unchanged, or holes. */
  readBytes: number;
  /** Blocks with a content that was not known to be there. */
  newBlocks: number;
  ms: number;
  /** Whether all of it is known now. */
  isWhole: boolean;
  /** Why not, or why it is not kept: one clause for people. */
  why: string | null;
}

export type IndexEvent =
  | { event: "progress"; disk: string; doneBytes: number; sizeBytes: number; readBytes: number; elapsedMs: number }
  | ({ event: "disk" } & DiskIndexed)
  | { event: "warning"; message: string }
  | { event: "error"; code: string; message: string; advice: string }
  | IndexCommandSummary;

/** "failed": a disk was not read to its end, or its index was not kept; "refused": nothing was read. */
export type IndexStatus = "completed" | "failed" | "refused" | "cancelled";

export interface IndexCommandSummary {
  event: "summary";
  status: IndexStatus;
  totalMs: number;
  disks: DiskIndexed[];
}

export interface IndexDisksOptions {
  readonly qmpPath: string;
  readonly stateDir: string;
  readonly diskPaths?: DiskPaths | undefined;
  /** Aborted by a person who wants it to end: what was read by then is kept. */
  readonly signal: AbortSignal;
  readonly onEvent: (event: IndexEvent) => void;
}

/**
 * Reads what is not known of the disks of a VM, whose guest goes on undisturbed. Never throws: how it ended is in the summary,
 * which is also the last event.
 */
export async function indexDisks(options: IndexDisksOptions): Promise<IndexCommandSummary> {
  const startMs = performance.now();
  const disks: DiskIndexed[] = [];
  let status: IndexStatus;
  try {
    status = await indexAll(options, disks);
  } catch (error) {
    status = "refused";
    const code = error instanceof GodwitError ? error.code : "MIGRATION_FAILED";
    const advice = specificAdviceFor(error, "source") ?? "";
    options.onEvent({ event: "error", code, message: messageOf(error), advice });
  }
  const summary = { event: "summary", status, totalMs: performance.now() - startMs, disks } as const;
  options.onEvent(summary);
  return summary;
}

async function indexAll(options: IndexDisksOptions, done: DiskIndexed[]): Promise<IndexStatus> {
  const { qmpPath, stateDir, diskPaths = new Map(), signal, onEvent } = options;
  const warn = (message: string) => onEvent({ event: "warning", message });
  using qmp = await QmpClient.connect(qmpPath);
  const store = await IndexStore.open(stateDir);
  const facts = await readFacts(qmp);
  const indexed = await IndexedDisks.open(qmp, facts, await listDisksAt(qmp, diskPaths), { store, warn });
  try {
    for (const [id, why] of indexed.unreadable) warn(`disk ${id} can't be read: ${why}`);
    const { pages, bytes, base } = createKernels(PAGE_HASHER_BYTES);
    const hasher = new PageHasher(pages, bytes, base, xxh3Secret(store.seed));
    for (const disk of indexed.disks.values()) {
      const result = await indexOne(disk, hasher, options);
      done.push(result);
      onEvent({ event: "disk", ...result });
      if (signal.aborted) return "cancelled";
    }
  } finally {
    await indexed.close(true);
  }
  return indexed.unreadable.size === 0 && done.every(({ why }) => why === null) ? "completed" : "failed";
}

async function indexOne(
  disk: IndexedDisk,
  hasher: PageHasher,
  { signal, onEvent }: IndexDisksOptions,
): Promise<DiskIndexed> {
  const startMs = performance.now();
  const { id, image, reader, knownBlocks, counts } = disk;
  const { sizeBytes } = reader;
  let reportedMs = startMs;
  const onHashes = (firstBlock: number) => {
    const now = performance.now();
    if (now - reportedMs < PROGRESS_MS) return;
    reportedMs = now;
    const doneBytes = Math.min((firstBlock + PART_BLOCKS) * BLOCK_BYTES, sizeBytes);
    const { readBytes } = counts;
    onEvent({ event: "progress", disk: id, doneBytes, sizeBytes, readBytes, elapsedMs: now - startMs });
  };
  let isWhole = false;
  let why: string | null = null;
  try {
    isWhole = await disk.read(hasher, onHashes, () => true, signal);
    if (!isWhole) why = "it was stopped";
  } catch (error) {
    why = messageOf(error);
  }
  await disk.save(true);
  if (!disk.isKept) why = "the index can't be kept";
  const { readBytes, newBlocks } = counts;
  return {
    disk: id,
    image,
    sizeBytes,
    knownBlocks,
    readBytes,
    newBlocks,
    ms: performance.now() - startMs,
    isWhole,
    why,
  };
}
