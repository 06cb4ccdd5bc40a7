/** Scenarios that are all like what was measured of a VM and a link, and differ by as much as that is uncertain. */

import type { DowntimeModel, Estimate } from "../downtime.ts";
import { MOST_KNOWN } from "../pauses.ts";
import { PAGE_BYTES } from "../samples.ts";
import { RAW_BYTES_PER_PAGE, RAW_BYTES_PER_ZERO_PAGE } from "../simulation/guest-memory.ts";
import { QEMU_BYTES_PER_SECOND } from "../simulation/pace.ts";
import type { Scenario, Stretch } from "../simulation/scenario.ts";
import { constant, cycle, type Steps, shifted } from "../simulation/steps.ts";
import { classesOf, curveOf, type DirtyWindow, fitParts } from "./dirty-curve.ts";
import type { Findings } from "./findings.ts";
import {
  changedBytesOf,
  type MemoryShares,
  PACKINGS,
  type Packing,
  redrawn,
  sharesOf,
  withCopies,
  withUnseen,
} from "./page-costs.ts";

/** How many times the longest window the working set may go on growing: no window tells. */
const GROWTH = [1, 3, 10, 30];
/** Of the pages that are not zero those that may stand on a disk that is not indexed: 2 to 74 % were seen to. */
const MOST_ON_DISK = 0.8;
const DISK_BYTES_PER_PAGE = 6;
/** One token with its tag for several pages that lie together (docs/page-format.md). */
const COPY_BYTES_PER_PAGE = 6;
const ZERO_BYTES_PER_PAGE = 0.05;
/** From the start of the command to QEMU's first byte: connecting, opening disks, agreeing with the destination. */
const START_MS: Estimate = { expected: 400, low: 200, high: 900 };
/**
 * Pages fill the link less than a probe does, as QEMU pauses for its syncs and the simulation leaves things out: 0.93 to 0.97 in the lab where the
 * link is the bottleneck (docs/control-loop.md).
 */
const PACE = 0.95;
const PACE_DEVIATION = 0.03;
/**
 * The ends' pace with one thread that packs and the most with more of them, on a machine on which zstd 1 packs REFERENCE_ZSTD a second; where
 * guests and both ends share two cores, two fifths of it were seen (docs/benchmarks.md: the sender, the receiver, real migrations).
 */
const ENDS_OF_THREAD = 300e6;
const MOST_OF_ENDS = 700e6;
const REFERENCE_ZSTD = 370e6;
const ENDS_LOW = 0.4;
const ENDS_HIGH = 1.6;
/** A load that changes by less is steady: no real one is more so, least of all beside others. */
const STEADY_VARIANCE = 0.1;
/** Of a load that comes and goes: what half a dozen windows tell of the variance, as the deviation of its logarithm. */
const VARIANCE_DEVIATION = 0.6;
const LEAST_ON = 0.05;
const MOST_ON = 0.95;
/** From one time that it comes to the next: no window tells, all lengths are alike likely. */
const SHORTEST_PERIOD_MS = 500;
const LONGEST_PERIOD_MS = 10_000;
/** Over so many of them a load is as good as steady. */
const EVEN_PERIODS = 100;
/** A migration begins with zstd, and another packing must promise as much more (src/compact/codec.ts). */
const SWITCH_GAIN = 1.1;
const NORMAL_95 = 1.645;
/** As long as the simulation's standard set. */
const HORIZON_MS = 900_000;
const HORIZON_ROUNDS = 12;

export interface Draw {
  readonly scenario: Scenario;
  /** Before the migration's first byte. */
  readonly startMs: number;
  /** About how long the bulk round takes. */
  readonly bulkMs: number;
}

