/** What a user asks of a migration, and when it is about to be broken. */
import { GodwitError } from "../errors.ts";

/** What gives when a promise can't be kept: the downtime; the guest's speed; the migration. */
export const ON_STALL = ["switch", "throttle", "abort"] as const;
export type OnStall = (typeof ON_STALL)[number];

/** Undefined: not asked for. */
export interface Promises {
  maxDowntimeMs?: number | undefined;
  /** From the start of the migration to the VM running at the destination. */
  deadlineMs?: number | undefined;
  /** On the wire. */
  maxBytes?: number | undefined;
  onStall: OnStall;
}

/** No migration took less; a smaller number is more likely one in another unit. */
const MIN_DEADLINE_MS = 100;

/**
 * @throws GodwitError CONTROL_BAD_LIMIT where a limit makes no sense, or contradicts another
 */
export function assertPromises({ maxDowntimeMs, deadlineMs, maxBytes }: Promises): void {
  const limits = { "--max-downtime": maxDowntimeMs, "--deadline": deadlineMs, "--max-bytes": maxBytes };
  for (const [option, value] of Object.entries(limits)) {
    if (value === undefined || (Number.isFinite(value) && value > 0)) continue;
    throw new GodwitError("CONTROL_BAD_LIMIT", `${option} must be more than 0`, { option, value });
  }
  if (deadlineMs !== undefined && deadlineMs < MIN_DEADLINE_MS) {
    const message = `no migration ends within ${deadlineMs} ms, as --deadline asks for`;
    throw new GodwitError("CONTROL_BAD_LIMIT", message, { deadlineMs });
  }
  if (maxDowntimeMs !== undefined && deadlineMs !== undefined && maxDowntimeMs >= deadlineMs) {
    const message = "--max-downtime is not less than --deadline, so it would never count";
    throw new GodwitError("CONTROL_BAD_LIMIT", message, { maxDowntimeMs, deadlineMs });
  }
}

/** Where a migration stands against its promises. */
export interface Standing {
  atMs: number;
  wireBytes: number;
  /** What a switch-over now would cost. */
  downtimeMs: number;
  residualWireBytes: number;
  goodputBytesPerSecond: number;
}

/** Decided so much ahead, as QEMU looks every 50 ms, and a sync of a large VM takes as long. */
const AHEAD_MS = 250;
/** And so much of what is still to come, as it is only predicted. */
const AHEAD_SHARE = 0.1;

/** Which promise of an end makes the switch-over due, if one does: later it would be broken. */
export function dueBy(promises: Promises, standing: Standing): "deadline" | "bytes" | undefined {
  const { atMs, downtimeMs, wireBytes, residualWireBytes, goodputBytesPerSecond } = standing;
  const { deadlineMs, maxBytes } = promises;
  if (deadlineMs !== undefined && atMs + downtimeMs * (1 + AHEAD_SHARE) + AHEAD_MS >= deadlineMs) return "deadline";
  const aheadBytes = residualWireBytes * (1 + AHEAD_SHARE) + (goodputBytesPerSecond * AHEAD_MS) / 1000;
  return maxBytes !== undefined && wireBytes + aheadBytes >= maxBytes ? "bytes" : undefined;
}
