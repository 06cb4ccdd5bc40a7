/** How fast pages go out, by QEMU and over the link. */
import { RAW_BYTES_PER_PAGE } from "./guest-memory.ts";
import type { Scenario, Stretch } from "./scenario.ts";

/** QEMU writes its stream no faster (design: measured with stock QEMU). */
export const QEMU_BYTES_PER_SECOND = 1.1e9;
/** QEMU looks at zero pages no faster. */
const QEMU_PAGES_PER_SECOND = 2.5e6;
/** Time goes on, whatever rounding makes of the next event. */
export const LEAST_MS = 1e-6;
/** A residual that takes more steps of the link than this, as of a trace with absurd numbers, is sent at their mean pace. */
const MAX_LINK_STEPS = 10_000;

/** Pages per second that go out. */
export function speedOf(
  { wireBytesPerPage, rawBytesPerPage }: Stretch,
  linkBytesPerSecond: number,
  maxRawBytesPerSecond = Number.POSITIVE_INFINITY,
): number {
  const raw = Math.min(QEMU_BYTES_PER_SECOND, maxRawBytesPerSecond) / rawBytesPerPage;
  return Math.min(linkBytesPerSecond / wireBytesPerPage, raw, QEMU_PAGES_PER_SECOND);
}

/**
 * When the VM would run at the destination if the guest were stopped now.
 *
 * @param nowMs in ms since the command, as is what is returned
 * @param syncMs what reading the bitmap takes
 */
export function runningAgainMs(
  { link, deviceBytes, deviceMs, transferMs, loadMs, handoffMs, resumeMs }: Scenario,
  { pages, wireBytes }: { pages: number; wireBytes: number },
  nowMs: number,
  syncMs: number,
): number {
  const bytes = wireBytes + deviceBytes;
  let left = bytes;
  const qemuBytesPerMs = pages > 0 ? ((QEMU_BYTES_PER_SECOND / 1000) * left) / (pages * RAW_BYTES_PER_PAGE) : left;
  const fromMs = nowMs + syncMs;
  let atMs = fromMs;
  for (let step = 0; left > 0 && step < MAX_LINK_STEPS; step++) {
    const { value, untilMs } = link(atMs);
    const bytesPerMs = Math.min(value / 1000, qemuBytesPerMs);
    const stretchMs = Math.max(untilMs - atMs, LEAST_MS);
    const ms = Math.min(left / bytesPerMs, stretchMs);
    if (left / bytesPerMs <= stretchMs) left = 0;
    else left -= bytesPerMs * ms;
    atMs += ms;
  }
  if (left > 0) atMs += (left * (atMs - fromMs)) / (bytes - left);
  return atMs + deviceMs + transferMs + loadMs + handoffMs + resumeMs;
}
