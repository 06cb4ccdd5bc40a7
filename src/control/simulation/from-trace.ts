/** A scenario like the one that a trace was recorded of, for other policies to be tried on. */

import { GodwitError } from "../../errors.ts";
import { DEVICE_BYTES } from "../downtime.ts";
import { hasPaused, knownShareOf } from "../pauses.ts";
import { PAGE_BYTES } from "../samples.ts";
import { MOST_SAME } from "../sending.ts";
import type { Trace, TraceRound } from "../trace.ts";
import { RAW_BYTES_PER_PAGE, RAW_BYTES_PER_ZERO_PAGE } from "./guest-memory.ts";
import { QEMU_BYTES_PER_SECOND, speedOf } from "./pace.ts";
import { pagesOf, type Scenario, type Stretch } from "./scenario.ts";
import { shifted } from "./steps.ts";
import { areHeldByEnds, isHeldByEnds, LINK_SHARE, linkOf, meanOf, pacedOf, stagesOf } from "./trace-link.ts";
import { type Load, type LoadRound, loadOf } from "./trace-load.ts";

/** Of the bulk round every slice has its share of each form, as where in the memory they lay is not in the trace. */
const BULK_SLICES = 32;
/** A sync alone takes longer (SYNC_MS of the engine); rounds of less would have a simulation go on in steps of them. */
const LEAST_ROUND_MS = 0.5;
/** QEMU is slowed down by this at most. */
const MAX_SLOWER = 1000;
const SLOWER_STEPS = 40;
/** Fewer rounds that tell of the pace do not tell how many pages are found unchanged. */
const STEADY_ROUNDS = 4;
/** Parts of the downtime where the trace has none. */
const USUAL = { transferMs: 0, loadMs: 12, handoffMs: 0, resumeMs: 20 };
const USUAL_ROUND_TRIP_MS = 0.5;
const USUAL_DEVICE_MS = 10;
/** What the devices take in 90 % of migrations (downtime.ts). */
const DEVICE_MS = { least: 2, most: 40 };

/**
 * A load that dirties in each of the trace's rounds as many pages as were dirtied then, over a link as fast as it was then, from ends
 * that take as long over a page as they did where the link was not the bottleneck. After the trace's end the time after the bulk
 * round comes again and again.
 *
 * @throws GodwitError CONTROL_TRACE_TOO_SHORT without a bulk round: nothing is then known about the load
 */
export function scenarioOfTrace(name: string, trace: Trace): Scenario {
  const rounds = trace.rounds.filter(({ durationMs }) => durationMs >= LEAST_ROUND_MS);
  const [bulk, ...later] = rounds;
  if (bulk === undefined || bulk.round !== 0 || bulk.leftPages > bulk.pages) {
    throw new GodwitError(
      "CONTROL_TRACE_TOO_SHORT",
      "the trace ends before the first round does, so nothing is known about the load",
    );
  }
  const stages = stagesOf(trace);
  const startMs = Math.max(0, bulk.atMs - bulk.durationMs);
  const stretches = stretchesOf(bulk, meanOf(stages, bulk.atMs));
  const memoryPages = stretches.reduce((sum, { pages }) => sum + pages, 0);
  const roundTripMs = trace.header.roundTripMs ?? USUAL_ROUND_TRIP_MS;
  const parts = trace.outcome?.downtimeParts ?? {
    ...USUAL,
    transferMs: roundTripMs / 2,
    handoffMs: roundTripMs,
  };
  const load = loadOf([...rounds, ...lastOf(trace)], memoryPages, 1);
  const { wireBytesPerPage, unchangedShare } = costOf(rounds, load);
  return {
    name,
    workload: {
      name,
      memoryBytes: memoryPages * PAGE_BYTES,
      stretches,
      rawBytesPerPage: rawBytesOf(later),
      unchangedShare,
      classes: load.classes.map((one) => ({ ...one, wireBytesPerPage })),
      activity: shifted(load.activity, -startMs),
    },
    startMs,
    link: linkOf(stages, bulk.atMs),
    roundTripMs,
    ...devicesOf(trace, wireBytesPerPage, stages.at(-1)!.value),
    transferMs: parts.transferMs,
    loadMs: parts.loadMs,
    handoffMs: parts.handoffMs,
    resumeMs: parts.resumeMs,
    hasSwitchoverBandwidth: trace.header.hasSwitchoverBandwidth,
    horizonMs: 900_000 + 12 * bulk.durationMs,
    hindsightMs: 120_000 + 2 * bulk.durationMs,
  };
}

/** The bulk round, form by form, in slices, from a QEMU so slow that it takes as long as it did. */
function stretchesOf(bulk: TraceRound, linkBytesPerSecond: number): Stretch[] {
  const { pagesByForm, wireBytesByForm } = bulk;
  const forms = (Object.keys(pagesByForm) as (keyof typeof pagesByForm)[])
    .map((form) => {
      const pages = pagesByForm[form] ?? 0;
      return {
        form,
        pages,
        wireBytesPerPage: Math.max(0.01, (wireBytesByForm[form] ?? 0) / Math.max(1, pages)),
        rawBytesPerPage: form === "zero" ? RAW_BYTES_PER_ZERO_PAGE : RAW_BYTES_PER_PAGE,
      };
    })
    .filter(({ pages }) => pages > 0);
  if (forms.length === 0) throw new GodwitError("CONTROL_TRACE_TOO_SHORT", "the trace's first round sent no page");
  const slower = slownessOf(forms, bulk.durationMs, linkBytesPerSecond);
  const slices = forms.map((one) => ({
    ...one,
    pages: one.pages / BULK_SLICES,
    rawBytesPerPage: one.rawBytesPerPage * slower,
  }));
  return Array.from({ length: BULK_SLICES }, () => slices).flat();
}

