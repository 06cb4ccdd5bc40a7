/** The trace of a migration: docs/trace-format.md. Reading is strict, but for a tail that is cut off. */
import { z } from "zod";
import { GodwitError, messageOf } from "../errors.ts";
import { DOWNTIME_PARTS } from "./downtime.ts";
import { ON_STALL } from "./promises.ts";
import { FORMS } from "./samples.ts";

export const TRACE_FORMAT = "godwit-trace";
export const TRACE_VERSION = 1;
/** A line is a few hundred bytes. */
export const MAX_LINE_BYTES = 16 * 1024;
/** Four days at ten ticks a second. */
const MAX_LINES = 4_000_000;

const amount = z.number().nonnegative();
const atMs = amount;
const percent = z.number().min(0).max(100);
const byForm = z.partialRecord(z.enum(FORMS), amount);
const estimate = z.object({ expected: amount, low: amount, high: amount });
const parts = z.object(
  Object.fromEntries(DOWNTIME_PARTS.map((part) => [part, amount])) as Record<
    (typeof DOWNTIME_PARTS)[number],
    typeof amount
  >,
);
const limit = z.object({ downtimeLimitMs: amount, bandwidthBytesPerSecond: amount.nullable() });

const header = z.object({
  type: z.literal("header"),
  format: z.literal(TRACE_FORMAT),
  version: z.literal(TRACE_VERSION),
  /** ISO 8601. */
  startedAt: z.string().max(40),
  program: z.string().max(100),
  qemuVersion: z.string().max(100),
  machineType: z.string().max(100),
  /** As `identityOf` has it (src/qemu/facts.ts); null for a VM that can't be told from others. */
  identity: z.string().max(300).nullable(),
  memoryBytes: amount.positive(),
  cpus: z.number().int().positive(),
  hasSwitchoverBandwidth: z.boolean(),
  /** Null: not measured before the start. */
  roundTripMs: amount.nullable(),
  policy: z.string().max(100),
  promises: z.object({
    maxDowntimeMs: amount.optional(),
    deadlineMs: amount.optional(),
    maxBytes: amount.optional(),
    onStall: z.enum(ON_STALL),
  }),
});

const round = z.object({
  type: z.literal("round"),
  atMs,
  round: z.number().int().nonnegative(),
  durationMs: amount,
  pages: amount,
  distinctPages: amount,
  redirtiedPages: amount,
  leftPages: amount,
  dirtiedPages: amount,
  remainingBytes: amount,
  wireBytes: amount,
  pagesByForm: byForm,
  wireBytesByForm: byForm,
  goodputBytesPerSecond: amount,
  roundTripMs: amount.nullable(),
  restoreBytesPerSecond: amount.nullable(),
  throttlePercent: percent,
  ageMs: amount.optional(),
});

const tick = z.object({
  type: z.literal("tick"),
  atMs,
  round: z.number().int().nonnegative(),
  remainingBytes: amount,
  dirtyRatePagesPerSecond: amount,
  qemuBytesPerSecond: amount,
  goodputBytesPerSecond: amount,
  wireBytes: amount,
  throttlePercent: percent,
  ageMs: amount.optional(),
});

const decided = { type: z.literal("decision"), atMs, reason: z.string().max(2000) };
const predictedMs = estimate.optional();
const decision = z.discriminatedUnion("kind", [
  z.object({ ...decided, kind: z.literal("go-on") }),
  z.object({ ...decided, kind: z.literal("limit"), limit, predictedMs }),
  z.object({ ...decided, kind: z.literal("wait"), limit, predictedMs, untilMs: amount }),
  z.object({ ...decided, kind: z.literal("throttle"), percent }),
  z.object({ ...decided, kind: z.literal("switch"), predictedMs }),
  z.object({ ...decided, kind: z.literal("abort") }),
]);

const outcome = z.object({
  type: z.literal("outcome"),
  /** As in the summary (docs/commands.md). */
  status: z.enum(["completed", "failed", "refused", "cancelled", "in-doubt"]),
  totalMs: amount,
  wireBytes: amount,
  downtimeMs: amount.nullable(),
  downtimeParts: parts.nullable(),
  /** What the downtime was last predicted to be, before the guest was stopped. */
  predictedMs: estimate.nullable(),
  /** What the total time was predicted to be, the first time. */
  predictedTotalMs: estimate.extend({ atMs }).nullable().optional(),
  /** Sent from the last sync with the guest running on. */
  residualBytes: amount.nullable().optional(),
  /** The least seen. */
  roundTripMs: amount.nullable().optional(),
});

export type TraceHeader = z.infer<typeof header>;
export type TraceRound = z.infer<typeof round>;
export type TraceTick = z.infer<typeof tick>;
export type TraceDecision = z.infer<typeof decision>;
export type TraceOutcome = z.infer<typeof outcome>;
export type TraceRecord = TraceHeader | TraceRound | TraceTick | TraceDecision | TraceOutcome;

