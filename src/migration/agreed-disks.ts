import { messageOf } from "../errors.ts";
import { type Disk, listDisks } from "../qemu/disks.ts";
import type { QmpClient } from "../qemu/qmp.ts";
import { BLOCK_BYTES } from "../store/index-format.ts";
import type { OpenDisks } from "./disk-readers.ts";
import { withTimeout } from "./outcome.ts";
import type { AgreedPlace } from "./place-pages.ts";

/** The source waits 20 s for WELCOME, and a qemu-nbd is there in a tenth of one. */
const OPEN_MS = 5_000;
/** What is asked of a disk that hangs is not waited for longer. */
const CLOSE_MS = 5_000;

/** A disk that both ends can read. */
export interface AgreedDisk extends AgreedPlace {
  readonly id: string;
}

/** Disks that can be read, and why others cannot. */
type Opened = Pick<OpenDisks, "readers" | "unreadable"> & AsyncDisposable;

/** Opens disks for reading, as many of them as it can. */
export type DiskOpener = (qmp: QmpClient, disks: readonly Disk[]) => Promise<Opened>;

/** The disks of the destination's VM that are read during a migration. */
export class AgreedDisks {
  readonly disks: readonly AgreedDisk[];
  /** Why disks that the source reads are not among them: one clause for people; null when all are. */
  readonly missing: string | null;
  readonly #opening: Promise<Opened> | undefined;

  private constructor(disks: readonly AgreedDisk[], missing: string | null, opening?: Promise<Opened>) {
    this.disks = disks;
    this.missing = missing;
    this.#opening = opening;
  }

  /**
   * Opens those of the peer's disks that this QEMU has too, by the names that it gives them. Never rejects, and takes 5 s at
   * most.
   *
   * @param wanted ids of disks
   */
  static async open(qmp: QmpClient, wanted: readonly string[], openDisks: DiskOpener): Promise<AgreedDisks> {
    if (wanted.length === 0) return new AgreedDisks([], null);
    const listing = listDisks(qmp).then((disks) => disks.filter(({ id }) => wanted.includes(id)));
    const opening = listing.then((disks) => openDisks(qmp, disks));
    try {
      const { readers, unreadable } = await withTimeout(opening, OPEN_MS, "they could not be opened");
      const disks: AgreedDisk[] = [];
      for (const { id, virtualSizeBytes } of await listing) {
        const reader = readers.get(id);
        if (reader !== undefined) disks.push({ id, blocks: Math.floor(virtualSizeBytes / BLOCK_BYTES), reader });
      }
      const missing = wanted
        .filter((id) => !readers.has(id))
        .map((id) => `${id}: ${unreadable.get(id) ?? "it is not there"}`);
      return new AgreedDisks(disks, missing.length > 0 ? missing.join("; ") : null, opening);
    } catch (error) {
      return new AgreedDisks([], `${wanted.join(", ")}: ${messageOf(error)}`, opening);
    }
  }

  /**
   * Closes all of them, also those that took too long to open.
   *
   * @throws GodwitError MIGRATION_TIMEOUT when they do not close within 5 s
   */
  async close(): Promise<void> {
    const closed = this.#opening?.then(
      (open) => open[Symbol.asyncDispose](),
      () => {}, // Nothing was opened, and that was said.
    );
    if (closed !== undefined) await withTimeout(closed, CLOSE_MS, "the disks that were read did not close");
  }
}
