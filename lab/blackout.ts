import type { ConsoleLine } from "./console.ts";

/** The guest prints a tick this often (guest/tick.c, PERIOD_NS). */
export const TICK_PERIOD_MS = 10;
/** How far around the switch-over from one console to the other a gap counts. */
const VICINITY_MS = 1000;

/**
 * How long the guest was not seen to run when it moved: the largest gap between ticks of both consoles around the
 * switch-over, less the tick's period.
 *
 * @throws Error when one of the consoles has no ticks
 */
export function blackoutMs(source: readonly ConsoleLine[], destination: readonly ConsoleLine[]): number {
  const last = source.at(-1);
  const first = destination[0];
  if (!last || !first) throw new Error(`the ${last ? "destination" : "source"} has not ticked`);
  const [fromMs, toMs] = [last.atMs - VICINITY_MS, first.atMs + VICINITY_MS];
  const times = [...source, ...destination].map(({ atMs }) => atMs).sort((a, b) => a - b);
  const near = times.filter((atMs) => atMs >= fromMs && atMs <= toMs);
  let largestMs = 0;
  for (let i = 1; i < near.length; i++) largestMs = Math.max(largestMs, near[i]! - near[i - 1]!);
  return Math.max(0, largestMs - TICK_PERIOD_MS);
}
