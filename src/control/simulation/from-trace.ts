/** A scenario like the one that a trace was recorded of, for other policies to be tried on. */

import { GodwitError } from "../../errors.ts";
import { DEVICE_BYTES } from "../downtime.ts";
import { PAGE_BYTES } from "../samples.ts";
import type { Trace, TraceRound, TraceTick } from "../trace.ts";
import { speedOf } from "./engine.ts";
import { RAW_BYTES_PER_PAGE } from "./guest-memory.ts";
import type { Scenario, Stretch } from "./scenario.ts";
import { cycle, type Steps, sequence } from "./steps.ts";
import { loadOf } from "./trace-load.ts";

/** A zero page in QEMU's stream (migration/ram.c, save_zero_page_to_file). */
const RAW_BYTES_PER_ZERO_PAGE = 9;
/** Of the bulk round every slice has its share of each form, as where in the memory they lay is not in the trace. */
const BULK_SLICES = 32;
/** What went over the link is measured over at least so long, and at most so many times. */
const WINDOW_MS = 250;
const MAX_WINDOWS = 2000;
/** In shorter rounds QEMU looks for dirty pages more than it sends: the link could have carried more. */
const PACED_MS = 200;
const MAX_GAIN = 100;
const GAIN_STEPS = 30;
/** Parts of the downtime where the trace has none. */
const USUAL = { transferMs: 0, loadMs: 12, handoffMs: 0, resumeMs: 20 };
const USUAL_ROUND_TRIP_MS = 0.5;
const DEVICE_MS = 10;

/**
 * A load that dirties in each of the trace's rounds as many pages as were dirtied then, over a link that carries as much as
 * went over it then. After the trace's end the time after the bulk round comes again and again.
 *
 * @throws GodwitError CONTROL_TRACE_TOO_SHORT without a bulk round: nothing is then known about the load
 */
export function scenarioOfTrace(name: string, trace: Trace): Scenario {
  const rounds = trace.rounds.filter(({ durationMs }) => durationMs > 0);
  const [bulk, ...later] = rounds;
  if (bulk === undefined || bulk.round !== 0 || bulk.leftPages > bulk.pages) {
    throw new GodwitError(
      "CONTROL_TRACE_TOO_SHORT",
      "the trace ends before the first round does, so nothing is known about the load",
    );
  }
  const stretches = stretchesOf(bulk);
  const memoryPages = stretches.reduce((sum, { pages }) => sum + pages, 0);
  const sent = later.reduce((sum, round) => sum + round.pages, 0);
  const wireBytes = later.reduce((sum, round) => sum + round.wireBytes, 0);
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
      ...loadOf(rounds, memoryPages, sent > 0 ? Math.max(1, wireBytes / sent) : costOfLiterals(bulk)),
    },
    link: linkOf(trace, bulk, stretches),
    roundTripMs,
    deviceBytes: DEVICE_BYTES,
    deviceMs: DEVICE_MS,
    transferMs: parts.transferMs,
    loadMs: parts.loadMs,
    handoffMs: parts.handoffMs,
    resumeMs: parts.resumeMs,
    hasSwitchoverBandwidth: trace.header.hasSwitchoverBandwidth,
    horizonMs: 900_000 + 12 * bulk.durationMs,
    hindsightMs: 120_000 + 2 * bulk.durationMs,
  };
}

/** The bulk round, form by form, in slices. */
function stretchesOf({ pagesByForm, wireBytesByForm }: TraceRound): Stretch[] {
  const forms = (Object.keys(pagesByForm) as (keyof typeof pagesByForm)[])
    .map((form) => {
      const pages = pagesByForm[form] ?? 0;
      return {
        form,
        pages: pages / BULK_SLICES,
        wireBytesPerPage: Math.max(0.01, (wireBytesByForm[form] ?? 0) / Math.max(1, pages)),
        rawBytesPerPage: form === "zero" ? RAW_BYTES_PER_ZERO_PAGE : RAW_BYTES_PER_PAGE,
      };
    })
    .filter(({ pages }) => pages > 0);
  if (forms.length === 0) throw new GodwitError("CONTROL_TRACE_TOO_SHORT", "the trace's first round sent no page");
  return Array.from({ length: BULK_SLICES }, () => forms).flat();
}