const SCHEMAS = { header, round, tick, decision, outcome } as const;

export interface Trace {
  header: TraceHeader;
  rounds: TraceRound[];
  ticks: TraceTick[];
  decisions: TraceDecision[];
  /** Null where the trace ends before. */
  outcome: TraceOutcome | null;
  /** Why the trace is known to be cut off; null if it is whole. */
  cutOff: string | null;
}

/** The line of a record, with its line feed. */
export function traceLine(record: TraceRecord): string {
  return `${JSON.stringify(record)}\n`;
}

/** Takes the lines of a trace one after the other. */
export class TraceReader {
  #trace: Trace | undefined;
  #lines = 0;
  /** A line that could not be read: forgiven if none follows, as a killed process leaves one. */
  #broken: string | undefined;
  #lastMs = 0;

  /**
   * @param line without its line feed
   * @throws GodwitError CONTROL_TRACE_NEWER, CONTROL_TRACE_FORMAT, CONTROL_TRACE_LINE, CONTROL_TRACE_TOO_LONG
   */
  push(line: string): void {
    this.#lines++;
    if (this.#lines > MAX_LINES || line.length > MAX_LINE_BYTES) throw this.#tooLong();
    if (this.#broken !== undefined) throw this.#badLine(this.#lines - 1, this.#broken);
    if (this.#trace?.outcome) throw this.#badLine(this.#lines, "it follows the outcome, which is the last");
    let value: unknown;
    try {
      value = JSON.parse(line);
    } catch (error) {
      if (this.#trace === undefined) throw notATrace();
      this.#broken = messageOf(error);
      return;
    }
    if (this.#trace === undefined) this.#begin(value);
    else this.#add(this.#trace, value);
  }

  /** @throws GodwitError CONTROL_TRACE_FORMAT for a trace without a header */
  finish(): Trace {
    if (this.#trace === undefined) throw notATrace();
    const cutOff = this.#broken !== undefined ? `line ${this.#lines} is cut off` : "the outcome is missing";
    return { ...this.#trace, cutOff: this.#trace.outcome === null ? cutOff : null };
  }

  #begin(value: unknown): void {
    const { format, version } = (value ?? {}) as { format?: unknown; version?: unknown };
    if (format !== TRACE_FORMAT) throw notATrace();
    if (typeof version === "number" && version > TRACE_VERSION) {
      const message = `the trace is of version ${version}, and this godwit reads up to ${TRACE_VERSION}`;
      throw new GodwitError("CONTROL_TRACE_NEWER", message, { version });
    }
    const parsed = header.safeParse(value);
    if (!parsed.success) throw this.#badLine(1, issueOf(parsed.error));
    this.#trace = { header: parsed.data, rounds: [], ticks: [], decisions: [], outcome: null, cutOff: null };
  }

  #add(trace: Trace, value: unknown): void {
    const type = (value as { type?: unknown } | null)?.type;
    const schema =
      typeof type === "string" && Object.hasOwn(SCHEMAS, type) ? SCHEMAS[type as keyof typeof SCHEMAS] : null;
    if (schema === null || schema === header)
      throw this.#badLine(this.#lines, `no record of the type ${JSON.stringify(type)}`);
    const parsed = schema.safeParse(value);
    if (!parsed.success) throw this.#badLine(this.#lines, issueOf(parsed.error));
    const record = parsed.data as Exclude<TraceRecord, TraceHeader>;
    if (record.type === "outcome") {
      trace.outcome = record;
      return;
    }
    if (record.atMs < this.#lastMs) throw this.#badLine(this.#lines, "its time is before that of the line before");
    this.#lastMs = record.atMs;
    if (record.type === "round") trace.rounds.push(record);
    else if (record.type === "tick") trace.ticks.push(record);
    else trace.decisions.push(record);
  }

  #badLine(line: number, why: string): GodwitError {
    return new GodwitError("CONTROL_TRACE_LINE", `line ${line} of the trace is wrong: ${why}`, { line });
  }

  #tooLong(): GodwitError {
    const message = `line ${this.#lines} of the trace is beyond what a trace may have: ${MAX_LINES} lines of ${MAX_LINE_BYTES} characters`;
    return new GodwitError("CONTROL_TRACE_TOO_LONG", message, { line: this.#lines });
  }
}

function notATrace(): GodwitError {
  return new GodwitError("CONTROL_TRACE_FORMAT", `it is no trace: the first line is no header of ${TRACE_FORMAT}`);
}

function issueOf(error: z.ZodError): string {
  const { path, message } = error.issues[0]!;
  return path.length > 0 ? `${path.join(".")}: ${message}` : message;
}
