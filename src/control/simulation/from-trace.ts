/** A scenario like the one that a trace was recorded of, for other policies to be tried on. */

import { GodwitError } from "../../errors.ts";
import { DEVICE_BYTES } from "../downtime.ts";
import { PAGE_BYTES } from "../samples.ts";
import type { Trace, TraceRound, TraceTick } from "../trace.ts";
import { QEMU_BYTES_PER_SECOND, speedOf } from "./engine.ts";
import { RAW_BYTES_PER_PAGE } from "./guest-memory.ts";
import type { Scenario, Stretch } from "./scenario.ts";
import { cycle, type Steps, sequence } from "./steps.ts";
import { loadOf } from "./trace-load.ts";

/** A zero page in QEMU's stream (migration/ram.c, save_zero_page_to_file). */
const RAW_BYTES_PER_ZERO_PAGE = 9;
/** Of the bulk round every slice has its share of each form, as where in the memory they lay is not in the trace. */
const BULK_SLICES = 32;
/** The link's speed is taken over at least so long, and at most so many times. */
const WINDOW_MS = 250;
const MAX_WINDOWS = 2000;
/** The first looks at the link, of less than this share of its usual speed, are not of the link but of a migration that begins. */
const STARTING_SHARE = 0.5;
/** A round that used less of the link than this was held up by what feeds it. */
const LINK_SHARE = 0.85;
/** Heartbeats go over a link that stands still, as far as it is known, but no pages. */
const STANDING_BYTES_PER_SECOND = 1024;
/** In shorter rounds QEMU looks for dirty pages more than it sends. */
const PACED_MS = 50;
/** A sync alone takes longer (SYNC_MS of the engine); rounds of less would have a simulation go on in steps of them. */
const LEAST_ROUND_MS = 0.5;
/** QEMU is slowed down by this at most. */
const MAX_SLOWER = 1000;
const SLOWER_STEPS = 40;
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
  const stretches = stretchesOf(bulk, meanOf(stages, bulk.durationMs));
  const memoryPages = stretches.reduce((sum, { pages }) => sum + pages, 0);
  const sent = later.reduce((sum, round) => sum + round.pages, 0);
  const wireBytes = later.reduce((sum, round) => sum + round.wireBytes, 0);
  const wireBytesPerPage = sent > 0 ? Math.max(1, wireBytes / sent) : costOfLiterals(bulk);
  const roundTripMs = trace.header.roundTripMs ?? USUAL_ROUND_TRIP_MS;
  const parts = trace.outcome?.downtimeParts ?? {
    ...USUAL,
    transferMs: roundTripMs / 2,
    handoffMs: roundTripMs,
  };
  return {
    name,
    workload: {
      name,
      memoryBytes: memoryPages * PAGE_BYTES,
      stretches,
      rawBytesPerPage: rawBytesOf(later),
      ...loadOf(rounds, memoryPages, wireBytesPerPage),
    },
    link: linkOf(stages, bulk.durationMs),
    roundTripMs,
    deviceBytes: DEVICE_BYTES,
    deviceMs: deviceMsOf(trace, wireBytesPerPage, stages.at(-1)!.value),
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
  const held = later.filter(
    ({ durationMs, wireBytes, goodputBytesPerSecond }) =>
      durationMs >= PACED_MS && (wireBytes * 1000) / durationMs < LINK_SHARE * goodputBytesPerSecond,
  );
  const pages = held.reduce((sum, round) => sum + round.pages, 0);
  const ms = held.reduce((sum, round) => sum + round.durationMs, 0);
  return pages > 0 ? Math.max(RAW_BYTES_PER_PAGE, (QEMU_BYTES_PER_SECOND * ms) / 1000 / pages) : RAW_BYTES_PER_PAGE;
}

