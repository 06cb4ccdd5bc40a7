/** What a user asks of a migration, and when it is about to be broken. */
import { GodwitError } from "../errors.ts";
import { MAX_DOWNTIME_LIMIT_MS } from "./qemu.ts";

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
/** No migration took less: the state of the devices alone is more. A smaller number is more likely one without its unit. */
const MIN_BYTES = 64 * 1024;
/** A migration that may take longer than a month has no deadline. */
const MAX_DEADLINE_MS = 31 * 24 * 3_600_000;

/**
 * @param asked as a user wrote them: `onStall` is missing unless it was given
 * @param policy which is to keep them
 * @throws GodwitError CONTROL_BAD_LIMIT where a limit makes no sense, or contradicts another
 */
export function assertPromises(asked: Partial<Promises>, policy = "adaptive"): void {
  const { maxDowntimeMs, deadlineMs, maxBytes, onStall } = asked;
  const limits = { "--max-downtime": maxDowntimeMs, "--deadline": deadlineMs, "--max-bytes": maxBytes };
  const given = Object.entries(limits).filter(([, value]) => value !== undefined);
  const bad = (message: string) => new GodwitError("CONTROL_BAD_LIMIT", message, { ...asked, policy });
  for (const [option, value] of given) {
    if (!Number.isFinite(value) || value! <= 0) throw bad(`${option} must be more than 0`);
  }
  const [option = onStall && "--on-stall"] = given.map(([option]) => option);
  if (policy !== "adaptive" && option !== undefined) {
    throw bad(`the policy ${policy} knows no ${option}: only adaptive keeps promises`);
  }
  if (deadlineMs !== undefined && deadlineMs < MIN_DEADLINE_MS) {
    throw bad(`no migration ends within ${deadlineMs} ms, as --deadline asks for`);
  }
  if (maxBytes !== undefined && maxBytes < MIN_BYTES) {
    throw bad(`no migration fits into ${maxBytes} bytes, as --max-bytes asks for`);
  }
  if (deadlineMs !== undefined && deadlineMs > MAX_DEADLINE_MS) throw bad("--deadline is more than a month");
  if (maxDowntimeMs !== undefined && maxDowntimeMs > MAX_DOWNTIME_LIMIT_MS) {
    throw bad(`--max-downtime is more than ${MAX_DOWNTIME_LIMIT_MS / 1000} s, the most that QEMU can be set to`);
  }
  if (maxDowntimeMs !== undefined && deadlineMs !== undefined && maxDowntimeMs >= deadlineMs) {
    throw bad("--max-downtime is not less than --deadline, so it would never count");
  }
  if (onStall === "throttle" && maxDowntimeMs === undefined) {
    throw bad("--on-stall throttle slows the guest down for --max-downtime only, which is missing");
  }
  if (onStall === "abort" && given.length === 0) {
    throw bad("--on-stall abort needs something to break: --max-downtime, --deadline or --max-bytes");
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

/** Which promise of an end is broken already, if one is. */
export function overdueBy(
  { deadlineMs, maxBytes }: Promises,
  { atMs, wireBytes }: Pick<Standing, "atMs" | "wireBytes">,
): "deadline" | "bytes" | undefined {
  if (deadlineMs !== undefined && atMs > deadlineMs) return "deadline";
  return maxBytes !== undefined && wireBytes > maxBytes ? "bytes" : undefined;
}

/** Which promise of an end makes the switch-over due, if one does: later it would be broken. */
export function dueBy(promises: Promises, standing: Standing): "deadline" | "bytes" | undefined {
  const { atMs, downtimeMs, wireBytes, residualWireBytes, goodputBytesPerSecond } = standing;
  const { deadlineMs, maxBytes } = promises;
  if (deadlineMs !== undefined && atMs + downtimeMs * (1 + AHEAD_SHARE) + AHEAD_MS >= deadlineMs) return "deadline";
  const aheadBytes = residualWireBytes * (1 + AHEAD_SHARE) + (goodputBytesPerSecond * AHEAD_MS) / 1000;
  return maxBytes !== undefined && wireBytes + aheadBytes >= maxBytes ? "bytes" : undefined;
}
