/** How a body is packed; docs/wire-protocol.md has the codecs' numbers on the wire. */
export interface Packing {
  readonly codec: "none" | "lz4" | "zstd";
  /** zstd's; 0 for the others. */
  readonly level: number;
}

/** A packing, and what is expected of it. */
interface Candidate extends Packing {
  /** Bytes of bodies that one core packs in a second. */
  bytesPerSecond: number;
  /** How far it packs: where zstd 1 comes to the share r of a body, it comes to r to this power. */
  strength: number;
}

export const NONE: Packing = { codec: "none", level: 0 };

const UNPACKED: Candidate = { ...NONE, bytesPerSecond: Number.POSITIVE_INFINITY, strength: 0 };
/** Lightest first: as they pack what is left of a guest's memory after references to its disk, and programs (docs/benchmarks.md). */
const PACKERS: readonly Candidate[] = [
  { codec: "lz4", level: 0, bytesPerSecond: 500e6, strength: 0.73 },
  { codec: "zstd", level: 1, bytesPerSecond: 370e6, strength: 1 },
  { codec: "zstd", level: 3, bytesPerSecond: 240e6, strength: 1.03 },
  { codec: "zstd", level: 6, bytesPerSecond: 110e6, strength: 1.05 },
  { codec: "zstd", level: 9, bytesPerSecond: 70e6, strength: 1.07 },
];
const FIRST_INDEX = 1;
/** What zstd 1 is expected to make of a byte. */
const FIRST_RATIO = 0.4;

/** Smaller bodies gain less than their packing costs. */
const MIN_BODY_BYTES = 2048;
/** What handing a body to a thread and back takes besides packing it. */
const HANDOVER_MS = 0.3;
/** Bodies of this size and more are as good a sample as there is. */
const FULL_SAMPLE_BYTES = 256 * 1024;
/** Weight of the newest full sample in what is known of the pages, and in how one packing compares to another. */
const WEIGHT = 0.1;
const PROBE_WEIGHT = 0.05;
/** And in a speed: a thread that has to wait for a core looks slow, and nothing makes it look fast. */
const FASTER_WEIGHT = 0.1;
const SLOWER_WEIGHT = 0.03;
/** How often the choice is looked at. */
const DECIDE_MS = 100;
/** What holds the source back for this share of the time is the bottleneck. */
const LIMIT_SHARE = 0.3;
/** And threads that pack must have been at it for this share: where they wait for a core, a lighter packing would wait too. */
const BUSY_SHARE = 0.7;
/** Another packing must promise to be faster by this factor: a few percent are not worth several times the CPU time. */
const SWITCH_GAIN = 1.1;
/**
 * Packing at all must promise this, but goes on until it makes it slower. For a while it may gain nothing: pages that do not shrink
 * take next to no time (zstd 1 sees it at 1.4 GB/s), and others come behind them.
 */
const PACK_GAIN = 1.08;
const KEEP_GAIN = 0.98;
/** While the link is the bottleneck, one body in so many is packed in another way, to see what that would do by now. */
const PROBE_EVERY = 64;
/** Others are tried so only if they might be within this share of the best. */
const PROBE_SHARE = 0.8;
/** After a lighter packing has not made it faster, none is tried for so long; from the first to the second, doubling. */
const RETRY_MS = 2000;
const MAX_RETRY_MS = 32_000;

/** Pages that hardly shrink do not tell one packing from another. */
const MAX_TELLING_RATIO = 0.8;

/** What the choice goes by. */
export interface Conditions {
  /** What the link carries, or the rate that a user allows it; a lower bound while it holds nothing back. */
  readonly linkBytesPerSecond: number;
  /** Shares of the time since the last decision in which the source was held back by the link, and by packing. */
  readonly linkShare: number;
  readonly packingShare: number;
}

/**
 * Chooses how bodies are packed, by the bottleneck.
 *
 * Where the link holds the source back, that packing is taken which moves the most bytes of bodies: the lesser of what the threads
 * pack and what the link carries once it is packed. Where packing does, a lighter one is tried. Else nothing is changed: whatever
 * is the limit then, another packing does not help. Pure; what it knows is what it is told.
 */