/** @param random a number from 0 on and below 1 */
export function scenarioDrawer(findings: Findings, downtime: DowntimeModel, random: () => number): () => Draw {
  const { windows, memoryBytes, sample } = findings;
  const memoryPages = memoryBytes / PAGE_BYTES;
  const longestMs = Math.max(1000, ...windows.map(({ windowMs }) => windowMs));
  const curve = curveOf(windows, memoryPages, longestMs * GROWTH[1]!);
  return () => {
    const growth = GROWTH[Math.floor(random() * GROWTH.length)]!;
    const noise = (window: DirtyWindow) => Math.max(0, window.pages + normal(random) * window.deviationPages);
    const perturbed = curve.windows.map((window) => ({ ...window, pages: noise(window) }));
    const clusters = redrawn(sample.clusters, random);
    const seen = withUnseen(sharesOf(clusters), clusters.length, random);
    const shares = withCopies(withDisks(seen, findings.disks, random), clusters, memoryPages, random);
    const pace = PACE + PACE_DEVIATION * normal(random);
    const goodput = Math.max(1000, drawn(findings.goodputBytesPerSecond, random) * pace);
    const roundTripMs = drawn(findings.roundTripMs, random);
    const ends = drawn(endsOf(findings), random);
    const cost = (bytesPerPage: (packing: Packing) => number) => cheapest(bytesPerPage, goodput, ends, findings);
    const whole = cost((packing) => shares.restBytesPerPage[packing]);
    const changed = cost((packing) => changedBytesOf(sample, shares, packing));
    const fixedMs = drawn(downtime.fixedMs(goodput, roundTripMs), random);
    const stretches = stretchesOf(shares, memoryPages, whole);
    const bulkMs = stretches.reduce((sum, stretch) => sum + msOf(stretch, goodput), 0);
    const phases = phasesOf(curve.variance, bulkMs, random);
    const scenario: Scenario = {
      name: "plan",
      workload: {
        name: "plan",
        memoryBytes,
        stretches,
        classes: classesOf(
          fitParts(perturbed, memoryPages, longestMs * growth),
          changed.wireBytesPerPage,
          phases.onShare,
        ),
        rawBytesPerPage: changed.rawBytesPerPage,
        unchangedShare: MOST_KNOWN,
        activity: phases.activity,
      },
      link: constant(goodput),
      roundTripMs,
      // All parts of the downtime but the pages are in one.
      deviceBytes: 0,
      deviceMs: 0,
      transferMs: 0,
      loadMs: fixedMs,
      handoffMs: 0,
      resumeMs: 0,
      hasSwitchoverBandwidth: findings.hasSwitchoverBandwidth,
      horizonMs: HORIZON_MS + HORIZON_ROUNDS * bulkMs,
      hindsightMs: 0,
    };
    return { scenario, startMs: drawn(START_MS, random), bulkMs };
  };
}

/**
 * A load that comes and goes is on for a share p of the time, and (1 − p) / p is the variance of windows that are short beside its
 * phases.
 */
function phasesOf(variance: number, bulkMs: number, random: () => number): { activity: Steps; onShare: number } {
  const steady = { activity: constant(1), onShare: 1 };
  if (variance < STEADY_VARIANCE) return steady;
  const drawnVariance = variance * Math.exp(VARIANCE_DEVIATION * normal(random));
  const onShare = Math.min(MOST_ON, Math.max(LEAST_ON, 1 / (1 + drawnVariance)));
  const periodMs = SHORTEST_PERIOD_MS * (LONGEST_PERIOD_MS / SHORTEST_PERIOD_MS) ** random();
  if (periodMs * EVEN_PERIODS < bulkMs) return steady;
  const phases = cycle({ ms: periodMs * onShare, value: 1 }, { ms: periodMs * (1 - onShare), value: 0 });
  return { activity: shifted(phases, periodMs * random()), onShare };
}

function withDisks(shares: MemoryShares, disks: Findings["disks"], random: () => number): MemoryShares {
  if (disks !== "unknown") return shares;
  // A guest has read much of its disk, or little: the arcsine distribution.
  const moved = (shares.rest * MOST_ON_DISK * (1 - Math.cos(Math.PI * random()))) / 2;
  return {
    ...shares,
    disk: shares.disk + moved,
    rest: shares.rest - moved,
    diskBytesPerPage: DISK_BYTES_PER_PAGE,
  };
}

