import { BlockCache } from "./checkpoint-block-cache.ts";
import { CHUNK_PAGES, COLUMN, type Column } from "./checkpoint-chunk.ts";
import { damaged, gone } from "./checkpoint-errors.ts";
import { type KernelSource, PAGE_BYTES } from "./checkpoint-kernels.ts";
import type { Manifest, ManifestRecord } from "./checkpoint-manifest.ts";
import { BLOCK_PAGES, PACK_PAGES, packPath } from "./checkpoint-pack.ts";
import { PackPool } from "./checkpoint-pack-pool.ts";
import type { VmRecord } from "./checkpoint-vm.ts";
import { bytesOf, type DiskReader, type Extent, type FileIdentity } from "./disk-reader.ts";

/** Chunks of places that stand in memory: 32 KiB each. */
const MAX_PLACE_CHUNKS = 128;
/** Blocks that a read waits for at once, at most. */
const MAX_BLOCKS = 32;

/** What a manifest says of consecutive positions: u64, u64 and u32 each. */
export interface ChunkColumns {
  readonly numbers: Buffer;
  readonly hashes: Buffer;
  readonly places: Buffer;
}

/** Consecutive positions whose contents stand in one block. */
interface Visit {
  readonly block: number;
  readonly row: number;
  rows: number;
}

/**
 * Reads a checkpoint like a disk on which all its pages stand one behind the other, by their positions. Only whole pages can be
 * read.
 */
export class CheckpointReader implements DiskReader {
  readonly id: string;
  readonly record: ManifestRecord;
  /** Of the hashes. */
  readonly seed: bigint;
  /** Of the contents' tags: a secret of this store. */
  readonly tagKey: Uint8Array;
  readonly sizeBytes: number;
  readonly place: { readonly kind: "file"; readonly path: string };
  readonly #folder: string;
  readonly #manifest: Manifest;
  readonly #packs: PackPool;
  readonly #blocks: BlockCache;
  /** By chunk, those used last behind. */
  readonly #places = new Map<number, Promise<Buffer>>();

  /** @param manifest is the reader's from now on */
  static async open(
    source: KernelSource,
    folder: string,
    id: string,
    vm: VmRecord,
    manifest: Manifest,
  ): Promise<CheckpointReader> {
    const reader = new CheckpointReader(source, folder, id, vm, manifest);
    await reader.#packs.openAll();
    return reader;
  }

  private constructor(source: KernelSource, folder: string, id: string, vm: VmRecord, manifest: Manifest) {
    this.id = id;
    this.record = manifest.record;
    this.seed = vm.seed;
    this.tagKey = vm.tagKey;
    this.sizeBytes = manifest.record.pages * PAGE_BYTES;
    this.place = { kind: "file", path: manifest.path };
    this.#folder = folder;
    this.#manifest = manifest;
    this.#packs = new PackPool(folder, vm.folderId, manifest.record.packs);
    this.#blocks = new BlockCache(source, this.#packs);
  }

  /** How many positions there are. */
  get pages(): number {
    return this.record.pages;
  }

  /** @throws STORE_CHECKPOINT_DAMAGED, STORE_CHECKPOINT_READ, STORE_CHECKPOINT_GONE, STORE_CHECKPOINT_FOREIGN */
  read(offsetBytes: number, target: Uint8Array): Promise<void> {
    return this.readScattered(offsetBytes, [target]);
  }

  /** @throws STORE_CHECKPOINT_DAMAGED, STORE_CHECKPOINT_READ, STORE_CHECKPOINT_GONE, STORE_CHECKPOINT_FOREIGN */
  async readScattered(offsetBytes: number, targets: readonly Uint8Array[]): Promise<void> {
    const lengthBytes = bytesOf(targets);
    const isWhole = offsetBytes % PAGE_BYTES === 0 && targets.every(({ length }) => length % PAGE_BYTES === 0);
    if (!isWhole || offsetBytes < 0 || offsetBytes + lengthBytes > this.sizeBytes) {
      throw new RangeError(`no whole pages of the checkpoint: ${offsetBytes}+${lengthBytes}`);
    }
    const end = (offsetBytes + lengthBytes) / PAGE_BYTES;
    const sink = new Sink(targets);
    for (let position = offsetBytes / PAGE_BYTES; position < end; ) {
      const chunk = Math.floor(position / CHUNK_PAGES);
      const row = position % CHUNK_PAGES;
      const rows = Math.min(end - position, CHUNK_PAGES - row);
      await this.#copy(await this.#placesOf(chunk), row, row + rows, sink);
      position += rows;
    }
  }

  async *allocatedExtents(): AsyncGenerator<Extent> {
    yield { offsetBytes: 0, lengthBytes: this.sizeBytes };
  }

  /** It never changes, and has no times that say so. */
  async identity(): Promise<readonly FileIdentity[] | null> {
    return null;
  }

