import { HASH_BYTES, hashBytesFor, shortHashes } from "../compact/short-hashes.ts";
import { type GodwitError, messageOf } from "../errors.ts";
import { identityOf, type VmFacts } from "../qemu/facts.ts";
import type { DiskReader } from "../store/disk-reader.ts";
import type { Backlog } from "../wire/backlog.ts";
import type { OfferedCheckpoint } from "../wire/messages.ts";
import { withTimeout } from "./outcome.ts";
import type { Peer } from "./peer.ts";
import type { AgreedPlace } from "./place-pages.ts";

/** As for disks: the source waits 20 s for WELCOME. */
const OPEN_MS = 5_000;
const CLOSE_MS = 5_000;

/** A checkpoint that can be read: its pages stand one behind the other. */
export interface HeldCheckpoint extends DiskReader {
  readonly pages: number;
  /** Of its hashes (XXH3-64). */
  readonly seed: bigint;
  /** Hashes of all pages (u64 each), at most MAX_HASHES at a time; a chunk is valid until the next is asked for. */
  hashes(): AsyncIterable<Uint8Array>;
}

/** The checkpoints of this host, as far as a migration needs to know them. */
export interface HeldCheckpoints {
  /** The newest whole one of a VM. */
  latest(identity: string): Promise<{ id: string; createdMs: number; memoryBytes: number } | undefined>;
  open(id: string): Promise<HeldCheckpoint>;
  /** It was of use: of all that are kept, it is the last to go. */
  touch(id: string): Promise<void>;
}

/** What a Peer does for whoever tells it much. */
interface Listener extends Pick<Peer, "send" | "ping"> {
  readonly backlog: Pick<Backlog, "hasRoom">;
}

interface Agreed extends AgreedPlace {
  readonly reader: HeldCheckpoint;
  readonly offer: OfferedCheckpoint;
}

/** The checkpoints of the VM that this host holds and offers to the source. */
export class AgreedCheckpoints {
  readonly checkpoints: readonly Agreed[];
  readonly #warn: (message: string) => void;
  readonly #stop = new AbortController();
  #telling: Promise<void> = Promise.resolve();

  private constructor(checkpoints: readonly Agreed[], warn: (message: string) => void) {
    this.checkpoints = checkpoints;
    this.#warn = warn;
  }

  static none(): AgreedCheckpoints {
    return new AgreedCheckpoints([], () => {});
  }

  /**
   * Opens the newest one of the VM if it can be of use: both ends mean the same VM, its memory has the size that it had, and the source
   * wants it. Never rejects, and takes 5 s at most; what goes wrong is told to `warn`.
   *
   * Its hashes cost at most 7 bytes a page of 4096: they pay as soon as one page in 585 is what it was.
   */
  static async open(
    openStore: () => Promise<HeldCheckpoints>,
    source: VmFacts,
    own: VmFacts,
    maxPages: number,
    warn: (message: string) => void,
  ): Promise<AgreedCheckpoints> {
    const identity = identityOf(source);
    if (maxPages === 0 || identity === null || identity !== identityOf(own)) return AgreedCheckpoints.none();
    const opening = openLatest(openStore, identity, own.memoryBytes, maxPages, warn);
    try {
      const agreed = await withTimeout(opening, OPEN_MS, "it could not be opened");
      return new AgreedCheckpoints(agreed === undefined ? [] : [agreed], warn);
    } catch (error) {
      // If it opens later on, nobody needs it any more.
      opening.then((late) => late?.reader[Symbol.asyncDispose]()).catch(() => {});
      warn(`no references to a checkpoint of this VM: ${messageOf(error)}`);
      return AgreedCheckpoints.none();
    }
  }

  /** What WELCOME says. */
  get offers(): OfferedCheckpoint[] {
    return this.checkpoints.map(({ offer }) => offer);
  }

  /**
   * Begins to tell the peer what they hold, as fast as the link lets it without holding up what else is to be said. What was being
   * told before ends by itself, as its connection is gone.
   *
   * @param knownHashes how many pages' hashes the peer knows already
   */
  tell(peer: Listener, knownHashes = 0): void {
    this.#telling = this.#telling
      .then(() => this.#tellAll(peer, knownHashes))
      .catch((error) => {
        if (!this.#stop.signal.aborted) this.#warn(`not all of a checkpoint is used: ${messageOf(error)}`);
      });
  }

  /** The peer needs no more. */
  stopTelling(): void {
    this.#stop.abort();
  }

  async #tellAll(peer: Listener, knownHashes: number): Promise<void> {
    for (const [checkpoint, { reader, blocks, offer }] of this.checkpoints.entries()) {
      const known = Math.min(knownHashes, blocks);
      knownHashes -= known;
      if (known === blocks) continue;
      const arrivals: Promise<boolean>[] = [];
      let first = 0; // of the chunk
      for await (const hashes of reader.hashes()) {
        if (this.#stop.signal.aborted || first >= blocks) break;
        const page = Math.max(first, known);
        const told = hashes.subarray((page - first) * HASH_BYTES, (blocks - first) * HASH_BYTES);
        first += hashes.length / HASH_BYTES;
        if (told.length === 0) continue;
        peer.send({ type: "HASHES", checkpoint, page, hashes: shortHashes(told, offer.hashBytes) });
        arrivals.push(peer.ping());
        while (!peer.backlog.hasRoom) if (!(await (arrivals.shift() ?? peer.ping()))) return;
      }
    }
  }

  /** @throws GodwitError MIGRATION_TIMEOUT when they do not close within 5 s */
  async close(): Promise<void> {
    this.stopTelling();
    const closed = this.#telling.then(() =>
      Promise.all(this.checkpoints.map(({ reader }) => reader[Symbol.asyncDispose]())),
    );
    await withTimeout(closed, CLOSE_MS, "the checkpoint that was read did not close");
  }
}

async function openLatest(
  openStore: () => Promise<HeldCheckpoints>,
  identity: string,
  memoryBytes: number,
  maxPages: number,
  warn: (message: string) => void,
): Promise<Agreed | undefined> {
  const store = await openStore();
  const latest = await store.latest(identity);
  if (latest?.memoryBytes !== memoryBytes) return undefined;
  const { id, createdMs } = latest;
  const reader = await store.open(id);
  const blocks = Math.min(reader.pages, maxPages);
  if (blocks === 0) {
    await reader[Symbol.asyncDispose]();
    return undefined;
  }
  store.touch(id).catch((error: GodwitError) => warn(`checkpoint ${id} may be deleted early: ${error.message}`));
  const seed = reader.seed.toString(16).padStart(16, "0");
  return { reader, blocks, offer: { id, pages: blocks, createdMs, seed, hashBytes: hashBytesFor(blocks) } };
}