/** What the measured residual part has beyond its pages and the devices' bytes. */
function deviceMsOf({ outcome }: Trace, wireBytesPerPage: number, linkBytesPerSecond: number): number {
  const { downtimeParts, residualBytes } = outcome ?? {};
  if (!downtimeParts || residualBytes === undefined || residualBytes === null) return USUAL_DEVICE_MS;
  const sentMs = (((residualBytes / PAGE_BYTES) * wireBytesPerPage + DEVICE_BYTES) * 1000) / linkBytesPerSecond;
  return Math.min(DEVICE_MS.most, Math.max(DEVICE_MS.least, downtimeParts.residualMs - sentMs));
}

function costOfLiterals({ pagesByForm, wireBytesByForm }: TraceRound): number {
  const { literal = 0 } = pagesByForm;
  return literal > 0 ? Math.max(1, (wireBytesByForm.literal ?? 0) / literal) : PAGE_BYTES;
}

interface Stage {
  ms: number;
  /** Of the link, in bytes per second. */
  value: number;
}

/** The link from the start on, in turn. */
function stagesOf({ ticks, rounds }: Trace): Stage[] {
  const stages = ticks.length > 2 ? windowsOf(ticks) : rounds.map(stageOfRound);
  const usual = medianOf(stages.map(({ value }) => value).filter((value) => value > 0));
  const first = stages.findIndex(({ value }) => value >= STARTING_SHARE * usual);
  if (first < 0) throw new GodwitError("CONTROL_TRACE_TOO_SHORT", "the trace never saw the link's speed");
  return stages.map(({ ms, value }, i) => ({ ms, value: i < first ? stages[first]!.value : value }));
}

function windowsOf(ticks: readonly TraceTick[]): Stage[] {
  const leastMs = Math.max(WINDOW_MS, ticks.at(-1)!.atMs / MAX_WINDOWS);
  const stages: Stage[] = [];
  let from = { atMs: 0, wireBytes: 0 };
  let [sum, count] = [0, 0];
  for (const tick of ticks) {
    sum += tick.goodputBytesPerSecond;
    if (tick.goodputBytesPerSecond > 0) count++;
    const ms = tick.atMs - from.atMs;
    if (ms < leastMs) continue;
    const wentBytesPerSecond = (Math.max(0, tick.wireBytes - from.wireBytes) * 1000) / ms;
    // A link whose speed is not known yet carries at least what went over it.
    const isUp = wentBytesPerSecond >= STANDING_BYTES_PER_SECOND;
    stages.push({ ms, value: isUp ? Math.max(sum / Math.max(1, count), wentBytesPerSecond) : 0 });
    from = tick;
    [sum, count] = [0, 0];
  }
  return stages;
}

function stageOfRound({ durationMs, wireBytes, goodputBytesPerSecond }: TraceRound): Stage {
  const isPaced = durationMs >= PACED_MS;
  return { ms: durationMs, value: isPaced ? (wireBytes * 1000) / durationMs : goodputBytesPerSecond };
}

/** The stages of the bulk round, then those after it, again and again. */
function linkOf(stages: readonly Stage[], bulkMs: number): Steps {
  const first = firstOf(stages, bulkMs);
  const later = stages.slice(first.length);
  if (!later.some(({ value }) => value > 0)) return cycle(...first);
  if (first.length === 0) return cycle(...later);
  const firstMs = first.reduce((sum, { ms }) => sum + ms, 0);
  return sequence(cycle(...first), firstMs, cycle(...later));
}

function firstOf(stages: readonly Stage[], ms: number): readonly Stage[] {
  let endMs = 0;
  const count = stages.findIndex((stage) => {
    endMs += stage.ms;
    return endMs > ms;
  });
  return count < 0 ? stages : stages.slice(0, count);
}

function meanOf(stages: readonly Stage[], ms: number): number {
  const first = firstOf(stages, ms);
  if (first.length === 0) return stages[0]!.value;
  return first.reduce((sum, one) => sum + one.value * one.ms, 0) / first.reduce((sum, one) => sum + one.ms, 0);
}

function medianOf(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
}
