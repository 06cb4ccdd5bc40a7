/** The disks of a running VM with what is known of their content: docs/index-format.md says what is read again, and when. */

import { removeBitmaps, WriteWatch } from "../qemu/dirty-bitmap.ts";
import type { Disk } from "../qemu/disks.ts";
import type { VmFacts } from "../qemu/facts.ts";
import { migrationCapabilities } from "../qemu/migrate.ts";
import type { QmpClient } from "../qemu/qmp.ts";
import { isRefusal } from "../qemu/qmp-errors.ts";
import { canBeIndexed } from "../store/index-format.ts";
import type { IndexStore } from "../store/index-store.ts";
import { type OpenDisks, openSourceDisks } from "./disk-readers.ts";
import { DiskRecord, type IndexedDisk } from "./indexed-disk.ts";
import { withTimeout } from "./outcome.ts";

const CLOSE_MS = 5000;

export interface IndexedDisksOptions {
  /** Where indexes are kept; undefined: nowhere. */
  readonly store: IndexStore | undefined;
  /** Is told what costs bytes. */
  readonly warn: (message: string) => void;
}

/** The disks of a VM that can be read. `close` must be called. */
export class IndexedDisks {
  readonly disks: ReadonlyMap<string, IndexedDisk>;
  /** Why others can't be: one clause for people, by the disk's id. */
  readonly unreadable: ReadonlyMap<string, string>;
  /** The seed of the hashes; undefined: any will do. */
  readonly seed: bigint | undefined;
  readonly #open: OpenDisks;

  private constructor(open: OpenDisks, disks: ReadonlyMap<string, IndexedDisk>, seed: bigint | undefined) {
    this.#open = open;
    this.disks = disks;
    this.unreadable = open.unreadable;
    this.seed = seed;
  }

  /**
   * Opens them, and begins to note what the guest writes. A single disk that can't be read, or an index that is of no use, is no
   * error.
   *
   * @throws what `execute` throws
   */
  static async open(
    qmp: QmpClient,
    vm: VmFacts,
    disks: readonly Disk[],
    { store, warn }: IndexedDisksOptions,
  ): Promise<IndexedDisks> {
    const indexable = disks.filter(({ virtualSizeBytes }) => canBeIndexed(virtualSizeBytes));
    const records = indexable.map((disk) => new DiskRecord(disk, vm, store, warn));
    await using undo = new AsyncDisposableStack();
    undo.defer(async () => void (await Promise.all(records.map((record) => record.forget()))));
    for (const record of records) await record.find();
    await watchAll(qmp, records);
    const bitmaps = new Map(records.flatMap(({ disk, watch }) => (watch?.previous ? [[disk.id, watch.previous]] : [])));
    const open = undo.use(await openSourceDisks(qmp, indexable, { bitmaps }));
    const found = new Map<string, IndexedDisk>();
    for (const record of records) {
      const reader = open.readers.get(record.disk.id);
      if (reader !== undefined) found.set(record.disk.id, await record.with(reader, open.changes.get(record.disk.id)));
      else await record.forget();
    }
    undo.move();
    return new IndexedDisks(open, found, store?.seed);
  }

  /**
   * Keeps what is known by now, and closes the disks. Never rejects.
   *
   * @param isVmHere whether the VM is still in this QEMU, so that what its guest writes is worth noting
   */
  async close(isVmHere: boolean): Promise<void> {
    const disks = [...this.disks.values()];
    const areSaved = await Promise.all(disks.map((disk) => disk.save(isVmHere)));
    // QEMU may be gone, and a disk that hangs is not waited for.
    const closed = Promise.resolve(this.#open[Symbol.asyncDispose]());
    await withTimeout(closed, CLOSE_MS, "the disks that were read did not close").catch(() => {});
    // A bitmap that is exported can't be removed.
    for (const [i, disk] of disks.entries()) await disk.settle(isVmHere, areSaved[i]!);
  }
}

/** Where the VM's bitmaps are to move with it, ours would too, or stand in the way if they are read: there none are made. */
async function watchAll(qmp: QmpClient, records: readonly DiskRecord[]): Promise<void> {
  const bitmapsMove = (await migrationCapabilities(qmp)).get("dirty-bitmaps") ?? false;
  for (const record of records) {
    const { nodeName } = record.disk;
    if (nodeName === null || record.store === undefined) continue;
    try {
      if (bitmapsMove) await removeBitmaps(qmp, nodeName);
      else record.watch = await WriteWatch.begin(qmp, nodeName, record.stored?.header.about.bitmap ?? null);
    } catch (error) {
      // Some nodes can't have bitmaps: then files tell what has changed, or nothing does.
      if (!isRefusal(error)) throw error;
    }
  }
}
