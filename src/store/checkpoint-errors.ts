import { type ErrorCode, GodwitError } from "../errors.ts";

/** A file of the store does not hold what it must. */
export function damaged(path: string, what: string, cause?: unknown): GodwitError {
  return checkpointError("STORE_CHECKPOINT_DAMAGED", `${path} is damaged: ${what}`, path, cause);
}

/** A checkpoint's file was removed, or what stood in it, after the checkpoint was opened. */
export function gone(path: string): GodwitError {
  return checkpointError("STORE_CHECKPOINT_GONE", `${path} is not there any more, or what a page needs of it`, path);
}

/** A file could not be opened or read. */
export function readError(path: string, cause: unknown): GodwitError {
  if (codeOf(cause) === "ENOENT") return gone(path);
  return checkpointError("STORE_CHECKPOINT_READ", `cannot read ${path}: ${(cause as Error).message}`, path, cause);
}

/** Something could not be written. What is a GodwitError already stays as it is. */
export function writeError(path: string, cause: unknown): GodwitError {
  if (cause instanceof GodwitError) return cause;
  const why = (cause as Error).message;
  const isFull = ["ENOSPC", "EDQUOT"].includes(codeOf(cause) ?? "");
  return isFull
    ? checkpointError("STORE_FULL", `no room on the file system of ${path}`, path, cause)
    : checkpointError("STORE_NOT_WRITABLE", `the checkpoint store cannot be written: ${why}`, path, cause);
}

/** A checkpoint could not be kept even if there were no other. */
export function tooBig(path: string, maxBytes: number): GodwitError {
  const text = `the checkpoint does not fit into the store, which may take ${maxBytes} bytes`;
  return checkpointError("STORE_TOO_BIG", text, path);
}

export function checkpointError(code: ErrorCode, message: string, path: string, cause?: unknown): GodwitError {
  return new GodwitError(code, message, { path }, cause === undefined ? {} : { cause });
}

/** Whether what a file held is lost, and not only out of reach. */
export function isLost(error: unknown): boolean {
  return LOST.has(codeOf(error) ?? "");
}

const LOST: ReadonlySet<string> = new Set([
  "STORE_CHECKPOINT_DAMAGED",
  "STORE_CHECKPOINT_FOREIGN",
  "STORE_CHECKPOINT_GONE",
]);

/** The system's code of an error, such as ENOENT. */
export function codeOf(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException | undefined)?.code;
}