/** Where it was the link that took that long, QEMU is as fast as ever. */
function slownessOf(stretches: readonly Stretch[], durationMs: number, linkBytesPerSecond: number): number {
  const msAt = (slower: number) =>
    stretches.reduce((sum, one) => {
      const slowed = { ...one, rawBytesPerPage: one.rawBytesPerPage * slower };
      return sum + (one.pages * 1000) / speedOf(slowed, linkBytesPerSecond);
    }, 0);
  if (msAt(1) >= LINK_SHARE * durationMs) return 1;
  let [low, high] = [1, MAX_SLOWER];
  for (let step = 0; step < SLOWER_STEPS; step++) {
    const middle = Math.sqrt(low * high);
    if (msAt(middle) < durationMs) low = middle;
    else high = middle;
  }
  return low;
}

/** Of a page that is sent again: as many as make QEMU as slow as the rounds were in which the link was not the bottleneck. */
function rawBytesOf(later: readonly TraceRound[]): number {
  const paced = pacedOf(later);
  if (!areHeldByEnds(paced)) return RAW_BYTES_PER_PAGE;
  const held = paced.filter(isHeldByEnds);
  const pages = held.reduce((sum, round) => sum + round.pages, 0);
  const ms = held.reduce((sum, round) => sum + round.durationMs, 0);
  return pages > 0 ? Math.max(RAW_BYTES_PER_PAGE, (QEMU_BYTES_PER_SECOND * ms) / 1000 / pages) : RAW_BYTES_PER_PAGE;
}

/** What the measured residual part has beyond its pages: bytes of the devices, and the rest is time that they take. */
function devicesOf({ outcome }: Trace, wireBytesPerPage: number, linkBytesPerSecond: number) {
  const { downtimeParts, residualBytes } = outcome ?? {};
  if (!downtimeParts || residualBytes === undefined || residualBytes === null) {
    return { deviceBytes: DEVICE_BYTES, deviceMs: USUAL_DEVICE_MS };
  }
  // A link that stood still when the trace ended says nothing of the devices.
  const bytesPerMs = Math.max(1, linkBytesPerSecond) / 1000;
  const pagesMs = ((residualBytes / PAGE_BYTES) * wireBytesPerPage) / bytesPerMs;
  const beyondMs = Math.max(DEVICE_MS.least, downtimeParts.residualMs - pagesMs);
  const deviceBytes = Math.min(DEVICE_BYTES, (beyondMs - DEVICE_MS.least) * bytesPerMs);
  return { deviceBytes, deviceMs: Math.min(DEVICE_MS.most, beyondMs - deviceBytes / bytesPerMs) };
}

/** The round that the guest's stop ended is not among the trace's, but what was left then is known. */
function lastOf({ rounds, outcome }: Trace): LoadRound[] {
  const last = rounds.at(-1)!;
  if (outcome?.downtimeMs == null || outcome.residualBytes == null) return [];
  const durationMs = outcome.totalMs - outcome.downtimeMs - last.atMs;
  if (durationMs <= 0) return [];
  const paced = pacedOf(rounds);
  const ms = paced.reduce((sum, round) => sum + round.durationMs, 0);
  const pages = paced.reduce((sum, round) => sum + round.pages, 0);
  const sentPages = ms > 0 ? (pages * durationMs) / ms : 0;
  const leftPages = Math.max(0, last.remainingBytes / PAGE_BYTES - sentPages);
  const dirtiedPages = Math.max(0, outcome.residualBytes / PAGE_BYTES - leftPages);
  return [{ round: last.round + 1, durationMs, leftPages, dirtiedPages, throttlePercent: last.throttlePercent }];
}

/** Of a page that is sent again; of a steady load over a link that holds it up, of one that has changed since it was sent. */
function costOf(
  [bulk, ...later]: readonly TraceRound[],
  load: Load,
): { wireBytesPerPage: number; unchangedShare: number } {
  const sum = (of: (round: TraceRound) => number) => later.reduce((sum, round) => sum + of(round), 0);
  const [pages, wireBytes] = [sum((round) => round.pages), sum((round) => round.wireBytes)];
  if (pages === 0) return { wireBytesPerPage: costOfLiterals(bulk!), unchangedShare: 0 };
  const samePages = sum(({ pagesByForm }) => pagesByForm.same ?? 0);
  const paced = pacedOf(later);
  const workingPages = pagesOf(load.classes);
  const isLinkBound = !areHeldByEnds(paced) && samePages < MOST_SAME * pages;
  const isEven = load.isSteady && !paced.some((round, i) => i > 0 && hasPaused(paced[i - 1]!, round, workingPages));
  if (paced.length < STEADY_ROUNDS || !isEven || !isLinkBound) {
    return { wireBytesPerPage: Math.max(1, wireBytes / pages), unchangedShare: 0 };
  }
  const unchangedShare = knownShareOf(later[0]!, later[1]!, workingPages);
  return { wireBytesPerPage: Math.max(1, wireBytes / (pages - samePages)), unchangedShare };
}

function costOfLiterals({ pagesByForm, wireBytesByForm }: TraceRound): number {
  const { literal = 0 } = pagesByForm;
  return literal > 0 ? Math.max(1, (wireBytesByForm.literal ?? 0) / literal) : PAGE_BYTES;
}
