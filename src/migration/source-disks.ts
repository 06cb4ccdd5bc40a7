import { randomBytes } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import { DISK } from "../compact/limits.ts";
import { PAGE_HASHER_BYTES, PageHasher } from "../compact/page-hasher.ts";
import { PageIndex } from "../compact/page-index.ts";
import { NOT_FOUND } from "../compact/page-kernels.ts";
import type { IndexedPlaces } from "../compact/place-matcher.ts";
import { xxh3Secret } from "../compact/xxh3-secret.ts";
import { GodwitError, messageOf } from "../errors.ts";
import type { Disk } from "../qemu/disks.ts";
import type { VmFacts } from "../qemu/facts.ts";
import type { QmpClient } from "../qemu/qmp.ts";
import { firstBlocksOf } from "../store/disk-index.ts";
import { IndexStore } from "../store/index-store.ts";
import { type ReadingState, readingPays } from "../store/index-worth.ts";
import { MAX_DISKS } from "../wire/messages.ts";
import type { HashSink, IndexedDisk } from "./indexed-disk.ts";
import { IndexedDisks } from "./indexed-disks.ts";
import { createKernels } from "./kernels.ts";
import { withTimeout } from "./outcome.ts";

/** Entries of the index at most: 215 MB, for 64 GiB of blocks that are not zero. */
const MAX_INDEX_ENTRIES = 16 * 1024 * 1024;
/** How long the migration waits for disks to be opened, and for the index, before it begins with what there is. */
const OPEN_MS = 5000;
const INDEX_WAIT_MS = 500;
/** What is asked of a disk that hangs is not waited for longer. */
const HANG_MS = 5000;

/** What came of the disks' index, for the summary. */
export interface DiskIndexSummary {
  /** Blocks that were known from before. */
  knownBlocks: number;
  /** Read from the disks, and the time that took. */
  readBytes: number;
  readMs: number;
}

export interface SourceDiskOptions {
  /** What this host keeps; undefined: no indexes are kept. */
  readonly stateDir: string | undefined;
  /** Is told what costs bytes. */
  readonly warn: (message: string) => void;
}

/** How the migration goes, as far as it says whether more is to be read. */
export type MigrationState = Pick<ReadingState, "foundPages" | "unsentShare" | "linkBytesPerSecond">;

/** The disks of the source VM: opened for reading, and those that the destination can read too known by their content. */
export class SourceDisks {
  readonly #opening: Promise<IndexedDisks> | undefined;
  readonly #warn: (message: string) => void;
  readonly #stop = new AbortController();
  #all: IndexedDisks | undefined;
  /** Those that the peer reads too, in the order of WELCOME. */
  #agreed: IndexedDisk[] = [];
  #firstBlocks: number[] = [];
  #index: PageIndex | undefined;
  #indexing: Promise<void> = Promise.resolve();
  #closing: Promise<void> | undefined;
  #state: MigrationState = { foundPages: 0, unsentShare: 1, linkBytesPerSecond: 0 };

  private constructor(opening: Promise<IndexedDisks> | undefined, warn: (message: string) => void) {
    this.#opening = opening;
    this.#warn = warn;
    opening?.catch(() => {}); // `opened` says it
  }

  /** A VM whose disks are left alone. */
  static none(): SourceDisks {
    return new SourceDisks(undefined, () => {});
  }

  /** Begins to open disks of a VM. What can't be read is told to `warn`: it costs bytes, and no more. */
  static of(qmp: QmpClient, vm: VmFacts, disks: readonly Disk[], { stateDir, warn }: SourceDiskOptions): SourceDisks {
    const opening = openStore(stateDir, warn).then((store) =>
      IndexedDisks.open(qmp, vm, disks.slice(0, MAX_DISKS), { store, warn }),
    );
    return new SourceDisks(opening, warn);
  }

