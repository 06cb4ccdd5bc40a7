/** Small files that keys and certificates are in: read whole, and refused where others could have read a key. */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { messageOf } from "../errors.ts";

/** Why a file is not taken. `mode` is that of a file which others may read. */
export type FileProblem =
  | { readonly why: "missing" }
  | { readonly why: "unreadable"; readonly message: string; readonly cause: unknown }
  | { readonly why: "too long" }
  | { readonly why: "exposed"; readonly mode: string };

/**
 * Reads a file of at most `maxBytes`. Of a secret one the permissions are looked at too, on the very file that is read, so that it
 * can't be exchanged in between: nobody but its owner may be able to do anything with it.
 */
export function readSmallFile(path: string, maxBytes: number, isSecret: boolean): Buffer | FileProblem {
  let file: number;
  try {
    file = openSync(path, "r");
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") return { why: "missing" };
    return { why: "unreadable", message: messageOf(cause), cause };
  }
  try {
    const about = fstatSync(file);
    if (about.isDirectory()) return { why: "unreadable", message: "it is a folder", cause: undefined };
    if (isSecret && (about.mode & 0o077) !== 0) return { why: "exposed", mode: (about.mode & 0o777).toString(8) };
    if (about.size > maxBytes) return { why: "too long" };
    // Of a pipe nobody knows how long it is; one byte more tells whether that was all.
    const length = about.isFile() ? about.size : maxBytes;
    const buffer = Buffer.alloc(length + 1);
    let bytes = 0;
    for (let read = -1; read !== 0 && bytes < buffer.length; bytes += read)
      read = readSync(file, buffer, bytes, buffer.length - bytes, null);
    return bytes > length ? { why: "too long" } : buffer.subarray(0, bytes);
  } catch (cause) {
    return { why: "unreadable", message: messageOf(cause), cause };
  } finally {
    closeSync(file);
  }
}

export function isProblem(read: Buffer | FileProblem): read is FileProblem {
  return !Buffer.isBuffer(read);
}
