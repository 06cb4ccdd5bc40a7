import { randomBytes } from "node:crypto";
import { cachePagesOf } from "../compact/cache-size.ts";
import { DISK } from "../compact/limits.ts";
import { TAG_KEY_BYTES } from "../compact/page-kernels.ts";
import type { VmFacts } from "../qemu/facts.ts";
import type { QmpClient } from "../qemu/qmp.ts";
import type { Hello, MessageOf, Welcome } from "../wire/messages.ts";
import { type DiskPaths, listDisksAt } from "./disk-paths.ts";
import type { Referable } from "./sender-kernels.ts";
import { SourceCheckpoints } from "./source-checkpoints.ts";
import { type DiskIndexSummary, type MigrationState, SourceDisks } from "./source-disks.ts";

export interface OfferOptions {
  /** Sends pages that stand on a disk of the VM as references to it; default: true. */
  diskReferences?: boolean;
  /** Where disks are to be read instead of where QEMU says. */
  diskPaths?: DiskPaths | undefined;
  /** What this host keeps; undefined: nothing is kept. */
  stateDir?: string | undefined;
  /** Sends pages that stand in a checkpoint which the destination holds as references to it; default: true. */
  checkpointReferences?: boolean;
  /** Memory for the page cache for deltas; default: cachePagesOf. */
  deltaCacheBytes?: number | undefined;
}

/** Where the destination can get pages from without their being sent: what the source offers in HELLO, and what comes of it. */
export class SourceOffers {
  readonly #options: OfferOptions;
  readonly #warn: (message: string) => void;
  /** Of the tags of references: drawn afresh, and unknown to the guest. */
  readonly #tagKey = randomBytes(TAG_KEY_BYTES);
  #disks = SourceDisks.none();
  #checkpoints = SourceCheckpoints.none();
  /** Slots of the page cache that there is room for here. */
  #cachePages = 0;
  #isClosed = false;

  /** @param warn is told what costs bytes, and no more */
  constructor(options: OfferOptions, warn: (message: string) => void) {
    this.#options = options;
    this.#warn = warn;
  }

  /** Finds out what there is to be offered. What was opened must be closed, also if this fails. @throws what listDisksAt throws */
  async open(qmp: QmpClient, vm: VmFacts): Promise<void> {
    const { diskReferences = true, diskPaths = new Map(), stateDir, checkpointReferences = true } = this.#options;
    this.#cachePages = cachePagesOf(this.#options.deltaCacheBytes, vm.memoryBytes);
    if (checkpointReferences) this.#checkpoints = SourceCheckpoints.of(vm.memoryBytes);
    if (!diskReferences) return;
    const disks = await listDisksAt(qmp, diskPaths);
    if (this.#isClosed) return;
    this.#disks = SourceDisks.of(qmp, vm, disks, { stateDir, warn: this.#warn });
    await this.#disks.opened();
  }

  /** Fields of HELLO. */
  get hello(): Pick<Hello, "disks" | "checkpointPages" | "cachePages" | "tagKey" | "knownHashes"> {
    return {
      disks: this.#disks.ids,
      checkpointPages: this.#checkpoints.maxPages,
      cachePages: this.#cachePages,
      tagKey: this.#tagKey.toString("hex"),
      knownHashes: this.#checkpoints.knownHashes,
    };
  }

  /** To be called before the peer's next message is looked at. @throws GodwitError PEER_BAD_CHECKPOINTS */
  onWelcome({ checkpoints, cachePages }: Welcome): void {
    this.#checkpoints.welcome(checkpoints);
    this.#cachePages = Math.min(this.#cachePages, cachePages);
  }

  /** @throws GodwitError PEER_BAD_HASHES */
  onHashes(message: MessageOf<"HASHES">): void {
    this.#checkpoints.onHashes(message);
  }

  /**
   * Waits a while for what can be known of pages before the migration begins; more comes beside it.
   *
   * @param onError is told if looking through the disks fails, also later
   */
  async prepare({ disks, checkpoints }: Welcome, onError: (error: unknown) => void): Promise<void> {
    const indexing = this.#disks.index(disks).catch(onError);
    // A checkpoint has most of what stands on the disks: these are then looked through beside the migration.
    await (checkpoints.length > 0 ? this.#checkpoints.received() : indexing);
  }

  /** Slots of the page cache that both ends have. */
  get cachePages(): number {
    return this.#cachePages;
  }

  /** What the sender may refer to. */
  get referable(): Referable {
    return {
      // A checkpoint first: its pages stand in the order of memory, and do not change.
      places: [...this.#checkpoints.places, ...this.#disks.places],
      tagKey: this.#tagKey,
      nameOf: ({ kind, source }) =>
        kind === DISK ? `disk ${this.#disks.idOf(source)}` : this.#checkpoints.nameOf(source),
      onSwitchedOff: ({ kind, source }) => {
        if (kind === DISK) this.#disks.doubt(source);
      },
    };
  }

  /** How the migration goes, as far as it says whether more of the disks is to be read. */
  tell(state: MigrationState): void {
    this.#disks.tell(state);
  }

  /** Reads no more of the disks. */
  stopIndexing(): void {
    this.#disks.stopIndexing();
  }

  get diskIndex(): DiskIndexSummary {
    return this.#disks.summary;
  }

  /** Never rejects; may be called again. @param isVmHere whether the VM is still in this QEMU */
  close(isVmHere: boolean): Promise<void> {
    this.#isClosed = true;
    return this.#disks.close(isVmHere);
  }
}
