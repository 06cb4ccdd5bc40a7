/**
 * How godwit's side of the NBD protocol (NetworkBlockDevice/nbd, doc/proto.md) takes in bytes: generators say which they need next,
 * `nbd-feeder.ts` brings them. No I/O here.
 *
 * The server is the user's own QEMU, but is not trusted: every length is checked before anything is kept for it.
 */

import { GodwitError } from "../errors.ts";

/** So many bytes, handed in as a Buffer that is valid until the next step; or a place to be filled. Never empty. */
export type Need = number | Uint8Array;
export type Steps<T> = Generator<Need, T, Buffer>;

/** Strings have at most 4096 bytes (proto.md, Conventions); no option reply or error that we ask for holds more than one. */
export const MAX_MESSAGE_BYTES = 4096 + 64;

/** The next bytes of the server, a Buffer that is valid until the next step. @throws QMP_NBD_PROTOCOL above `maxBytes` */
export function* payload(lengthBytes: number, maxBytes: number): Steps<Buffer> {
  if (lengthBytes > maxBytes)
    throw violation(`the NBD server sent ${lengthBytes} bytes where ${maxBytes} are the limit`);
  return lengthBytes === 0 ? Buffer.alloc(0) : yield lengthBytes;
}

/** A number of the server's. @throws QMP_NBD_PROTOCOL when it is not exact as one of JavaScript's */
export function safeNumber(value: bigint): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw violation("the NBD server sent a number that is too large");
  return Number(value);
}

/** The server's words without what could disturb a terminal. */
export function printable(bytes: Buffer): string {
  return bytes.toString("utf8").replace(/[\p{Cc}\p{Bidi_Control}]/gu, " ");
}

/** The server breaks the rules. */
export function violation(text: string): GodwitError {
  return new GodwitError("QMP_NBD_PROTOCOL", text);
}
