import { randomBytes } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import { DISK } from "../compact/limits.ts";
import { PageIndex } from "../compact/page-index.ts";
import { NOT_FOUND } from "../compact/page-kernels.ts";
import type { IndexedPlaces } from "../compact/place-matcher.ts";
import { xxh3Secret } from "../compact/xxh3-secret.ts";
import { GodwitError, messageOf } from "../errors.ts";
import { listDisks } from "../qemu/disks.ts";
import type { QmpClient } from "../qemu/qmp.ts";
import { firstBlocksOf, indexDisk } from "../store/disk-index.ts";
import type { DiskReader } from "../store/disk-reader.ts";
import { MAX_DISKS } from "../wire/messages.ts";
import { type OpenDisks, openSourceDisks } from "./disk-readers.ts";
import { createKernels } from "./kernels.ts";
import { withTimeout } from "./outcome.ts";

/** Entries of the index at most: 54 MB, for 16 GiB of blocks that are not zero; the sender stays under 300 MB with it. */
const MAX_INDEX_ENTRIES = 4 * 1024 * 1024;
/** How long the migration waits for disks to be opened, and for the index, before it begins with what there is. */
const OPEN_MS = 5000;
const INDEX_WAIT_MS = 500;
/** What is asked of a disk that hangs is not waited for longer. */
const CLOSE_MS = 5000;

/** The disks of the source VM: opened for reading, and those that the destination can read too known by their content. */
export class SourceDisks implements AsyncDisposable {
  readonly #opening: Promise<OpenDisks> | undefined;
  readonly #warn: (message: string) => void;
  readonly #stop = new AbortController();
  #readers: ReadonlyMap<string, DiskReader> = new Map();
  #ids: readonly string[] = [];
  #firstBlocks: number[] = [];
  #index: PageIndex | undefined;
  #indexing: Promise<void> = Promise.resolve();

  private constructor(opening: Promise<OpenDisks> | undefined, warn: (message: string) => void) {
    this.#opening = opening;
    this.#warn = warn;
  }

  /** A VM whose disks are left alone. */
  static none(): SourceDisks {
    return new SourceDisks(undefined, () => {});
  }

  /** Begins to open the disks of a VM. What can't be read is told to `warn`: it costs bytes, and no more. */
  static of(qmp: QmpClient, warn: (message: string) => void): SourceDisks {
    const listing = listDisks(qmp);
    return new SourceDisks(
      listing.then((disks) => openSourceDisks(qmp, disks.slice(0, MAX_DISKS))),
      warn,
    );
  }

  /** Waits until what can be read is open, OPEN_MS at most. Never rejects. */
  async opened(): Promise<void> {
    if (this.#opening === undefined) return;
    try {
      const { readers, unreadable } = await withTimeout(this.#opening, OPEN_MS, "they could not be opened");
      this.#readers = readers;
      for (const [id, why] of unreadable) this.#warn(unusedText(id, why));
    } catch (error) {
      this.#warn(`no references to disks: ${messageOf(error)}`);
    }
  }

  /** What HELLO says. */
  get ids(): string[] {
    return [...this.#readers.keys()];
  }

  /**
   * Starts to index those that the peer can read too, and waits a while: until it is done, or INDEX_WAIT_MS at most. It goes on
   * beside the migration.
   *
   * @throws GodwitError PEER_BAD_DISKS when the peer welcomes others than were offered
   */
  async index(welcomed: readonly string[]): Promise<void> {
    const readers = welcomed.map((id) => {
      const reader = this.#readers.get(id);
      if (reader === undefined)
        throw new GodwitError("PEER_BAD_DISKS", "the peer welcomes a disk that was not offered");
      return reader;
    });
    for (const id of this.ids) if (!welcomed.includes(id)) this.#warn(unusedText(id, "the destination can't read it"));
    if (readers.length === 0) return;
    this.#ids = welcomed;
    this.#firstBlocks = firstBlocksOf(readers);
    const entries = Math.min(this.#firstBlocks.at(-1)!, MAX_INDEX_ENTRIES);
    const { pages, bytes, base } = createKernels(PageIndex.memoryBytes(entries));
    this.#index = new PageIndex(pages, bytes, base, entries, xxh3Secret(randomBytes(8).readBigUInt64LE()));
    this.#indexing = this.#indexAll(readers, this.#index);
    const timer = new AbortController();
    await Promise.race([this.#indexing, delay(INDEX_WAIT_MS, undefined, { signal: timer.signal }).catch(() => {})]);
    timer.abort();
  }

  async #indexAll(readers: readonly DiskReader[], index: PageIndex): Promise<void> {
    for (const [disk, reader] of readers.entries()) {
      try {
        if (this.#firstBlocks[disk + 1]! > NOT_FOUND) throw new Error("the VM's disks are too large together");
        await indexDisk(reader, this.#firstBlocks[disk]!, index, this.#stop.signal);
      } catch (error) {
        // At the end of a migration QEMU may take the disk away.
        if (!this.#stop.signal.aborted)
          this.#warn(`disk ${this.#ids[disk]} was not read to its end: ${messageOf(error)}`);
      }
    }
  }

  /** Reads no more: what is indexed by now stays. */
  stopIndexing(): void {
    this.#stop.abort();
  }

  /** Id of a disk by its place in WELCOME's list. */
  idOf(disk: number): string {
    return this.#ids[disk] ?? "";
  }

  /** What is known of those that are indexed; more and more until indexing has ended. */
  get places(): IndexedPlaces[] {
    if (this.#index === undefined) return [];
    return [{ kind: DISK, firstSource: 0, firstBlocks: this.#firstBlocks, index: this.#index }];
  }

  /**
   * Closes all of them, also those that took too long to open.
   *
   * @throws GodwitError MIGRATION_TIMEOUT when they do not close within 5 s
   */
  async [Symbol.asyncDispose](): Promise<void> {
    this.stopIndexing();
    const opened = this.#opening?.catch(() => undefined); // that was said
    const closed = this.#indexing.then(() => opened).then((disks) => disks?.[Symbol.asyncDispose]());
    await withTimeout(closed, CLOSE_MS, "the disks that were read did not close");
  }
}

function unusedText(id: string, why: string): string {
  return `no references to disk ${id}: ${why}`;
}
