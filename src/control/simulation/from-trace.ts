/** A scenario like the one that a trace was recorded of, for other policies to be tried on. */

import { GodwitError } from "../../errors.ts";
import { DEVICE_BYTES } from "../downtime.ts";
import { PAGE_BYTES } from "../samples.ts";
import type { Trace, TraceRound } from "../trace.ts";
import { RAW_BYTES_PER_PAGE } from "./guest-memory.ts";
import type { Scenario, Stretch } from "./scenario.ts";
import { constant, cycle, type Steps, sequence } from "./steps.ts";

/** A zero page in QEMU's stream (migration/ram.c, save_zero_page_to_file). */
const RAW_BYTES_PER_ZERO_PAGE = 9;
/** Stretches of time over which the link is taken as constant, at most. */
const MAX_LINK_STEPS = 2000;
/** Working sets that are tried, as multiples of the most that was dirtied in a round. */
const WORKING_SETS = Array.from({ length: 40 }, (_, i) => 1.02 * 1.1 ** i);
/** Parts of the downtime where the trace has none. */
const USUAL = { loadMs: 12, resumeMs: 20, deviceMs: 10, roundTripMs: 0.5 };
/** A round that QEMU cut short shows less than was dirtied. */
const WHOLE_SHARE = 0.25;

/**
 * A load that dirties in each of the trace's rounds as many pages as were dirtied then, over a link as fast as it was then.
 * After the trace's end the rounds after the bulk round come again and again.
 *
 * @throws GodwitError CONTROL_TRACE_TOO_SHORT with less than two rounds: nothing is then known about the load
 */
export function scenarioOfTrace(name: string, trace: Trace): Scenario {
  const rounds = trace.rounds.filter(isWhole);
  const [bulk] = rounds;
  if (bulk === undefined || bulk.round !== 0 || rounds.length < 2) {
    throw new GodwitError(
      "CONTROL_TRACE_TOO_SHORT",
      "the trace has less than two rounds, so nothing is known about the load",
    );
  }
  const stretches = stretchesOf(bulk);
  const memoryPages = Math.max(
    1,
    stretches.reduce((sum, { pages }) => sum + pages, 0),
  );
  const { pages, writesPerSecond } = workingSetOf(rounds, memoryPages);
  const later = rounds.slice(1);
  const sent = later.reduce((sum, round) => sum + round.pages, 0);
  const wireBytes = later.reduce((sum, round) => sum + round.wireBytes, 0);
  const parts = trace.outcome?.downtimeParts;
  return {
    name,
    workload: {
      name,
      memoryBytes: memoryPages * PAGE_BYTES,
      stretches,
      classes: [
        {
          pages,
          writesPerSecond,
          pattern: "random",
          form: "literal",
          wireBytesPerPage: sent > 0 ? Math.max(1, wireBytes / sent) : PAGE_BYTES,
        },
      ],
      activity: activityOf(rounds, pages, writesPerSecond),
    },
    link: linkOf(trace),
    roundTripMs: trace.header.roundTripMs ?? USUAL.roundTripMs,
    deviceBytes: DEVICE_BYTES,
    deviceMs: USUAL.deviceMs,
    loadMs: parts?.loadMs ?? USUAL.loadMs,
    resumeMs: parts?.resumeMs ?? USUAL.resumeMs,
    hasSwitchoverBandwidth: trace.header.hasSwitchoverBandwidth,
    horizonMs: 900_000 + 12 * bulk.durationMs,
    hindsightMs: 120_000 + 2 * bulk.durationMs,
  };
}

function isWhole({ leftPages, pages, durationMs }: TraceRound): boolean {
  return durationMs > 0 && leftPages <= WHOLE_SHARE * (leftPages + pages);
}

/** The bulk round, form by form. */
function stretchesOf({ pagesByForm, wireBytesByForm }: TraceRound): Stretch[] {
  return (Object.keys(pagesByForm) as (keyof typeof pagesByForm)[])
    .map((form) => {
      const pages = pagesByForm[form] ?? 0;
      const wireBytesPerPage = Math.max(0.01, (wireBytesByForm[form] ?? 0) / Math.max(1, pages));
      return {
        form,
        pages,
        wireBytesPerPage,
        rawBytesPerPage: form === "zero" ? RAW_BYTES_PER_ZERO_PAGE : RAW_BYTES_PER_PAGE,
      };
    })
    .filter(({ pages }) => pages > 0);
}

/** The working set for which the rounds are most alike in how fast they write to it. */
function workingSetOf(rounds: readonly TraceRound[], memoryPages: number): { pages: number; writesPerSecond: number } {
  const most = Math.max(1, ...rounds.map((round) => round.dirtiedPages));
  let best = { pages: most, writesPerSecond: 1, spread: Number.POSITIVE_INFINITY };
  for (const factor of WORKING_SETS) {
    const pages = Math.min(memoryPages, most * factor);
    if (pages <= most) continue;
    const logs = rounds.map((round) => Math.log(Math.max(1e-9, writesIn(round, pages))));
    const mean = logs.reduce((sum, log) => sum + log, 0) / logs.length;
    const spread = logs.reduce((sum, log) => sum + (log - mean) ** 2, 0);
    if (spread < best.spread) best = { pages, writesPerSecond: Math.exp(mean), spread };
  }
  return best;
}

/** Writes per second to a working set of `pages` that dirty as many of them as the round did. */
function writesIn({ dirtiedPages, durationMs, throttlePercent }: TraceRound, pages: number): number {
  const share = Math.min(0.9999, dirtiedPages / pages);
  const guestMs = durationMs * Math.max(0.01, 1 - throttlePercent / 100);
  return (-Math.log1p(-share) * pages * 1000) / guestMs;
}

function activityOf(rounds: readonly TraceRound[], pages: number, writesPerSecond: number): Steps {
  const stages = rounds.map((round) => ({ ms: round.durationMs, value: writesIn(round, pages) / writesPerSecond }));
  const [bulk, ...later] = stages;
  return sequence(constant(bulk!.value), bulk!.ms, cycle(...later));
}

/** As fast as the ticks say; rounds only where there are no ticks. */
function linkOf({ ticks, rounds }: Trace): Steps {
  const samples = ticks.length > 1 ? ticks : rounds;
  const every = Math.ceil(samples.length / MAX_LINK_STEPS);
  const kept = samples.filter((_, i) => i % every === 0);
  const stages = kept.map((sample, i) => ({
    ms: Math.max(1, sample.atMs - (kept[i - 1]?.atMs ?? 0)),
    value: sample.goodputBytesPerSecond,
  }));
  const known = stages.filter(({ value }) => value > 0);
  if (known.length === 0) throw new GodwitError("CONTROL_TRACE_TOO_SHORT", "the trace never saw the link's speed");
  return cycle(...known);
}
