/** The link that a trace shows: as fast as its goodput was, stretch by stretch. */
import { GodwitError } from "../../errors.ts";
import { medianOf } from "../arithmetic.ts";
import type { Trace, TraceRound, TraceTick } from "../trace.ts";
import { cycle, type Steps, sequence } from "./steps.ts";

/** The link's speed is taken over at least so long, and at most so many times. */
const WINDOW_MS = 250;
const MAX_WINDOWS = 2000;
/** The first looks at the link, of less than this share of its usual speed, are not of the link but of a migration that begins. */
const STARTING_SHARE = 0.5;
/** Heartbeats go over a link that stands still, as far as it is known, but no pages. */
const STANDING_BYTES_PER_SECOND = 1024;
/** Shorter rounds tell of the pace only where there are no longer ones: QEMU also looks for dirty pages, and not evenly. */
const PACED_MS = 200;
const LEAST_PACED_MS = 50;
/** A round that used less of the link than this was held up by what feeds it. */
export const LINK_SHARE = 0.85;

export interface Stage {
  ms: number;
  /** Of the link, in bytes per second. */
  value: number;
}

/**
 * The link from the command on, in turn.
 *
 * @throws GodwitError CONTROL_TRACE_TOO_SHORT where nothing tells of it
 */
export function stagesOf({ ticks, rounds }: Trace): Stage[] {
  const stages = ticks.length > 2 ? windowsOf(ticks) : rounds.map(stageOfRound);
  const usual = medianOf(stages.map(({ value }) => value).filter((value) => value > 0)) ?? 0;
  const first = stages.findIndex(({ value }) => value >= STARTING_SHARE * usual);
  if (first < 0) throw new GodwitError("CONTROL_TRACE_TOO_SHORT", "the trace never saw the link's speed");
  const known = stages.map(({ ms, value }, i) => ({ ms, value: i < first ? stages[first]!.value : value }));
  const share = carriedShare(known, rounds);
  return known.map(({ ms, value }) => ({ ms, value: value * share }));
}

/** What went over the link in the rounds that it held up, by what its goodput would have carried: a measured goodput is that of the best moments. */
function carriedShare(stages: readonly Stage[], rounds: readonly TraceRound[]): number {
  const held = pacedOf(rounds).filter((round) => !isHeldByEnds(round));
  const carried = held.reduce((sum, { wireBytes }) => sum + wireBytes, 0);
  const carriable = held.reduce((sum, { atMs, durationMs }) => sum + bytesIn(stages, atMs - durationMs, atMs), 0);
  return carriable > 0 ? Math.min(1, Math.max(LINK_SHARE, carried / carriable)) : 1;
}

/** The rounds after the bulk round that tell of the pace. */
export function pacedOf(rounds: readonly TraceRound[]): readonly TraceRound[] {
  const from = (ms: number) => rounds.filter(({ round, durationMs }) => round > 0 && durationMs >= ms);
  const long = from(PACED_MS);
  return long.length > 0 ? long : from(LEAST_PACED_MS);
}

/** Whether the link could have carried more than it did. */
export function isHeldByEnds({ wireBytes, durationMs, goodputBytesPerSecond }: TraceRound): boolean {
  return (wireBytes * 1000) / durationMs < LINK_SHARE * goodputBytesPerSecond;
}

/** Likewise of all of them together: one round more or less is chance. */
export function areHeldByEnds(rounds: readonly TraceRound[]): boolean {
  const carried = rounds.reduce((sum, { wireBytes }) => sum + wireBytes, 0);
  const carriable = rounds.reduce((sum, one) => sum + (one.goodputBytesPerSecond * one.durationMs) / 1000, 0);
  return carried < LINK_SHARE * carriable;
}

function bytesIn(stages: readonly Stage[], fromMs: number, toMs: number): number {
  let bytes = 0;
  let startMs = 0;
  for (const { ms, value } of stages) {
    const withinMs = Math.min(toMs, startMs + ms) - Math.max(fromMs, startMs);
    if (withinMs > 0) bytes += (value * withinMs) / 1000;
    startMs += ms;
  }
  return bytes;
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
  const isPaced = durationMs >= LEAST_PACED_MS;
  return { ms: durationMs, value: isPaced ? (wireBytes * 1000) / durationMs : goodputBytesPerSecond };
}

/** The stages until the bulk round's end, then those after it, again and again. */
export function linkOf(stages: readonly Stage[], bulkEndMs: number): Steps {
  const first = firstOf(stages, bulkEndMs);
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

/** Its mean speed over the first `ms`. */
export function meanOf(stages: readonly Stage[], ms: number): number {
  const first = firstOf(stages, ms);
  if (first.length === 0) return stages[0]!.value;
  return first.reduce((sum, one) => sum + one.value * one.ms, 0) / first.reduce((sum, one) => sum + one.ms, 0);
}