  /**
   * XXH3-64 of all pages by their positions, u64 each, at most 8192 at a time.
   *
   * @throws STORE_CHECKPOINT_DAMAGED, STORE_CHECKPOINT_READ
   */
  hashes(): AsyncGenerator<Buffer> {
    return this.#column(COLUMN.hash);
  }

  /** The page numbers by positions, u64 each; as `hashes`. */
  pageNumbers(): AsyncGenerator<Buffer> {
    return this.#column(COLUMN.number);
  }

  /** All that the manifest says of the pages of a chunk of CHUNK_PAGES; as `hashes`. */
  async chunk(chunk: number): Promise<ChunkColumns> {
    return {
      numbers: await this.#manifest.column(chunk, COLUMN.number),
      hashes: await this.#manifest.column(chunk, COLUMN.hash),
      places: await this.#manifest.column(chunk, COLUMN.place),
    };
  }

  /** The tags of a pack, of which `tagKey` is the key; as `hashes`. */
  tagsOf(pack: number): Promise<Buffer> {
    return this.#packs.use(pack, (opened) => opened.tags());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#packs[Symbol.asyncDispose]();
    await this.#manifest.close();
  }

  async *#column(column: Column): AsyncGenerator<Buffer> {
    for (let chunk = 0; chunk < this.#manifest.chunks; chunk++) yield this.#manifest.column(chunk, column);
  }

  #placesOf(chunk: number): Promise<Buffer> {
    const places = this.#places.get(chunk) ?? this.#manifest.column(chunk, COLUMN.place);
    this.#places.delete(chunk);
    this.#places.set(chunk, places);
    if (this.#places.size > MAX_PLACE_CHUNKS) this.#places.delete(this.#places.keys().next().value!);
    return places;
  }

  /** Copies the pages of rows [row, end) of a chunk. Never leaves before it is done with the targets. */
  async #copy(places: Buffer, row: number, end: number, sink: Sink): Promise<void> {
    for (let from = row; from < end; ) {
      const visits = this.#visits(places, from, end);
      this.#blocks.prefetch(visits.map(({ block }) => block));
      const copies = visits.map((visit) => {
        const target = sink.pages;
        sink.pages += visit.rows;
        return this.#blocks.use(visit.block, (content, present) => {
          this.#take(places, visit, content, present, sink, target);
        });
      });
      for (const { rows } of visits) from += rows;
      const failure = (await Promise.allSettled(copies)).find(({ status }) => status === "rejected");
      if (failure?.status === "rejected") throw failure.reason;
    }
  }

  /** The next MAX_BLOCKS blocks that rows from `from` on stand in. */
  #visits(places: Buffer, from: number, end: number): Visit[] {
    const visits: Visit[] = [];
    let last: Visit | undefined;
    for (let row = from; row < end; row++) {
      const place = places.readUInt32LE(row * 4);
      if (Math.floor(place / PACK_PAGES) >= this.record.packs.length) {
        throw damaged(this.#manifest.path, "it names a pack that it does not have");
      }
      const block = Math.floor(place / BLOCK_PAGES);
      if (last?.block === block) {
        last.rows++;
        continue;
      }
      if (visits.length === MAX_BLOCKS) break;
      last = { block, row, rows: 1 };
      visits.push(last);
    }
    return visits;
  }

  #take(places: Buffer, { row, rows }: Visit, content: Uint8Array, present: number, sink: Sink, target: number): void {
    for (let done = 0; done < rows; ) {
      const place = places.readUInt32LE((row + done) * 4);
      const first = place % BLOCK_PAGES;
      let count = 0;
      while (done + count < rows && places.readUInt32LE((row + done + count) * 4) === place + count) {
        if ((present & (1 << (first + count))) === 0) {
          throw gone(packPath(this.#folder, this.record.packs[Math.floor(place / PACK_PAGES)]!));
        }
        count++;
      }
      sink.put(target + done, content.subarray(first * PAGE_BYTES, (first + count) * PAGE_BYTES));
      done += count;
    }
  }
}

/** Where pages that are read go. */
class Sink {
  /** Pages that have a place by now. */
  pages = 0;
  readonly #targets: readonly Uint8Array[];
  /** The first page of each target, and the one behind the last. */
  readonly #firsts: number[] = [0];

  constructor(targets: readonly Uint8Array[]) {
    this.#targets = targets;
    for (const { length } of targets) this.#firsts.push(this.#firsts.at(-1)! + length / PAGE_BYTES);
  }

  put(page: number, content: Uint8Array): void {
    let target = this.#targetOf(page);
    let at = (page - this.#firsts[target]!) * PAGE_BYTES;
    for (let done = 0; done < content.length; ) {
      const part = content.subarray(done, done + this.#targets[target]!.length - at);
      this.#targets[target]!.set(part, at);
      done += part.length;
      target++;
      at = 0;
    }
  }

  #targetOf(page: number): number {
    let [low, high] = [0, this.#targets.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.#firsts[middle]! <= page) low = middle;
      else high = middle - 1;
    }
    return low;
  }
}
