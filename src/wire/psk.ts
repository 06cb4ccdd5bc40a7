/**
 * Pre-shared keys and their files.
 *
 * One line, `identity:hexkey`: the format of GnuTLS' psktool, which QEMU's tls-creds-psk reads too. The bytes of a key
 * go nowhere but to TLS: no error and no detail of one may hold them.
 */
import { randomBytes } from "node:crypto";
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { GodwitError, messageOf } from "../errors.ts";

export interface Psk {
  readonly identity: string;
  readonly key: Uint8Array;
}

const MIN_KEY_BYTES = 16;
const MAX_KEY_BYTES = 64;
const LINE = /^([A-Za-z0-9._@-]{1,64}):((?:[0-9a-fA-F]{2})+)$/;
/** More than any valid file holds. */
const MAX_FILE_BYTES = 1024;

/** A fresh key of 256 bits. */
export function generatePsk(): Psk {
  return { identity: "godwit", key: randomBytes(32) };
}

/** The contents of the key's file, to be written with mode 0600. */
export function formatPskFile(psk: Psk): string {
  return `${psk.identity}:${Buffer.from(psk.key).toString("hex")}\n`;
}

/**
 * Reads a key file that only its owner can read.
 *
 * @throws WIRE_PSK_MISSING, WIRE_PSK_PERMISSIONS, WIRE_PSK_FORMAT
 */
export function readPskFile(path: string): Psk {
  const text = readPrivate(path);
  const [, identity, hex] = LINE.exec(text.replace(/\r?\n$/, "")) ?? [];
  if (identity === undefined || hex === undefined) {
    throw new GodwitError("WIRE_PSK_FORMAT", `${path} is no key file: expected one line "identity:hexkey"`, { path });
  }
  const key = Buffer.from(hex, "hex");
  if (key.length < MIN_KEY_BYTES || key.length > MAX_KEY_BYTES) {
    const message = `the key in ${path} has ${key.length} bytes, ${MIN_KEY_BYTES} to ${MAX_KEY_BYTES} are allowed`;
    throw new GodwitError("WIRE_PSK_FORMAT", message, { path, keyBytes: key.length });
  }
  return { identity, key };
}

/** Looks at the permissions of the very file it reads, so it can't be exchanged in between. */
function readPrivate(path: string): string {
  let file: number;
  try {
    file = openSync(path, "r");
  } catch (cause) {
    const missing = (cause as NodeJS.ErrnoException).code === "ENOENT";
    const message = missing
      ? `there is no key file ${path}`
      : `the key file ${path} can't be opened: ${messageOf(cause)}`;
    throw new GodwitError("WIRE_PSK_MISSING", message, { path }, { cause });
  }
  try {
    const { mode } = fstatSync(file);
    if ((mode & 0o077) !== 0) {
      const message = `others can read the key file ${path}`;
      throw new GodwitError("WIRE_PSK_PERMISSIONS", message, { path, mode: (mode & 0o777).toString(8) });
    }
    const buffer = Buffer.alloc(MAX_FILE_BYTES);
    return buffer.toString("latin1", 0, readSync(file, buffer));
  } catch (error) {
    if (error instanceof GodwitError) throw error;
    const message = `the key file ${path} can't be read: ${messageOf(error)}`;
    throw new GodwitError("WIRE_PSK_MISSING", message, { path }, { cause: error });
  } finally {
    closeSync(file);
  }
}
