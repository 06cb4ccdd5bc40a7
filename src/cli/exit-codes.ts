import type { Status } from "../migration/events.ts";

/** What a command's exit code says about the VM. The help and docs/commands.md have the same table. */
export const EXIT = { completed: 0, failed: 1, refused: 2, "in-doubt": 3 } as const;

/** Signals that cancel; a shell's exit code for them is 128 and their number (signal(7)). */
export const CANCEL_SIGNALS = { SIGHUP: 1, SIGINT: 2, SIGTERM: 15 } as const;
export type CancelSignal = keyof typeof CANCEL_SIGNALS;

/** The part of the help that explains exit codes. */
export const EXIT_CODES_HELP = `
Exit codes:
  0              completed: the VM is at the destination
  1              failed: the VM is at the source, as before
  2              refused: nothing was touched (also: wrong options)
  3              in doubt: look at both sides before you start anything
  129, 130, 143  cancelled by SIGHUP, SIGINT (Ctrl-C), SIGTERM: the VM is at the source, as before`;

/** @param signal the first signal that asked to cancel, if one did */
export function exitCodeOf(status: Status, signal: CancelSignal | undefined): number {
  if (status !== "cancelled") return EXIT[status];
  return signal === undefined ? EXIT.failed : signalExitCode(signal);
}

export function signalExitCode(signal: CancelSignal): number {
  return 128 + CANCEL_SIGNALS[signal];
}
