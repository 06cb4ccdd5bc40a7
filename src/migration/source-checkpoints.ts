import { setTimeout as delay } from "node:timers/promises";
import { CheckpointIndex } from "../compact/checkpoint-index.ts";
import { CHECKPOINT } from "../compact/limits.ts";
import { PageIndex } from "../compact/page-index.ts";
import type { IndexedPlaces } from "../compact/place-matcher.ts";
import { xxh3Secret } from "../compact/xxh3-secret.ts";
import { GodwitError } from "../errors.ts";
import { PAGE_BYTES } from "../stream/format.ts";
import type { MessageOf, OfferedCheckpoint } from "../wire/messages.ts";
import { createKernels } from "./kernels.ts";

/** Pages of checkpoints at most: 64 GiB of memory that is not zero, and 320 MB of ours (CheckpointIndex). */
const MAX_CHECKPOINT_PAGES = 16 * 1024 * 1024;
/** How long the migration waits for the hashes before it begins with what there is: the rest comes beside it. */
const HASHES_WAIT_MS = 500;

type Hashes = MessageOf<"HASHES">;

interface Checkpoint {
  readonly offer: OfferedCheckpoint;
  readonly index: CheckpointIndex;
}

/**
 * The checkpoints that the destination holds, and what it tells of them. Memory is for as many pages as HELLO asked for, whatever the
 * peer offers.
 */
export class SourceCheckpoints {
  /** For HELLO: pages that there is room for, and no more than the VM has. */
  readonly maxPages: number;
  readonly #complete = Promise.withResolvers<void>();
  #checkpoints: readonly Checkpoint[] = [];
  /** The checkpoint whose hashes are coming in. */
  #current = 0;

  private constructor(maxPages: number) {
    this.maxPages = maxPages;
  }

  /** A migration without. */
  static none(): SourceCheckpoints {
    return new SourceCheckpoints(0);
  }

  static of(memoryBytes: number): SourceCheckpoints {
    return new SourceCheckpoints(Math.min(Math.ceil(memoryBytes / PAGE_BYTES), MAX_CHECKPOINT_PAGES));
  }

  /**
   * Makes room for what the peer offers. To be called before its next message is looked at, which may be HASHES.
   *
   * @throws GodwitError PEER_BAD_CHECKPOINTS when that is more than was asked for
   */
  welcome(offers: readonly OfferedCheckpoint[]): void {
    const pages = offers.reduce((sum, offer) => sum + offer.pages, 0);
    if (pages > this.maxPages) {
      const details = { pages, maxPages: this.maxPages };
      throw new GodwitError("PEER_BAD_CHECKPOINTS", "the peer offers larger checkpoints than were asked for", details);
    }
    this.#checkpoints = offers.map((offer) => {
      const { pages, bytes, base } = createKernels(PageIndex.memoryBytes(offer.pages));
      const secret = xxh3Secret(BigInt(`0x${offer.seed}`));
      return { offer, index: new CheckpointIndex(pages, bytes, base, offer.pages, secret, offer.hashBytes) };
    });
    if (offers.length === 0) this.#complete.resolve();
  }

  /** @throws GodwitError PEER_BAD_HASHES when they are not those that were to come next */
  onHashes({ checkpoint, page, hashes }: Hashes): void {
    const { offer, index } = this.#checkpoints[checkpoint] ?? {};
    const isNext = checkpoint === this.#current && page === index?.pages;
    const pages = hashes.length / (offer?.hashBytes ?? 1);
    if (offer === undefined || !isNext || !Number.isInteger(pages) || page + pages > offer.pages) {
      const details = { checkpoint, page, bytes: hashes.length };
      throw new GodwitError("PEER_BAD_HASHES", "the peer told hashes of a checkpoint out of order", details);
    }
    index.add(hashes);
    if (index.pages === offer.pages) this.#current++;
    if (this.#current === this.#checkpoints.length) this.#complete.resolve();
  }

  /** How many pages' hashes have come, of all checkpoints together. */
  get knownHashes(): number {
    return this.#checkpoints.reduce((sum, { index }) => sum + index.pages, 0);
  }

  /** Waits a while: until all hashes have come, or HASHES_WAIT_MS at most. They go on coming beside the migration. */
  async received(): Promise<void> {
    const timer = new AbortController();
    const late = delay(HASHES_WAIT_MS, undefined, { signal: timer.signal }).catch(() => {});
    await Promise.race([this.#complete.promise, late]);
    timer.abort();
  }

  /** What is known of them by now; more and more until all hashes have come. */
  get places(): IndexedPlaces[] {
    return this.#checkpoints.map(({ offer, index }, firstSource) => ({
      kind: CHECKPOINT,
      firstSource,
      firstBlocks: [0, offer.pages],
      index,
    }));
  }

  /** What people call one of them, by its place in WELCOME's list. */
  nameOf(source: number): string {
    return `checkpoint ${this.#checkpoints[source]?.offer.id ?? ""}`;
  }
}
