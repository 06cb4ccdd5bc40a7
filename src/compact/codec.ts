/** How a body can be packed; the numbers on the wire are those of docs/wire-protocol.md. */
export type BodyCodec = "none" | "zstd";

/** Packing has to promise this much more speed to be worth its CPU time. */
const MIN_GAIN = 1.05;
/** While nothing is packed, one body in so many is, to see whether it would pay by now. */
const PROBE_EVERY = 32;
/** Weight of the newest body in the averages. */
const WEIGHT = 0.2;
/** zstd level 1 before it was measured here: bytes per second of one thread (docs/benchmarks.md), and a typical ratio. */
const ZSTD_BYTES_PER_SECOND = 200e6;
const ZSTD_RATIO = 0.5;

/**
 * Chooses the codec of each body by the bottleneck: it packs only where the link is the limit, and only while packing
 * makes the whole faster. Pure; what it knows is what it is told.
 */
export class CodecChoice {
  readonly #threads: number;
  #bytesPerSecond = ZSTD_BYTES_PER_SECOND;
  #ratio = ZSTD_RATIO;
  #sinceProbe = 0;

  /** @param threads bodies that are packed at the same time. */
  constructor(threads: number) {
    this.#threads = threads;
  }

  /**
   * @param linkBytesPerSecond the link's speed where the link is the bottleneck; undefined where it is not.
   * @param isUrgent the guest is stopped: what counts is when this body arrives, so packing it must take less time than it
   * saves on the link. Else other bodies are on the link meanwhile, and it is the rates that count.
   */
  choose(linkBytesPerSecond: number | undefined, isUrgent = false): BodyCodec {
    if (linkBytesPerSecond === undefined) return "none";
    if (isUrgent) return this.#bytesPerSecond * (1 - this.#ratio) > linkBytesPerSecond ? "zstd" : "none";
    const packed = Math.min(this.#bytesPerSecond * this.#threads, linkBytesPerSecond / this.#ratio);
    if (packed > linkBytesPerSecond * MIN_GAIN || ++this.#sinceProbe >= PROBE_EVERY) {
      this.#sinceProbe = 0;
      return "zstd";
    }
    return "none";
  }

  /** A body of `bodyBytes` was packed to `encodedBytes` in `ms`, with others at the same time. */
  packed(bodyBytes: number, encodedBytes: number, ms: number): void {
    this.#ratio += (encodedBytes / bodyBytes - this.#ratio) * WEIGHT;
    if (ms > 0) this.#bytesPerSecond += ((bodyBytes / ms) * 1000 - this.#bytesPerSecond) * WEIGHT;
  }
}
