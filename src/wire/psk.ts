/**
 * Pre-shared keys and their files.
 *
 * One line, `identity:hexkey`: the format of GnuTLS' psktool, which QEMU's tls-creds-psk reads too. The bytes of a key
 * go nowhere but to TLS: no error and no detail of one may hold them.
 */
import { randomBytes } from "node:crypto";
import { GodwitError } from "../errors.ts";
import { isProblem, readSmallFile } from "./secret-file.ts";

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
  if (identity === undefined || hex === undefined) throw notAKey(path);
  const key = Buffer.from(hex, "hex");
  if (key.length < MIN_KEY_BYTES || key.length > MAX_KEY_BYTES) {
    const message = `the key in ${path} has ${key.length} bytes, ${MIN_KEY_BYTES} to ${MAX_KEY_BYTES} are allowed`;
    throw new GodwitError("WIRE_PSK_FORMAT", message, { path, keyBytes: key.length });
  }
  return { identity, key };
}

function readPrivate(path: string): string {
  const read = readSmallFile(path, MAX_FILE_BYTES, true);
  if (!isProblem(read)) return read.toString("latin1");
  switch (read.why) {
    case "missing":
      throw new GodwitError("WIRE_PSK_MISSING", `there is no key file ${path}`, { path });
    case "unreadable": {
      const message = `the key file ${path} can't be read: ${read.message}`;
      throw new GodwitError("WIRE_PSK_MISSING", message, { path }, { cause: read.cause });
    }
    case "too long":
      throw notAKey(path);
    case "exposed":
      throw new GodwitError("WIRE_PSK_PERMISSIONS", `others can read the key file ${path}`, { path, mode: read.mode });
  }
}

function notAKey(path: string): GodwitError {
  return new GodwitError("WIRE_PSK_FORMAT", `${path} is no key file: expected one line "identity:hexkey"`, { path });
}