export class CodecChoice {
  readonly #threads: number;
  readonly #packers: readonly Candidate[];
  readonly #onChange: (packing: Packing, reason: string) => void;
  /** What zstd 1 makes, or would make, of a byte of the bodies of late. */
  #ratio = FIRST_RATIO;
  /** Whether it was measured. */
  #isMeasured = false;
  #current: Candidate;
  #reason: string;
  readonly #isFixed: boolean;
  #decidedAtMs = Number.NEGATIVE_INFINITY;
  /** How long packing what was packed since takes a core. */
  #busyMs = 0;
  #linkBytesPerSecond = 0;
  #isLinkLimiting = false;
  #sinceProbe = 0;
  #probes = 0;
  /** A lighter packing was taken to see whether that is faster. If it is not, that is not done again before `#retryAtMs`. */
  #isTrying = false;
  #retryMs = RETRY_MS;
  #retryAtMs = Number.NEGATIVE_INFINITY;

  /**
   * @param threads that pack at the same time
   * @param only the packing that a user wants; undefined: whatever is fastest
   */
  constructor(threads: number, only?: Packing, onChange: (packing: Packing, reason: string) => void = () => {}) {
    this.#threads = Math.max(1, threads);
    this.#isFixed = only !== undefined;
    this.#packers = only === undefined ? PACKERS.map((packer) => ({ ...packer })) : fixedPackers(only);
    this.#onChange = onChange;
    this.#current = this.#packers[this.#isFixed ? 0 : FIRST_INDEX] ?? UNPACKED;
    this.#reason = this.#isFixed ? "as asked for" : "to begin with, until it is seen what holds the migration back";
  }

  get current(): Packing {
    return this.#current;
  }
  /** Why it is the current one, in one clause. */
  get reason(): string {
    return this.#reason;
  }
  /** What a body that is packed now is expected to come to, for each byte. */
  get ratio(): number {
    return this.#ratioOf(this.#current);
  }

  /** Whether it is time for `decide`. */
  isDue(nowMs: number): boolean {
    return !this.#isFixed && nowMs - this.#decidedAtMs >= DECIDE_MS;
  }

