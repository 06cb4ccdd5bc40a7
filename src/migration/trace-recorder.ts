import { type FileHandle, open } from "node:fs/promises";
import { type TraceHeader, type TraceRecord, traceLine } from "../control/trace.ts";
import { GodwitError, messageOf } from "../errors.ts";

/** What the history keeps of one migration at most; beyond, every second tick goes, and of a very long one every second line. */
const MAX_KEPT_BYTES = 2 * 1024 * 1024;

interface Line {
  readonly text: string;
  readonly isTick: boolean;
}

/** Records the trace of a migration: whole into a file as it goes, if one is asked for, and within bounds for the history. */
export class TraceRecorder {
  readonly #file: FileHandle | undefined;
  readonly #onWarning: (message: string) => void;
  #lines: Line[] = [];
  #bytes = 0;
  #lastMs = 0;
  #waiting = "";
  #writing: Promise<void> | undefined;
  #hasFailed = false;

  private constructor(file: FileHandle | undefined, onWarning: (message: string) => void) {
    this.#file = file;
    this.#onWarning = onWarning;
  }

  /** @throws GodwitError MIGRATION_TRACE_UNWRITABLE when the file can't be made */
  static async create(path: string | undefined, onWarning: (message: string) => void): Promise<TraceRecorder> {
    return new TraceRecorder(path === undefined ? undefined : await openTrace(path, "w"), onWarning);
  }

  begin(header: TraceHeader): void {
    this.#write({ text: traceLine(header), isTick: false });
  }

  /**
   * Times never go back in a trace. A round is known only when QEMU has answered, a little after it has ended.
   *
   * @returns the record as it was written
   */
  add<R extends Exclude<TraceRecord, TraceHeader>>(record: R): R {
    const inOrder = "atMs" in record ? { ...record, atMs: Math.max(record.atMs, this.#lastMs) } : record;
    if ("atMs" in inOrder) this.#lastMs = inOrder.atMs;
    this.#write({ text: traceLine(inOrder), isTick: record.type === "tick" });
    return inOrder;
  }

  /** The whole trace, or what is kept of it. */
  get text(): string {
    return this.#lines.map(({ text }) => text).join("");
  }

  async close(): Promise<void> {
    await this.#writing;
    await this.#file?.close();
  }

  #write(line: Line): void {
    this.#lines.push(line);
    this.#bytes += line.text.length;
    if (this.#bytes > MAX_KEPT_BYTES) this.#thin();
    if (this.#file === undefined || this.#hasFailed) return;
    this.#waiting += line.text;
    this.#writing ??= this.#drain(this.#file);
  }

  #thin(): void {
    const ticks = this.#lines.filter(({ isTick }) => isTick).length;
    const areTicksMost = ticks > this.#lines.length / 2;
    let seen = 0;
    this.#lines = this.#lines.filter(({ isTick }, i) => i === 0 || (areTicksMost && !isTick) || seen++ % 2 === 0);
    this.#bytes = this.#lines.reduce((sum, { text }) => sum + text.length, 0);
  }

  async #drain(file: FileHandle): Promise<void> {
    try {
      while (this.#waiting !== "") {
        const text = this.#waiting;
        this.#waiting = "";
        await file.appendFile(text);
      }
    } catch (error) {
      this.#hasFailed = true;
      this.#onWarning(`the trace is cut off: ${messageOf(error)}`);
    } finally {
      this.#writing = undefined;
    }
  }
}

/** Makes sure that a trace can be written there, before anything is begun. @throws GodwitError MIGRATION_TRACE_UNWRITABLE */
export async function assertTraceWritable(path: string): Promise<void> {
  await (await openTrace(path, "a")).close();
}

async function openTrace(path: string, flags: "a" | "w"): Promise<FileHandle> {
  try {
    return await open(path, flags);
  } catch (cause) {
    const message = `the trace can't be written: ${messageOf(cause)}`;
    throw new GodwitError("MIGRATION_TRACE_UNWRITABLE", message, { path }, { cause });
  }
}