/** By form, as if they stood one after the other. */
function stretchesOf(shares: MemoryShares, memoryPages: number, whole: PageCost): Stretch[] {
  const { rawBytesPerPage } = whole;
  const zero = { wireBytesPerPage: ZERO_BYTES_PER_PAGE, rawBytesPerPage: RAW_BYTES_PER_ZERO_PAGE };
  const stretches: Stretch[] = [
    { form: "zero", pages: shares.zero * memoryPages, ...zero },
    { form: "literal", pages: shares.rest * memoryPages, ...whole },
    { form: "same", pages: shares.copied * memoryPages, wireBytesPerPage: COPY_BYTES_PER_PAGE, rawBytesPerPage },
    { form: "disk", pages: shares.disk * memoryPages, wireBytesPerPage: shares.diskBytesPerPage, rawBytesPerPage },
  ];
  return stretches.filter(({ pages }) => pages > 0);
}

/** About how long a stretch takes: by the link, or by QEMU. */
function msOf({ pages, wireBytesPerPage, rawBytesPerPage }: Stretch, goodputBytesPerSecond: number): number {
  const seconds = Math.max(wireBytesPerPage / goodputBytesPerSecond, rawBytesPerPage / QEMU_BYTES_PER_SECOND);
  return pages * seconds * 1000;
}

interface PageCost {
  readonly wireBytesPerPage: number;
  /** In QEMU's stream, or as if: so many that QEMU's speed becomes that of what is slower than QEMU. */
  readonly rawBytesPerPage: number;
}

/** What a page costs as it is packed: by zstd, unless another packing moves clearly more pages. */
function cheapest(
  bytesPerPage: (packing: Packing) => number,
  goodputBytesPerSecond: number,
  endsBytesPerSecond: number,
  { sample, threads }: Findings,
): PageCost {
  let best: PageCost | undefined;
  let bestPace = 0;
  for (const packing of PACKINGS.toReversed()) {
    const packed = packing === "none" ? Number.POSITIVE_INFINITY : sample.packBytesPerSecond[packing];
    const bytesPerSecond = Math.min(packed * Math.max(1, threads), endsBytesPerSecond);
    const wireBytesPerPage = Math.max(1, bytesPerPage(packing));
    const pace = Math.min(goodputBytesPerSecond / wireBytesPerPage, bytesPerSecond / PAGE_BYTES);
    if (best !== undefined && pace < bestPace * SWITCH_GAIN) continue;
    bestPace = pace;
    const slowed = (QEMU_BYTES_PER_SECOND / bytesPerSecond) * PAGE_BYTES;
    best = { wireBytesPerPage, rawBytesPerPage: Math.max(RAW_BYTES_PER_PAGE, slowed) };
  }
  return best!;
}

/**
 * Guest memory that the two ends deal with in a second, CPU and all: as much as one core and those that pack beside it were seen to, on a
 * host that packs as fast as this one.
 */
function endsOf({ sample, threads }: Findings): Estimate {
  const speed = sample.packBytesPerSecond.zstd / REFERENCE_ZSTD;
  const expected = Math.min(ENDS_OF_THREAD * Math.max(1, threads), MOST_OF_ENDS) * Math.min(2, speed);
  return { expected, low: expected * ENDS_LOW, high: expected * ENDS_HIGH };
}

/** One that is as likely as the estimate says: a normal one with another deviation at either side. */
function drawn({ expected, low, high }: Estimate, random: () => number): number {
  const z = normal(random) / NORMAL_95;
  return Math.max(low / 2, expected + z * (z > 0 ? high - expected : expected - low));
}

/** Box and Muller's. */
function normal(random: () => number): number {
  return Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
}
