/**
 * Where commands write to. Nothing here may hold up a migration: not a terminal stopped with Ctrl-S or behind a stuck ssh, not
 * a pipe that nobody reads, and not a reader that has gone away.
 *
 * Node writes to pipes without blocking, but to terminals it blocks; so terminals are written to from the thread pool.
 */
import { createWriteStream, fstatSync, writeSync } from "node:fs";
import type { Writable } from "node:stream";
import { isatty } from "node:tty";
import { EXIT } from "./exit-codes.ts";

export interface Output {
  readonly isTerminal: boolean;
  /** Bytes that wait for a slow reader. */
  readonly pendingBytes: number;
  write(text: string): void;
  /** Resolves when all is written, or can't be. */
  drained(): Promise<void>;
}

/** Writes at once, whatever waits: for the last words before the process ends. */
export function writeLastWords(text: string): void {
  try {
    writeSync(2, text);
  } catch {
    // Nobody is there to read it.
  }
}

/** Both outputs; where they are one terminal they are one, so that lines stay in order. */
export function openOutputs(): { stdout: Output; stderr: Output } {
  const stdout = openOutput(1, () => process.stdout);
  const isSame = isatty(1) && isatty(2) && fstatSync(1).rdev === fstatSync(2).rdev;
  return { stdout, stderr: isSame ? stdout : openOutput(2, () => process.stderr) };
}

function openOutput(fd: number, standard: () => Writable): Output {
  const isTerminal = isatty(fd);
  const stream: Writable = isTerminal ? createWriteStream("", { fd, autoClose: false }) : standard();
  let isGone = false;
  stream.on("error", (error: NodeJS.ErrnoException) => {
    // EPIPE: `| head` has seen enough. EIO: the terminal was closed.
    if (!isGone && error.code !== "EPIPE" && error.code !== "EIO" && fd === 1) {
      writeLastWords(`godwit: the output is cut short: it can't be written (${error.message})\n`);
      process.exitCode ||= EXIT.failed; // of a command that moves no VM; the others say how that went
    }
    isGone = true;
  });
  return {
    isTerminal,
    get pendingBytes() {
      return isGone ? 0 : stream.writableLength;
    },
    write(text) {
      if (!isGone) stream.write(text);
    },
    drained: () => (isGone ? Promise.resolve() : new Promise((resolve) => stream.write("", () => resolve()))),
  };
}