function costOfLiterals({ pagesByForm, wireBytesByForm }: TraceRound): number {
  const { literal = 0 } = pagesByForm;
  return literal > 0 ? Math.max(1, (wireBytesByForm.literal ?? 0) / literal) : PAGE_BYTES;
}

/** As much as went over it: also where not the link but what feeds it was the bottleneck. */
function linkOf({ ticks, rounds }: Trace, bulk: TraceRound, stretches: readonly Stretch[]): Steps {
  const stages = ticks.length > 2 ? windowsOf(ticks, rounds) : rounds.map(stageOfRound);
  const known = stages.filter(({ value }) => Number.isFinite(value));
  if (!known.some(({ value }) => value > 0)) {
    throw new GodwitError("CONTROL_TRACE_TOO_SHORT", "the trace never saw the link's speed");
  }
  let atMs = 0;
  const later = known.filter(({ ms }) => {
    atMs += ms;
    return atMs > bulk.durationMs;
  });
  const faster = gainOf(bulk, stretches);
  const first = known.slice(0, known.length - later.length).map(({ ms, value }) => ({ ms, value: value * faster }));
  if (!later.some(({ value }) => value > 0)) return cycle(...(first.length > 0 ? first : known));
  if (first.length === 0) return cycle(...later);
  const firstMs = first.reduce((sum, { ms }) => sum + ms, 0);
  return sequence(cycle(...first), firstMs, cycle(...later));
}

/**
 * How much faster than what went over it the link has to be in the bulk round, for pages that need no link to take their time in
 * it too.
 */
function gainOf({ durationMs, wireBytes }: TraceRound, stretches: readonly Stretch[]): number {
  const meanBytesPerSecond = (wireBytes * 1000) / durationMs;
  let [low, high] = [1, MAX_GAIN];
  for (let step = 0; step < GAIN_STEPS; step++) {
    const middle = Math.sqrt(low * high);
    const ms = stretches.reduce((sum, one) => sum + one.pages / speedOf(one, meanBytesPerSecond * middle), 0) * 1000;
    if (ms > durationMs) low = middle;
    else high = middle;
  }
  return low;
}

interface Stage {
  ms: number;
  value: number;
}

function windowsOf(ticks: readonly TraceTick[], rounds: readonly TraceRound[]): Stage[] {
  const endMs = ticks.at(-1)!.atMs;
  const leastMs = Math.max(WINDOW_MS, endMs / MAX_WINDOWS);
  const isPaced = new Map(rounds.map(({ round, durationMs }) => [round, durationMs >= PACED_MS]));
  const stages: Stage[] = [];
  let from = { atMs: 0, wireBytes: 0 };
  let linkBytesPerSecond = 0;
  let wasPaced = true;
  for (const tick of ticks) {
    linkBytesPerSecond = Math.max(linkBytesPerSecond, tick.goodputBytesPerSecond);
    wasPaced &&= isPaced.get(tick.round) ?? true;
    const ms = tick.atMs - from.atMs;
    if (ms < leastMs) continue;
    const wentBytesPerSecond = (Math.max(0, tick.wireBytes - from.wireBytes) * 1000) / ms;
    stages.push({ ms, value: wasPaced ? wentBytesPerSecond : linkBytesPerSecond });
    from = tick;
    linkBytesPerSecond = 0;
    wasPaced = true;
  }
  return stages;
}

function stageOfRound({ durationMs, wireBytes, goodputBytesPerSecond }: TraceRound): Stage {
  const isPaced = durationMs >= PACED_MS;
  return { ms: durationMs, value: isPaced ? (wireBytes * 1000) / durationMs : goodputBytesPerSecond };
}
