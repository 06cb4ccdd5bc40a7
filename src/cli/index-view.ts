/** What `godwit index` shows. */

import { createLogUpdate } from "log-update";
import type { DiskIndexed, IndexEvent } from "../migration/index-disks.ts";
import { formatByteRate, formatBytes, formatCount, formatDuration, oneLine } from "./format.ts";
import { errorLine } from "./lines.ts";
import { openOutputs } from "./output.ts";
import { jsonLine } from "./reporter.ts";

/** A reader this far behind gets no more progress. */
const SLOW_READER_BYTES = 4096;

export interface IndexReporter {
  onEvent(event: IndexEvent): void;
  /** A line for people, on stderr. */
  say(line: string): void;
  drained(): Promise<void>;
}

/** JSON lines, a line of progress that is redrawn on a terminal, and a line for each disk. */
export function openIndexReporter(isJson: boolean): IndexReporter {
  const { stdout, stderr } = openOutputs();
  const isLive = !isJson && stdout.isTerminal && process.env.TERM !== "dumb";
  const stream = Object.create(process.stdout, { write: { value: (text: string) => stdout.write(text) } });
  const live = isLive ? createLogUpdate(stream, { showCursor: true }) : undefined;
  const say = (line: string) => {
    live?.clear();
    stderr.write(`godwit: ${oneLine(line)}\n`);
  };
  const onEvent = (event: IndexEvent) => {
    if (event.event === "warning") say(event.message);
    if (event.event === "error") stderr.write(`${errorLine(event.message, "nothing was read", event.advice)}\n`);
    const mayWait = event.event !== "progress" || stdout.pendingBytes < SLOW_READER_BYTES;
    if (isJson && mayWait) stdout.write(jsonLine(event));
    if (isJson) return;
    if (event.event === "progress" && mayWait) live?.(progressLine(event));
    if (event.event === "disk") {
      live?.clear();
      stdout.write(`${diskLine(event)}\n`);
    }
  };
  return { onEvent, say, drained: async () => void (await Promise.all([stdout.drained(), stderr.drained()])) };
}

function progressLine({
  disk,
  doneBytes,
  sizeBytes,
  readBytes,
  elapsedMs,
}: IndexEvent & { event: "progress" }): string {
  const percent = Math.floor((doneBytes / sizeBytes) * 100);
  const rate = formatByteRate((readBytes * 1000) / elapsedMs);
  return `disk ${oneLine(disk)}: ${percent} %, ${formatBytes(readBytes)} read, ${rate}`;
}

/** What came of a disk, in a line. */
export function diskLine({ disk, sizeBytes, readBytes, newBlocks, knownBlocks, ms, why }: DiskIndexed): string {
  const read = readBytes === 0 ? "nothing was read" : `${formatBytes(readBytes)} read in ${formatDuration(ms)}`;
  const blocks = `${formatCount(newBlocks)} blocks new, ${formatCount(knownBlocks)} known before`;
  const problem = why === null ? "" : `; not whole: ${why}`;
  return oneLine(`disk ${disk}, ${formatBytes(sizeBytes)}: ${read}, ${blocks}${problem}`);
}
