/** The lines of a session's journal: docs/journal-format.md. Pure. */
import { crc32 } from "node:zlib";
import { z } from "zod";
import { GodwitError } from "../errors.ts";

export const JOURNAL_FORMAT = "godwit-journal";
export const JOURNAL_VERSION = 1;
/** Bytes of line feeds that a journal is made with. */
export const JOURNAL_ROOM_BYTES = 16 * 1024;
export const MAX_JOURNAL_BYTES = 64 * 1024;
const MAX_LINE_BYTES = 8 * 1024;
const CHECKSUM_DIGITS = 8;
const LINE_FEED = 0x0a;

const atMs = z.number().nonnegative();
const text = z.string().max(4096);

const settingsSchema = z.object({
  capabilities: z.record(z.string().max(64), z.boolean()),
  parameters: z.record(z.string().max(64), z.union([z.number(), z.boolean()])),
});

const headerSchema = z.object({
  format: z.literal(JOURNAL_FORMAT),
  version: z.literal(JOURNAL_VERSION),
  session: z.string().regex(/^[0-9a-f]{32}$/),
  role: z.enum(["source", "destination", "settings"]),
  atMs,
  program: text,
  peer: text.nullable(),
  vm: z.object({ name: text.nullable(), uuid: text }),
  qmpPath: text,
  qemu: z.object({ threadId: z.int(), startTicks: text, boot: text }).nullable(),
  guestRuns: z.boolean(),
  secret: z
    .string()
    .regex(/^[0-9a-f]{64}$/)
    .nullable(),
});

const stepSchema = z.object({
  atMs,
  state: z.enum(["streaming", "loaded", "committed", "running", "aborted", "lost"]),
  run: z.boolean().optional(),
  settled: z.boolean().optional(),
});

const settingsRecordSchema = z.object({ atMs, settings: settingsSchema.nullable() });

/** Whose it is: read whatever the version, so that this much is known of a journal that is newer. */
const subjectSchema = headerSchema.pick({ peer: true, vm: true, qmpPath: true, qemu: true });

export type JournalHeader = z.infer<typeof headerSchema>;
export type JournalSubject = z.infer<typeof subjectSchema>;
export type JournalRole = JournalHeader["role"];
/** Settings of a QEMU, by its own names. */
export type QemuSettings = z.infer<typeof settingsSchema>;
export type JournalStep = z.infer<typeof stepSchema>;
export type JournalRecord = JournalHeader | JournalStep | z.infer<typeof settingsRecordSchema>;

/** What a journal says, all records together. */
export interface JournalContent {
  readonly header: JournalHeader;
  /** The last state; null if the first was never noted, so that nothing was done. */
  readonly state: JournalStep["state"] | null;
  /** What COMMIT says or said; as it was at the beginning unless it was noted otherwise. */
  readonly run: boolean;
  readonly isSettled: boolean;
  /** Since when it is in this state, by the host's clock. */
  readonly sinceMs: number;
  /** Settings of QEMU that are to be put back; null if there are none. */
  readonly settings: QemuSettings | null;
}

/** The bytes of a record, its line feed included. */
export function encodeRecord(record: JournalRecord): Buffer {
  const json = JSON.stringify(record);
  const line = Buffer.from(`${checksumOf(Buffer.from(json))} ${json}\n`);
  if (line.length > MAX_LINE_BYTES)
    throw new GodwitError("STORE_JOURNAL_TOO_LONG", "a record of the journal is too long");
  return line;
}

/**
 * Reads a journal.
 *
 * @returns what it says, and where the next record is to be written
 * @throws GodwitError STORE_JOURNAL_DAMAGED, STORE_JOURNAL_NEWER
 */
export function parseJournal(bytes: Buffer, path: string): { content: JournalContent; endOffset: number } {
  if (bytes.length > MAX_JOURNAL_BYTES) throw damaged(path, "it is too long");
  const records: unknown[] = [];
  let endOffset = 0;
  let hasWrongLine = false;
  for (let from = 0; from < bytes.length; ) {
    const at = bytes.indexOf(LINE_FEED, from);
    const to = at < 0 ? bytes.length : at;
    if (to > from) {
      const line = bytes.subarray(from, to);
      const record = at < 0 ? undefined : parseLine(line);
      if (record === undefined && at >= 0 && isWhole(line))
        throw damaged(path, "a line is wrong that was written whole");
      if (record === undefined) hasWrongLine = true;
      else if (hasWrongLine) throw damaged(path, "a line in its middle is wrong");
      else {
        records.push(record);
        endOffset = to + 1;
      }
    }
    from = to + 1;
  }
  return { content: contentOf(records, path), endOffset };
}

/** Whose a journal is that `parseJournal` refuses; null where its first line does not tell. */
export function subjectOf(bytes: Buffer): JournalSubject | null {
  const subject = subjectSchema.safeParse(parseLine(bytes.subarray(0, Math.max(0, bytes.indexOf(LINE_FEED)))));
  return subject.success ? subject.data : null;
}

function parseLine(line: Buffer): unknown {
  if (line.length > MAX_LINE_BYTES || line[CHECKSUM_DIGITS] !== 0x20) return undefined;
  const json = line.subarray(CHECKSUM_DIGITS + 1);
  if (line.toString("latin1", 0, CHECKSUM_DIGITS) !== checksumOf(json)) return undefined;
  try {
    return JSON.parse(json.toString());
  } catch {
    return undefined;
  }
}

/**
 * Whether a line is no piece of a record, as a write that was cut off leaves one: what it says was on the disk, and may have been acted
 * upon. The braces of the records that follow the header are those of JSON, never in a text.
 */
function isWhole(line: Buffer): boolean {
  const text = line.toString("latin1");
  return text.endsWith("}") && text.split("{").length === text.split("}").length;
}

function contentOf([first, ...rest]: readonly unknown[], path: string): JournalContent {
  const { format, version } = (first ?? {}) as Record<string, unknown>;
  if (format === JOURNAL_FORMAT && typeof version === "number" && version > JOURNAL_VERSION) {
    throw new GodwitError("STORE_JOURNAL_NEWER", `${path} was written by a newer godwit`, { path, version });
  }
  const header = headerSchema.safeParse(first);
  if (!header.success) throw damaged(path, "its first line is no header");
  let content: JournalContent = {
    header: header.data,
    state: null,
    run: header.data.guestRuns,
    isSettled: false,
    sinceMs: header.data.atMs,
    settings: null,
  };
  for (const record of rest) content = withRecord(content, record, path);
  return content;
}

/** The content with one more record. @throws GodwitError STORE_JOURNAL_DAMAGED */
export function withRecord(content: JournalContent, record: unknown, path: string): JournalContent {
  const settings = settingsRecordSchema.safeParse(record);
  if (settings.success) return { ...content, settings: settings.data.settings };
  const step = stepSchema.safeParse(record);
  if (!step.success) throw damaged(path, "a record is none");
  const { state, run = content.run, settled = false, atMs: sinceMs } = step.data;
  return { ...content, state, run, isSettled: settled, sinceMs: state === content.state ? content.sinceMs : sinceMs };
}

function checksumOf(bytes: Uint8Array): string {
  return crc32(bytes).toString(16).padStart(CHECKSUM_DIGITS, "0");
}

function damaged(path: string, what: string): GodwitError {
  return new GodwitError("STORE_JOURNAL_DAMAGED", `${path} is damaged: ${what}`, { path });
}