  decide({ linkBytesPerSecond, linkShare, packingShare }: Conditions, nowMs: number): void {
    const threadMs = (nowMs - this.#decidedAtMs) * this.#threads;
    const isPackingLimiting = packingShare >= LIMIT_SHARE && this.#busyMs >= threadMs * BUSY_SHARE;
    this.#decidedAtMs = nowMs;
    this.#busyMs = 0;
    this.#linkBytesPerSecond = linkBytesPerSecond;
    this.#isLinkLimiting = linkShare >= LIMIT_SHARE;
    if (this.#isLinkLimiting) this.#chooseByRate(nowMs);
    else if (isPackingLimiting && nowMs >= this.#retryAtMs) this.#tryLighter();
  }

  #chooseByRate(nowMs: number): void {
    const link = this.#linkBytesPerSecond;
    const current = this.#current;
    const best = this.#best();
    const bestRate = this.#rate(best);
    const isPacking = current !== UNPACKED;
    let chosen = current;
    if (bestRate < link * (isPacking ? KEEP_GAIN : PACK_GAIN)) chosen = UNPACKED;
    else if (bestRate > this.#rate(current) * SWITCH_GAIN || !isPacking) chosen = best;
    if (chosen === current) return;
    const wasInVain = this.#isTrying && this.#packers.indexOf(chosen) > this.#packers.indexOf(current);
    if (wasInVain) {
      this.#retryAtMs = nowMs + this.#retryMs;
      this.#retryMs = Math.min(2 * this.#retryMs, MAX_RETRY_MS);
    }
    this.#isTrying = false;
    const other = chosen === UNPACKED ? best : current;
    const comparison = [chosen, other].map((packing) => `${nameOf(packing)} makes it ${speed(this.#rate(packing))}`);
    this.#change(chosen, `the link carries ${speed(link)}: ${comparison.join(", ")}`);
  }

  #tryLighter(): void {
    const current = this.#current;
    if (current === UNPACKED) return;
    this.#isTrying = true;
    const lighter = this.#packers[this.#packers.indexOf(current) - 1] ?? UNPACKED;
    this.#change(lighter, `the link has room, and packing with ${nameOf(current)} holds the migration back`);
  }

  #change(packing: Candidate, reason: string): void {
    this.#current = packing;
    this.#reason = reason;
    this.#onChange(packing, reason);
  }

  /** The lightest of those that are hardly slower than the fastest. */
  #best(): Candidate {
    const best = Math.max(...this.#packers.map((packer) => this.#rate(packer)));
    return this.#packers.find((packer) => this.#rate(packer) * SWITCH_GAIN >= best)!;
  }

  /** How a body is to be packed, while the guest runs. */
  next(bodyBytes: number): Packing {
    if (bodyBytes < MIN_BODY_BYTES) return UNPACKED;
    if (this.#isFixed || !this.#isLinkLimiting || ++this.#sinceProbe < PROBE_EVERY) return this.#current;
    this.#sinceProbe = 0;
    const leastRate = this.#rate(this.#best()) * PROBE_SHARE;
    const worthy = this.#packers.filter((other) => other !== this.#current && this.#rate(other) >= leastRate);
    return worthy[this.#probes++ % worthy.length] ?? this.#current;
  }

  /**
   * How a body is to be packed while the guest is stopped: what counts is when this body has arrived.
   *
   * @param linkBytesPerSecond as far as known; 0 if nothing is
   */
  nextUrgent(bodyBytes: number, linkBytesPerSecond: number): Packing {
    if (bodyBytes < MIN_BODY_BYTES || linkBytesPerSecond === 0) return UNPACKED;
    if (this.#isFixed) return this.#current;
    const msOf = (packing: Candidate): number => {
      const handoverMs = packing === UNPACKED ? 0 : HANDOVER_MS;
      return handoverMs + bodyBytes * (1 / packing.bytesPerSecond + this.#ratioOf(packing) / linkBytesPerSecond) * 1000;
    };
    return this.#packers.reduce((best, other) => (msOf(other) < msOf(best) ? other : best), UNPACKED);
  }

  /** A body of `bodyBytes` was packed to `packedBytes` (or left as it was), in `ms`. */
  packed(packing: Packing, bodyBytes: number, packedBytes: number, ms: number): void {
    const packer = this.#packers.find(({ codec, level }) => codec === packing.codec && level === packing.level);
    if (packer === undefined) return;
    const size = Math.min(1, bodyBytes / FULL_SAMPLE_BYTES);
    const ratio = packedBytes / bodyBytes;
    const bytesPerSecond = (bodyBytes / Math.max(ms, 0.01)) * 1000;
    const weight = bytesPerSecond > packer.bytesPerSecond ? FASTER_WEIGHT : SLOWER_WEIGHT;
    packer.bytesPerSecond += (bytesPerSecond - packer.bytesPerSecond) * weight * size;
    this.#busyMs += (bodyBytes / packer.bytesPerSecond) * 1000;
    if (packer === this.#current || this.#current === UNPACKED) {
      const sample = ratio ** (1 / packer.strength);
      this.#ratio += (sample - this.#ratio) * (this.#isMeasured ? WEIGHT * size : 1);
      this.#isMeasured = true;
    } else if (this.#ratio < MAX_TELLING_RATIO) {
      // Pages differ from body to body: only many probes tell how the one packs compared to the other.
      const strength = Math.log(ratio) / Math.log(this.#ratio);
      packer.strength += (strength - packer.strength) * PROBE_WEIGHT * size;
    }
  }

  /** Bytes of bodies a second: the lesser of what is packed and what the link carries of that. */
  #rate(packing: Candidate): number {
    return Math.min(packing.bytesPerSecond * this.#threads, this.#linkBytesPerSecond / this.#ratioOf(packing));
  }

  #ratioOf({ strength }: Candidate): number {
    return this.#ratio ** strength;
  }
}

/** The one packing that a user wants. */
function fixedPackers(only: Packing): Candidate[] {
  if (only.codec === "none") return [];
  return [{ ...(PACKERS.find(({ codec }) => codec === only.codec) ?? UNPACKED), ...only }];
}

/** `zstd 1`, `lz4`, `none`. */
export function nameOf({ codec, level }: Packing): string {
  return codec === "zstd" ? `zstd ${level}` : codec;
}

function speed(bytesPerSecond: number): string {
  return `${(bytesPerSecond / 1e6).toFixed(0)} MB/s`;
}
