/** Checkpoints as people read them. Pure. */

import type { SavedCheckpoint } from "../migration/checkpoint-save.ts";
import type { CheckpointCheck } from "../store/checkpoint-check.ts";
import type { CheckpointInfo, ListedCheckpoint } from "../store/checkpoint-folder.ts";
import type { Freed } from "../store/checkpoint-store.ts";
import { PAGE_BYTES } from "../stream/format.ts";
import { formatBytes, formatCount, formatDuration, formatTime, oneLine } from "./format.ts";
import { table } from "./table.ts";

export function listLines(checkpoints: readonly ListedCheckpoint[], storedBytes: number, path: string): string[] {
  if (checkpoints.length === 0) return [`there are no checkpoints in ${path}`];
  const rows = checkpoints.map((checkpoint) => [
    checkpoint.id,
    nameOf(checkpoint),
    formatTime(checkpoint.createdMs),
    originText(checkpoint),
    checkpoint.state,
    formatBytes(checkpoint.pages * PAGE_BYTES),
    formatBytes(checkpoint.storedBytes),
    formatBytes(checkpoint.sharedBytes),
  ]);
  return [
    ...table([["id", "VM", "taken", "by", "state", "memory", "on disk", "shared"], ...rows], 5),
    `${checkpoints.length} ${checkpoints.length === 1 ? "checkpoint" : "checkpoints"}, ${formatBytes(storedBytes)} in ${path}`,
  ];
}

export function showLines(checkpoint: ListedCheckpoint): string[] {
  const { id, identity, createdMs, usedMs, memoryBytes, pages, storedBytes, sharedBytes, problem } = checkpoint;
  const content = `${formatCount(pages)} pages (${formatBytes(pages * PAGE_BYTES)}) of ${formatBytes(memoryBytes)} are not zero`;
  return [
    `checkpoint ${id} of ${nameOf(checkpoint)}`,
    `  identity  ${oneLine(identity ?? "unknown")}`,
    `  taken     ${formatTime(createdMs)}, by ${originText(checkpoint)}`,
    `  used      ${formatTime(usedMs)}`,
    `  memory    ${content}`,
    `  on disk   ${formatBytes(storedBytes)}, and ${formatBytes(sharedBytes)} shared with other checkpoints of the VM`,
    `  state     ${problem === null ? checkpoint.state : oneLine(`${checkpoint.state}: ${problem}`)}`,
  ];
}

export function checkLine({ id, pages, damagedPages, problems }: CheckpointCheck): string {
  if (problems.length === 0) return `${id}  whole, ${formatCount(pages)} pages`;
  return oneLine(`${id}  DAMAGED, ${formatCount(damagedPages)} of ${formatCount(pages)} pages: ${problems.join("; ")}`);
}

export function savedLine({ checkpoint, ms, stoppedMs }: SavedCheckpoint): string {
  const { id, pages, storedBytes } = checkpoint;
  const size = `${formatCount(pages)} pages, ${formatBytes(storedBytes)} on the disk`;
  return `checkpoint ${id} of ${nameOf(checkpoint)}: ${size}, in ${formatDuration(ms)}; ${stopText(stoppedMs)}`;
}

export function deletedLine(id: string): string {
  return `${id}  deleted`;
}

export function freedLine({ freedBytes, busyVms }: Freed): string {
  const busy = busyVms > 0 ? `; passed over ${formatCount(busyVms)} VMs whose checkpoints are being written` : "";
  return `${formatBytes(freedBytes)} freed${busy}`;
}

function stopText(stoppedMs: number | null): string {
  if (stoppedMs === null) return "the VM does not run, as before";
  return stoppedMs === 0 ? "the VM was not stopped" : `the VM was stopped for ${formatDuration(stoppedMs)}`;
}

function nameOf({ vmName, identity }: CheckpointInfo): string {
  return oneLine(vmName ?? identity ?? "unknown VM");
}

/** The command that has taken it. */
function originText({ origin }: CheckpointInfo): string {
  return origin === null ? "unknown" : { migration: "send", saved: "save" }[origin];
}