  /** Waits until what can be read is open, OPEN_MS at most. Never rejects. */
  async opened(): Promise<void> {
    if (this.#opening === undefined) return;
    try {
      this.#all = await withTimeout(this.#opening, OPEN_MS, "they could not be opened");
      for (const [id, why] of this.#all.unreadable) this.#warn(unusedText(id, why));
    } catch (error) {
      this.#warn(`no references to disks: ${messageOf(error)}`);
    }
  }

  /** What HELLO says. */
  get ids(): string[] {
    return [...(this.#all?.disks.keys() ?? [])];
  }

  get summary(): DiskIndexSummary {
    const summary = { knownBlocks: 0, readBytes: 0, readMs: 0 };
    for (const { knownBlocks, counts } of this.#agreed) {
      summary.knownBlocks += knownBlocks;
      summary.readBytes += counts.readBytes;
      summary.readMs += counts.readMs;
    }
    return summary;
  }

  /**
   * Loads what is known of those that the peer can read too, and reads what is not. It waits a while: until each of them is known as
   * it was at some time, or INDEX_WAIT_MS at most. The rest goes on beside the migration, as long as that pays.
   *
   * @throws GodwitError PEER_BAD_DISKS when the peer welcomes others than were offered
   */
  async index(welcomed: readonly string[]): Promise<void> {
    this.#agreed = welcomed.map((id) => {
      const disk = this.#all?.disks.get(id);
      if (disk === undefined) throw new GodwitError("PEER_BAD_DISKS", "the peer welcomes a disk that was not offered");
      return disk;
    });
    for (const id of this.ids) if (!welcomed.includes(id)) this.#warn(unusedText(id, "the destination can't read it"));
    if (this.#agreed.length === 0) return;
    this.#firstBlocks = firstBlocksOf(this.#agreed.map(({ reader }) => reader));
    const expected = await Promise.all(this.#agreed.map((disk) => disk.expectedBlocks()));
    const blocks = expected.reduce((sum, count) => sum + count, 0);
    const entries = Math.max(1, Math.min(blocks, MAX_INDEX_ENTRIES));
    const { pages, bytes, base } = createKernels(PAGE_HASHER_BYTES + 64 + PageIndex.memoryBytes(entries));
    const secret = xxh3Secret(this.#all?.seed ?? randomBytes(8).readBigUInt64LE());
    const hasher = new PageHasher(pages, bytes, base, secret);
    const tableAt = Math.ceil((base + PAGE_HASHER_BYTES) / 64) * 64;
    this.#index = new PageIndex(pages, bytes, tableAt, entries, secret);
    const isKnown = Promise.withResolvers<void>();
    this.#indexing = this.#indexAll(this.#index, hasher, isKnown.resolve);
    const timer = new AbortController();
    await Promise.race([isKnown.promise, delay(INDEX_WAIT_MS, undefined, { signal: timer.signal }).catch(() => {})]);
    timer.abort();
  }

  async #indexAll(index: PageIndex, hasher: PageHasher, onKnown: () => void): Promise<void> {
    const isNew = ({ known }: IndexedDisk) => known.stored === undefined;
    await this.#each(
      () => true,
      (disk, sink) => disk.load(sink, this.#stop.signal),
      index,
    );
    const read = (disk: IndexedDisk, sink: HashSink) => this.#read(disk, index, hasher, sink);
    await this.#each(isNew, read, index);
    onKnown();
    await this.#each((disk) => !isNew(disk), read, index);
    if (index.isFull) this.#warn(`the disks' index is full with ${index.entries} blocks: other pages are sent whole`);
  }

  async #each(
    isMeant: (disk: IndexedDisk) => boolean,
    work: (disk: IndexedDisk, sink: HashSink) => Promise<void>,
    index: PageIndex,
  ): Promise<void> {
    for (const [i, disk] of this.#agreed.entries()) {
      if (!isMeant(disk)) continue;
      const firstNumber = this.#firstBlocks[i]!;
      try {
        if (this.#firstBlocks[i + 1]! > NOT_FOUND) throw new Error("the VM's disks are too large together");
        await work(disk, (firstBlock, hashes) => index.addHashes(hashes, firstNumber + firstBlock));
      } catch (error) {
        // At the end of a migration QEMU may take the disk away.
        if (!this.#stop.signal.aborted) this.#warn(`disk ${disk.id} was not read to its end: ${messageOf(error)}`);
      }
    }
  }

  async #read(disk: IndexedDisk, index: PageIndex, hasher: PageHasher, sink: HashSink): Promise<void> {
    const goesOn = () => !index.isFull && readingPays({ ...disk.counts, ...this.#state, indexedBlocks: index.entries });
    await disk.read(hasher, sink, goesOn, this.#stop.signal);
  }

  /** How the migration goes. */
  tell(state: MigrationState): void {
    this.#state = state;
  }

  /** Reads no more: what is indexed by now stays. */
  stopIndexing(): void {
    this.#stop.abort();
  }

  /** Mostly, a disk was other at the destination than the index says: the next time all of it is read again. */
  doubt(disk: number): void {
    this.#agreed[disk]?.doubt();
  }

  /** Id of a disk by its place in WELCOME's list. */
  idOf(disk: number): string {
    return this.#agreed[disk]?.id ?? "";
  }

  /** What is known of those that are indexed; more and more until indexing has ended. */
  get places(): IndexedPlaces[] {
    if (this.#index === undefined) return [];
    return [{ kind: DISK, firstSource: 0, firstBlocks: this.#firstBlocks, index: this.#index }];
  }

  /**
   * Keeps what is known of all of them for the next time, and closes them, also those that took too long to open. Never rejects; a
   * disk that hangs is not waited for.
   *
   * @param isVmHere whether the VM is still in this QEMU
   */
  close(isVmHere: boolean): Promise<void> {
    this.#closing ??= this.#close(isVmHere);
    return this.#closing;
  }

  async #close(isVmHere: boolean): Promise<void> {
    this.stopIndexing();
    const ended = this.#indexing.then(() => this.#opening).catch(() => undefined); // that was said
    const isHung = Symbol();
    const opened = await Promise.race([ended, delay(HANG_MS, isHung, { ref: false })]);
    if (opened !== isHung) return (opened as IndexedDisks | undefined)?.close(isVmHere);
    this.#warn("a disk does not answer");
    if (this.#all !== undefined) await this.#all.close(isVmHere);
    else void ended.then((late) => late?.close(isVmHere));
  }
}

async function openStore(
  stateDir: string | undefined,
  warn: (message: string) => void,
): Promise<IndexStore | undefined> {
  try {
    return stateDir === undefined ? undefined : await IndexStore.open(stateDir);
  } catch (error) {
    warn(`indexes of disks are not kept: ${messageOf(error)}`);
    return undefined;
  }
}

function unusedText(id: string, why: string): string {
  return `no references to disk ${id}: ${why}`;
}
