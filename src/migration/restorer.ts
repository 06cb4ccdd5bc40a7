import { BodyDecoder, type DecodedCounts, type PlaceRun } from "../compact/decoder.ts";
import { PageSlots } from "../compact/page-slots.ts";
import { RUN_TAGS_BYTES, RunTags } from "../compact/run-tags.ts";
import type { GodwitError } from "../errors.ts";
import type { DiskReader } from "../store/disk-reader.ts";
import { PAGE_RECORD_BYTES } from "../stream/format.ts";
import { type DataHeader, MAX_RAW_BYTES, type Message, type RepairHeader } from "../wire/messages.ts";
import { createKernelsWithCache, type Kernels, NO_CACHE_MEMORY } from "./kernels.ts";
import { type AgreedPlaces, PlacePages } from "./place-pages.ts";
import { Repairs } from "./repairs.ts";

/** Outputs that are being filled, or that wait for the destination QEMU to take them. */
const OUTPUTS = 4;
/** Behind the outputs: what tags are made in, then the page cache, both aligned to 16 bytes. */
const TAGS_AT = OUTPUTS * MAX_RAW_BYTES;
const CACHE_AT = TAGS_AT + RUN_TAGS_BYTES;

export interface RestorerOptions {
  /** Slots of the page cache that there is to be memory for; default: 0. */
  cachePages?: number;
  /** Sends a message to the peer. */
  send: (message: Message) => void;
  /** A REPAIR is owed from now on, and may stand behind DATA that found no room. */
  onOwed: () => void;
  /** Something costs more bytes than it might. */
  onWarning?: (message: string) => void;
}

/**
 * Bodies → the stream: decodes them, fills in what stands on disks and in checkpoints, and asks the peer for what does not stand there.
 *
 * Memory: 4 outputs of 4 MiB, which whoever restores takes and gives back, and the page cache.
 */
export class Restorer {
  /** Slots of the page cache that there is memory for. */
  readonly cachePages: number;
  readonly #options: RestorerOptions;
  readonly #kernels: Kernels;
  readonly #decoder: BodyDecoder;
  readonly #freeOutputs: number[];
  readonly #repairs: Repairs;
  #placePages: PlacePages | undefined;
  #nackedPages = 0;
  #isDetached = false;
  #isStopped = false;

  constructor(options: RestorerOptions) {
    this.#options = options;
    const { cachePages = 0 } = options;
    const { kernels, hasCache } = createKernelsWithCache(CACHE_AT, PageSlots.memoryBytes(cachePages));
    this.#kernels = kernels;
    this.cachePages = hasCache ? cachePages : 0;
    if (!hasCache) options.onWarning?.(NO_CACHE_MEMORY);
    this.#decoder = new BodyDecoder(this.#kernels.writer);
    this.#freeOutputs = Array.from({ length: OUTPUTS }, (_, i) => this.#kernels.base + i * MAX_RAW_BYTES);
    this.#repairs = new Repairs(options.send);
  }

  get counts(): Readonly<DecodedCounts> {
    return this.#decoder.counts;
  }
  /** Pages of disks and checkpoints that were asked for again. */
  get nackedPages(): number {
    return this.#nackedPages;
  }
  /** Whether the peer owes a REPAIR. */
  get isOwed(): boolean {
    return this.#repairs.isWaiting;
  }

  /**
   * Lets bodies refer to disks and checkpoints.
   *
   * @param tagKey of the session, TAG_KEY_BYTES
   * @param onWarning is told of each, once, that cannot be read after all
   */
  usePlaces(places: AgreedPlaces, tagKey: Uint8Array, onWarning: (message: string) => void): void {
    const { pages, bytes, base } = this.#kernels;
    const tags = new RunTags(pages, bytes, base + TAGS_AT);
    tags.setKey(tagKey);
    const failed = new Set<DiskReader>();
    const onReadError = (reader: DiskReader, error: GodwitError): void => {
      if (!failed.has(reader)) onWarning(`${error.message}; pages that stand there are sent again`);
      failed.add(reader);
    };
    this.#placePages = new PlacePages(bytes, tags, places, onReadError);
    this.#decoder.diskBlocks = places.disks.map(({ blocks }) => blocks);
    this.#decoder.checkpointPages = places.checkpoints.map(({ blocks }) => blocks);
  }

  /** Lets bodies use so many slots of the page cache, which is empty; at most `cachePages`. */
  useCache(slots: number): void {
    const { pages, bytes, base } = this.#kernels;
    this.#decoder.cache = slots > 0 ? new PageSlots(pages, bytes, base + CACHE_AT, slots) : undefined;
  }

  /** The address of an output that is free; undefined while there is none. */
  takeOutput(): number | undefined {
    return this.#freeOutputs.pop();
  }

  /** What was restored into `output` is not needed any more, or was never asked for. */
  releaseOutput(output: number): void {
    this.#freeOutputs.push(output);
  }

  /**
   * The raw bytes of a body, which may be a view of it; at once unless it refers to such. Until they are there, and as long as
   * they are used, `body` and `output` are to be left alone. Undefined where the peer was to be asked for some, and is gone.
   *
   * @throws GodwitError FORM_TOKENS
   */
  restore(header: DataHeader, body: Uint8Array, output: number): Uint8Array | Promise<Uint8Array | undefined> {
    const { tokenBytes, rawBytes, rawOffset } = header;
    const { bytes, placeRuns } = this.#decoder.decode(body, tokenBytes, rawBytes, this.#kernels.bytes, output);
    if (placeRuns.length === 0) return bytes;
    return this.#fill(placeRuns, rawOffset - output).then((isWhole) => (isWhole ? bytes : undefined));
  }

  /** @param shift from addresses to raw offsets */
  async #fill(runs: readonly PlaceRun[], shift: number): Promise<boolean> {
    const bad = await this.#placePages!.fill(runs);
    if (bad.length === 0) return true;
    if (this.#isDetached || this.#isStopped) return false;
    const repairs = bad.map(({ address, count }) => {
      this.#nackedPages += count;
      const target = this.#kernels.bytes.subarray(address, address + count * PAGE_RECORD_BYTES);
      return this.#repairs.ask(address + shift, target);
    });
    this.#options.onOwed();
    return (await Promise.all(repairs)).every((hasCome) => hasCome);
  }

  /** The connection is gone: whatever was asked for does not come, and nothing is asked for, until `attach`. */
  detach(): void {
    this.#isDetached = true;
    this.#repairs.drop();
  }

  /** There is a new connection. All bodies of the old one are restored or were given up. */
  attach(): void {
    this.#isDetached = false;
  }

  /** See MessageHandler. @throws GodwitError PEER_BAD_REPAIR */
  onRepair(header: RepairHeader): Uint8Array {
    return this.#repairs.onRepair(header);
  }

  /** See MessageHandler. */
  onRepairComplete(): void {
    this.#repairs.onRepairComplete();
  }

  /** Nothing more is asked of the peer. Reads under way end, but nobody waits for them here. */
  stop(): void {
    this.#isStopped = true;
  }
}
