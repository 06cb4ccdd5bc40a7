/** What the pages of a saved stream may be found in: images of disks, and checkpoints. */

import { randomBytes } from "node:crypto";
import { mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CHECKPOINT, DISK } from "../compact/limits.ts";
import { PAGE_HASHER_BYTES, PageHasher } from "../compact/page-hasher.ts";
import { PageIndex } from "../compact/page-index.ts";
import { NOT_FOUND } from "../compact/page-kernels.ts";
import type { IndexedPlaces } from "../compact/place-matcher.ts";
import { xxh3Secret } from "../compact/xxh3-secret.ts";
import { GodwitError, messageOf } from "../errors.ts";
import { sharedNameOf } from "../qemu/disks.ts";
import { openImage } from "../qemu/image-server.ts";
import { ALLOCATION_CONTEXT } from "../qemu/nbd.ts";
import { firstBlocksOf, type IndexableDisk, ReadingPlan, readDisk } from "../store/disk-index.ts";
import { FileDisk } from "../store/disk-reader.ts";
import { canBeIndexed, PART_BLOCKS } from "../store/index-format.ts";
import { createKernels } from "./kernels.ts";
import { openCheckpoints } from "./open-checkpoints.ts";

/** An image of a disk. */
export interface SavedImage {
  readonly path: string;
  /** As `-blockdev` calls it; "raw" is the bytes of the disk. It is never guessed: a guest writes what stands there. */
  readonly format: string;
}

/** Entries of an index at most, as many as a migration has: 205 MB for 64 GiB of blocks that are not zero. */
const MAX_ENTRIES = 16 * 1024 * 1024;

/**
 * Indexes images of disks, all of them read through.
 *
 * @returns undefined where there is none
 * @throws GodwitError STORE_DISK_OPEN, STORE_DISK_READ, QMP_NBD_*; QMP_NBD_PROGRAM where it takes a qemu-nbd and there is none
 */
export async function indexImages(images: readonly SavedImage[]): Promise<IndexedPlaces | undefined> {
  if (images.length === 0) return undefined;
  await using stack = new AsyncDisposableStack();
  const disks: IndexableDisk[] = [];
  for (const image of images) disks.push(await openSaved(image, stack));
  const firstBlocks = firstBlocksOf(disks);
  if (!disks.every(({ sizeBytes }) => canBeIndexed(sizeBytes)) || firstBlocks.at(-1)! > NOT_FOUND) {
    throw new GodwitError("STORE_DISK_OPEN", "the disks are too large together to be looked through");
  }
  const entries = Math.min(firstBlocks.at(-1)!, MAX_ENTRIES);
  const { index, hasher } = createIndex(entries);
  for (const [i, disk] of disks.entries()) {
    const known = { stored: undefined, changes: null };
    await readDisk(disk, known, new ReadingPlan(disk.sizeBytes, known), {
      hasher,
      onPart: async (part, hashes) => index.addHashes(hashes, firstBlocks[i]! + part * PART_BLOCKS),
      goesOn: () => !index.isFull,
      signal: new AbortController().signal,
      counts: { readBytes: 0, newBlocks: 0, readMs: 0 },
    });
  }
  return { kind: DISK, firstSource: 0, firstBlocks, index };
}

/**
 * Indexes a checkpoint of this host.
 *
 * @param id or the beginning of one
 * @throws GodwitError STORE_STATE_DIR, STORE_CHECKPOINT_*
 */
export async function indexCheckpoint(stateDir: string, id: string): Promise<IndexedPlaces> {
  const store = await openCheckpoints(stateDir);
  await using reader = await store.open(id);
  const entries = Math.min(reader.pages, MAX_ENTRIES);
  const { index } = createIndex(entries, reader.seed);
  let page = 0;
  for await (const hashes of reader.hashes()) {
    index.addHashes(hashes, page);
    page += hashes.length / 8;
  }
  return { kind: CHECKPOINT, firstSource: 0, firstBlocks: [0, reader.pages], index };
}

function createIndex(
  entries: number,
  seed = randomBytes(8).readBigUInt64LE(),
): { index: PageIndex; hasher: PageHasher } {
  const hasherBytes = Math.ceil(PAGE_HASHER_BYTES / 64) * 64; // an index begins at a cache line
  const { pages, bytes, base } = createKernels(hasherBytes + PageIndex.memoryBytes(Math.max(1, entries)));
  const secret = xxh3Secret(seed);
  return {
    hasher: new PageHasher(pages, bytes, base, secret),
    index: new PageIndex(pages, bytes, base + hasherBytes, Math.max(1, entries), secret),
  };
}

async function openSaved({ path, format }: SavedImage, stack: AsyncDisposableStack): Promise<IndexableDisk> {
  const status = await stat(path).catch((cause) => {
    throw new GodwitError(
      "STORE_DISK_OPEN",
      `the disk ${path} can't be read: ${messageOf(cause)}`,
      { path },
      { cause },
    );
  });
  if (format === "raw" && status.isFile()) return stack.use(await FileDisk.open(path, status.size));
  const folder = await mkdtemp(join(tmpdir(), "godwit-"));
  stack.defer(() => rm(folder, { recursive: true, force: true }));
  const contexts = [ALLOCATION_CONTEXT];
  const image = stack.use(await openImage(sharedNameOf(format, path), join(folder, "nbd"), { contexts }));
  return image.client;
}
