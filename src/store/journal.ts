/** The journal of one end of a session: docs/journal-format.md. */
import { type FileHandle, mkdir, open, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { GodwitError, messageOf } from "../errors.ts";
import { codeOf } from "./checkpoint-errors.ts";
import { syncFolder, writeFully } from "./durable.ts";
import { type Lock, lockFolder } from "./folder-lock.ts";
import {
  encodeRecord,
  JOURNAL_ROOM_BYTES,
  type JournalContent,
  type JournalHeader,
  type JournalRecord,
  type JournalStep,
  type JournalSubject,
  MAX_JOURNAL_BYTES,
  parseJournal,
  type QemuSettings,
  subjectOf,
  withRecord,
} from "./journal-format.ts";

const FILE = "journal";
/** A disk that takes longer has failed: the guest may be stopped meanwhile. */
const WRITE_TIMEOUT_MS = 5_000;

/** An open journal, held by this process alone. Records are written one after the other. */
export class Journal {
  readonly path: string;
  readonly #file: FileHandle;
  readonly #lock: Lock;
  #content: JournalContent;
  #endOffset: number;
  #last: Promise<void> = Promise.resolve();
  /** What was given to the disk last, however long that takes. */
  #writing: Promise<unknown> = Promise.resolve();

  private constructor(path: string, file: FileHandle, lock: Lock, content: JournalContent, endOffset: number) {
    this.path = path;
    this.#file = file;
    this.#lock = lock;
    this.#content = content;
    this.#endOffset = endOffset;
  }

  /**
   * Makes the journal of a session, with its first record on the disk.
   *
   * @throws GodwitError STORE_FULL, STORE_NOT_WRITABLE
   */
  static async create(folder: string, header: JournalHeader): Promise<Journal> {
    const path = join(folder, FILE);
    await mkdir(folder, { mode: 0o700 }).catch((error) => {
      throw journalError(path, error);
    });
    let lock: Lock | undefined;
    let file: FileHandle | undefined;
    try {
      lock = await lockFolder(folder, "is at this session");
      const bytes = Buffer.alloc(JOURNAL_ROOM_BYTES, "\n");
      const first = encodeRecord(header);
      bytes.set(first);
      file = await open(path, "wx+", 0o600);
      await file.writeFile(bytes);
      await file.sync();
      for (const parent of [folder, dirname(folder)]) await syncFolder(parent);
      const { content } = parseJournal(first, path);
      return new Journal(path, file, lock, content, first.length);
    } catch (error) {
      await file?.close().catch(() => {});
      await lock?.[Symbol.asyncDispose]().catch(() => {});
      await rm(folder, { recursive: true, force: true }).catch(() => {});
      throw journalError(path, error);
    }
  }

  /**
   * Takes a journal that another process has left.
   *
   * @throws GodwitError STORE_BUSY when a process is at it; STORE_JOURNAL_*, STORE_NOT_WRITABLE
   */
  static async take(folder: string): Promise<Journal> {
    const path = join(folder, FILE);
    let lock: Lock | undefined;
    let file: FileHandle | undefined;
    try {
      lock = await lockFolder(folder, "is at this session");
      file = await open(path, "r+");
      const bytes = await file.readFile();
      const { content, endOffset } = parseJournal(bytes, path);
      // What is left of a record whose writing was cut off.
      const rest = Buffer.alloc(Math.max(bytes.length, endOffset + 1) - endOffset, "\n");
      await writeFully(file, rest, endOffset);
      await file.sync();
      return new Journal(path, file, lock, content, endOffset);
    } catch (error) {
      await file?.close().catch(() => {});
      await lock?.[Symbol.asyncDispose]().catch(() => {});
      throw journalError(path, error);
    }
  }

  get content(): JournalContent {
    return this.#content;
  }

  /** Notes a step; resolves once it is on the disk. @throws GodwitError STORE_FULL, STORE_NOT_WRITABLE */
  async note(step: Omit<JournalStep, "atMs">): Promise<void> {
    await this.#append({ atMs: Date.now(), ...step });
  }

  /** Notes QEMU's settings before they are changed, or null once they are back. @throws as `note` */
  async noteSettings(settings: QemuSettings | null): Promise<void> {
    await this.#append({ atMs: Date.now(), settings });
  }

  /** Lets go of it; what it says stays. */
  async close(): Promise<void> {
    await this.#last.catch(() => {});
    await this.#file.close().catch(() => {});
    await this.#lock[Symbol.asyncDispose]().catch(() => {});
  }

  /** Removes it: nothing has come of its session. */
  async discard(): Promise<void> {
    await this.close();
    await rm(dirname(this.path), { recursive: true, force: true }).catch(() => {});
  }

  #append(record: JournalRecord): Promise<void> {
    const written = this.#last.catch(() => {}).then(() => this.#write(record));
    this.#last = written;
    return written;
  }

  /** Where a record was not written, or only perhaps, the next one takes its place. */
  async #write(record: JournalRecord): Promise<void> {
    const line = encodeRecord(record);
    try {
      await inTime(this.#writing);
      const written = writeFully(this.#file, line, this.#endOffset).then(() => this.#file.datasync());
      this.#writing = written.catch(() => {});
      await inTime(written);
    } catch (error) {
      throw journalError(this.path, error);
    }
    this.#endOffset += line.length;
    this.#content = withRecord(this.#content, record, this.path);
  }
}

/** A journal as it was found: what it says; or why it can't be read, and whose it is where that can be told. */
export type FoundJournal =
  | { readonly content: JournalContent; readonly subject: JournalSubject; readonly problem: null }
  | { readonly content: null; readonly subject: JournalSubject | null; readonly problem: GodwitError };

/**
 * Reads a journal that another process may be at. Never throws.
 *
 * @returns null where there is none yet, or no more: who makes one and is killed before its first record has done nothing
 */
export async function readJournal(folder: string): Promise<FoundJournal | null> {
  const path = join(folder, FILE);
  let bytes: Buffer = Buffer.alloc(0);
  try {
    bytes = await readStart(path, MAX_JOURNAL_BYTES + 1);
    if (bytes.length === 0) return null;
    const { content } = parseJournal(bytes, path);
    return { content, subject: content.header, problem: null };
  } catch (error) {
    if (codeOf(error) === "ENOENT") return null;
    return { content: null, subject: subjectOf(bytes), problem: readError(path, error) };
  }
}

async function readStart(path: string, maxBytes: number): Promise<Buffer> {
  await using file = await open(path, "r");
  const { buffer, bytesRead } = await file.read(Buffer.alloc(maxBytes), 0, maxBytes, 0);
  return buffer.subarray(0, bytesRead);
}

function readError(path: string, cause: unknown): GodwitError {
  if (cause instanceof GodwitError) return cause;
  const message = `the journal can't be read: ${messageOf(cause)}`;
  return new GodwitError("STORE_JOURNAL_UNREADABLE", message, { path }, { cause });
}

async function inTime(written: Promise<unknown>): Promise<void> {
  const timer = new AbortController();
  const late = delay(WRITE_TIMEOUT_MS, undefined, { signal: timer.signal }).then(() => {
    throw new Error(`the disk did not answer within ${WRITE_TIMEOUT_MS / 1000} s`);
  });
  late.catch(() => {});
  written.catch(() => {});
  await Promise.race([written, late]).finally(() => timer.abort());
}

function journalError(path: string, cause: unknown): GodwitError {
  if (cause instanceof GodwitError) return cause;
  if (["ENOSPC", "EDQUOT"].includes(codeOf(cause) ?? "")) {
    return new GodwitError("STORE_FULL", `no room for the journal on the file system of ${path}`, { path }, { cause });
  }
  const why = (cause as Error).message;
  return new GodwitError("STORE_NOT_WRITABLE", `the journal can't be written: ${why}`, { path }, { cause });
}
