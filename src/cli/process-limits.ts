/** What the process itself must and must not do, whatever the command. */
import { readFileSync, writeFileSync } from "node:fs";
import { GodwitError } from "../errors.ts";

/** A listener's sockets (96), disks and their servers, packs of checkpoints, threads: no migration takes more. */
const OPEN_FILES = 256;

/**
 * Keeps guest memory out of core dumps, ours and those of what we start: none of the mappings is written (core(5), coredump_filter).
 * A limit of 0 for the core file would not do: the kernel ignores it where a program takes the dump.
 */
export function keepMemoryOutOfDumps(): void {
  try {
    writeFileSync("/proc/self/coredump_filter", "0");
  } catch {
    // No /proc, or a kernel that makes no dumps.
  }
}

/** @throws CLI_OPEN_FILES where a migration might run out of file descriptors half way */
export function assertOpenFiles(): void {
  // Node has raised the soft limit to the hard one by now.
  const limit = Number(/^Max open files\s+(\d+)/m.exec(readFileSync("/proc/self/limits", "utf8"))?.[1] ?? Infinity);
  if (limit >= OPEN_FILES) return;
  const message = `only ${limit} files may be open at a time, and a migration takes up to ${OPEN_FILES}: raise the limit (ulimit -n)`;
  throw new GodwitError("CLI_OPEN_FILES", message, { limit });
}
