/** Giving space back (docs/store-format.md): what nothing names is removed, and packs with little in them are rewritten. */

import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { BlockPacker, unpackBlock } from "./checkpoint-block-codec.ts";
import { codeOf, isLost, writeError } from "./checkpoint-errors.ts";
import { namesIn, type VmFolder } from "./checkpoint-folder.ts";
import { Arena, type KernelSource, PAGE_BYTES, type StoreKernels, TAG_BYTES } from "./checkpoint-kernels.ts";
import { MANIFEST_SUFFIX, Manifest } from "./checkpoint-manifest.ts";
import { BLOCK_BYTES, BLOCK_PAGES, PACK_SUFFIX, Pack, packPath } from "./checkpoint-pack.ts";
import { PackWriter } from "./checkpoint-pack-writer.ts";
import { TEMPORARY } from "./checkpoint-sealed-file.ts";
import { Usage } from "./checkpoint-usage.ts";
import type { VmRecord } from "./checkpoint-vm.ts";
import { syncFolder } from "./durable.ts";

/** A pack of which a smaller part is alive is rewritten. */
const MIN_ALIVE_SHARE = 3 / 4;
const NONE: ReadonlySet<string> = new Set();

/**
 * Removes what no manifest of a VM names; the caller holds its lock. Nothing is done where a file is of a newer version.
 *
 * @param damaged packs with blocks that cannot be read: these are left out, so that no later checkpoint counts on them
 * @throws STORE_CHECKPOINT_READ when it cannot be known what is named; STORE_FULL, STORE_NOT_WRITABLE
 */
export async function sweep(
  folder: VmFolder,
  source: KernelSource,
  damaged: ReadonlySet<string> = NONE,
): Promise<void> {
  if (codeOf(folder.error) === "STORE_CHECKPOINT_NEWER") return;
  if (folder.error && !isLost(folder.error)) throw folder.error;
  const manifests: Manifest[] = [];
  try {
    for (const name of await readdir(folder.path)) {
      if (name.endsWith(TEMPORARY)) await rm(join(folder.path, name), { force: true });
    }
    for (const id of folder.vm ? await namesIn(folder.path, MANIFEST_SUFFIX) : []) {
      const manifest = await openIfIntact(() => Manifest.open(folder.path, id, folder.vm!));
      if (manifest === "newer") return;
      if (manifest !== undefined) manifests.push(manifest);
    }
    await sweepPacks(folder, await Usage.of(manifests), source, damaged);
    await syncFolder(folder.path);
  } catch (error) {
    throw writeError(folder.path, error);
  } finally {
    for (const manifest of manifests) await manifest.close();
  }
}

async function sweepPacks(
  { path, vm }: VmFolder,
  usage: Usage,
  source: KernelSource,
  damaged: ReadonlySet<string>,
): Promise<void> {
  const ids = await namesIn(path, PACK_SUFFIX);
  const [used, unused] = [ids.filter((id) => usage.aliveIn(id) > 0), ids.filter((id) => usage.aliveIn(id) === 0)];
  for (const id of unused) await rm(packPath(path, id), { force: true }); // first: rewriting needs room
  for (const id of used) {
    const pack = await openIfIntact(() => Pack.open(path, id, vm!.folderId));
    if (pack === undefined || pack === "newer") continue; // as good as it gets until its checkpoints are deleted
    try {
      const isDue = damaged.has(id) || usage.aliveIn(id) < MIN_ALIVE_SHARE * pack.contents;
      if (isDue) await rewrite(path, pack, usage, vm!, source);
    } finally {
      await pack.close();
    }
  }
}

/** What is opened; undefined if it is damaged. */
async function openIfIntact<T>(open: () => Promise<T>): Promise<T | "newer" | undefined> {
  try {
    return await open();
  } catch (error) {
    if (codeOf(error) === "STORE_CHECKPOINT_NEWER") return "newer";
    if (isLost(error)) return undefined;
    throw error;
  }
}

/** Puts a pack without what is not alive in the place of a pack. */
async function rewrite(path: string, pack: Pack, usage: Usage, vm: VmRecord, source: KernelSource): Promise<void> {
  const tags = await openIfIntact(() => pack.tags());
  if (!(tags instanceof Buffer)) return;
  const writer = await PackWriter.create(path, vm.folderId, pack.id);
  try {
    const blocks = new BlockReducer(source);
    for (let block = 0; block < pack.blocks; block++) {
      const { present } = pack.block(block);
      let kept = 0;
      for (let page = 0; page < BLOCK_PAGES; page++) {
        const isKept = (present & (1 << page)) !== 0 && usage.isAlive(pack.id, block * BLOCK_PAGES + page);
        if (isKept) kept |= 1 << page;
      }
      const reduced = kept === 0 ? undefined : await blocks.reduce(pack, block, kept);
      if (reduced === undefined) await writer.add(new Uint8Array(0), 0);
      else await writer.add(reduced, kept);
      if (reduced !== undefined) copyTags(tags, writer.tags, block);
    }
    await writer.finish();
  } catch (error) {
    await writer.abort();
    throw error;
  }
}

function copyTags(from: Buffer, to: Buffer, block: number): void {
  const bytes = BLOCK_PAGES * TAG_BYTES;
  from.copy(to, block * bytes, block * bytes, (block + 1) * bytes);
}

/** Makes blocks of which only some contents are kept. */
class BlockReducer {
  readonly #kernels: StoreKernels;
  readonly #packer: BlockPacker;
  readonly #stored: number;
  readonly #block: number;

  constructor(source: KernelSource) {
    const sizeBytes = 2 * BLOCK_BYTES + BlockPacker.memoryBytes(source);
    this.#kernels = source.create(sizeBytes);
    const arena = new Arena(this.#kernels, sizeBytes);
    this.#stored = arena.take(BLOCK_BYTES);
    this.#block = arena.take(BLOCK_BYTES);
    this.#packer = new BlockPacker(this.#kernels, arena.take(BlockPacker.memoryBytes(source)));
  }

  /** The block as it is to be stored, valid until the next call; undefined if it is damaged. */
  async reduce(pack: Pack, block: number, kept: number): Promise<Uint8Array | undefined> {
    const { storedBytes, checksum, present } = pack.block(block);
    const { bytes } = this.#kernels;
    const stored = bytes.subarray(this.#stored, this.#stored + storedBytes);
    await pack.read(block, stored);
    if (crc32(stored) !== checksum) return undefined;
    if (kept === present) return stored;
    if (!unpackBlock(this.#kernels, this.#stored, storedBytes, this.#block)) return undefined;
    this.#packer.block.fill(0);
    for (let page = 0; page < BLOCK_PAGES; page++) {
      if ((kept & (1 << page)) === 0) continue;
      const from = this.#block + page * PAGE_BYTES;
      this.#packer.block.set(bytes.subarray(from, from + PAGE_BYTES), page * PAGE_BYTES);
    }
    return this.#packer.pack();
  }
}
