import { crc32 } from "node:zlib";
import type { GodwitError } from "../errors.ts";
import { unpackBlock } from "./checkpoint-block-codec.ts";
import { damaged } from "./checkpoint-errors.ts";
import { Arena, type KernelSource, type StoreKernels } from "./checkpoint-kernels.ts";
import { BLOCK_BYTES, MAX_PACK_BLOCKS, type Pack } from "./checkpoint-pack.ts";
import type { PackPool } from "./checkpoint-pack-pool.ts";

/** Blocks that stand unpacked in memory: 8 MiB. */
const SLOTS = 128;
/** Reads that may be under way: 4 MiB. */
const READS = 8;
/** Blocks that are read at once, at most. */
const READ_BLOCKS = 8;
const READ_BYTES = READ_BLOCKS * BLOCK_BYTES;

interface Slot {
  readonly at: number;
  /** Which contents are there. */
  present: number;
}

/** Takes what it wants of an unpacked block, at once. `present` says which of its contents are there. */
export type BlockUser = (content: Uint8Array, present: number) => void;

/**
 * Unpacked blocks of a checkpoint's packs. A block's number is that of its pack times MAX_PACK_BLOCKS, plus its own within it.
 */
export class BlockCache {
  readonly #packs: PackPool;
  readonly #kernels: StoreKernels;
  /** Those used last behind. */
  readonly #slots = new Map<number, Slot>();
  readonly #freeSlots: Slot[] = [];
  readonly #freeReads: number[] = [];
  readonly #waiting: ((read: number) => void)[] = [];
  readonly #loading = new Map<number, Promise<void>>();

  constructor(source: KernelSource, packs: PackPool) {
    this.#packs = packs;
    const sizeBytes = SLOTS * BLOCK_BYTES + READS * READ_BYTES;
    this.#kernels = source.create(sizeBytes);
    const arena = new Arena(this.#kernels, sizeBytes);
    while (this.#freeSlots.length < SLOTS) this.#freeSlots.push({ at: arena.take(BLOCK_BYTES), present: 0 });
    while (this.#freeReads.length < READS) this.#freeReads.push(arena.take(READ_BYTES));
  }

  /** Begins to read those of these blocks that are not there, consecutive ones together. Failures are told to who uses them. */
  prefetch(blocks: readonly number[]): void {
    let group: number[] = [];
    for (const block of blocks) {
      if (this.#slots.has(block) || this.#loading.has(block) || block === group.at(-1)) continue;
      const goesOn = block - 1 === group.at(-1) && block % MAX_PACK_BLOCKS !== 0 && group.length < READ_BLOCKS;
      if (!goesOn) {
        this.#begin(group);
        group = [];
      }
      group.push(block);
    }
    this.#begin(group);
  }

  /** @throws STORE_CHECKPOINT_DAMAGED, STORE_CHECKPOINT_READ, STORE_CHECKPOINT_GONE, STORE_CHECKPOINT_FOREIGN */
  async use(block: number, user: BlockUser): Promise<void> {
    for (;;) {
      const slot = this.#slots.get(block);
      if (slot !== undefined) {
        this.#slots.delete(block);
        this.#slots.set(block, slot);
        user(this.#kernels.bytes.subarray(slot.at, slot.at + BLOCK_BYTES), slot.present);
        return;
      }
      if (!this.#loading.has(block)) this.#begin([block]);
      await this.#loading.get(block);
    }
  }

  #begin(blocks: readonly number[]): void {
    if (blocks.length === 0) return;
    const outcomes = this.#load(blocks);
    blocks.forEach((block, index) => {
      const outcome = outcomes
        .then((errors) => {
          if (errors[index]) throw errors[index];
        })
        .finally(() => this.#loading.delete(block));
      outcome.catch(() => {}); // whoever uses the block looks
      this.#loading.set(block, outcome);
    });
  }

  /** Reads consecutive blocks of a pack; what failed at each. */
  async #load(blocks: readonly number[]): Promise<(GodwitError | undefined)[]> {
    const read = this.#freeReads.pop() ?? (await new Promise<number>((resolve) => this.#waiting.push(resolve)));
    try {
      const first = blocks[0]! % MAX_PACK_BLOCKS;
      return await this.#packs.use(Math.floor(blocks[0]! / MAX_PACK_BLOCKS), async (pack) => {
        const end = Math.min(first + blocks.length, pack.blocks);
        if (first >= end) return blocks.map(() => noSuchBlock(pack, first));
        const bytes = pack.startOf(end) - pack.startOf(first);
        await pack.read(first, this.#kernels.bytes.subarray(read, read + bytes));
        return blocks.map((block, index) => {
          const own = first + index;
          if (own >= end) return noSuchBlock(pack, own);
          return this.#unpack(pack, own, read + pack.startOf(own) - pack.startOf(first), block);
        });
      });
    } finally {
      const next = this.#waiting.shift();
      if (next) next(read);
      else this.#freeReads.push(read);
    }
  }

  #unpack(pack: Pack, block: number, from: number, number: number): GodwitError | undefined {
    const { storedBytes, checksum, present } = pack.block(block);
    const { bytes } = this.#kernels;
    if (crc32(bytes.subarray(from, from + storedBytes)) !== checksum) {
      return damaged(pack.path, `its block ${block} fails its checksum`);
    }
    const slot = this.#freeSlot();
    if (present !== 0 && !unpackBlock(this.#kernels, from, storedBytes, slot.at)) {
      this.#freeSlots.push(slot);
      return damaged(pack.path, `its block ${block} cannot be unpacked`);
    }
    slot.present = present;
    this.#slots.set(number, slot);
    return undefined;
  }

  #freeSlot(): Slot {
    const free = this.#freeSlots.pop();
    if (free) return free;
    const [oldest, slot] = this.#slots.entries().next().value!;
    this.#slots.delete(oldest);
    return slot;
  }
}

function noSuchBlock(pack: Pack, block: number): GodwitError {
  return damaged(pack.path, `it has no block ${block}`);
}
