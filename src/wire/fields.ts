/** Numbers in payloads, little-endian. */
import { GodwitError } from "../errors.ts";
import type { MessageType } from "./messages.ts";

/** What is thrown for a message that is not as its type must be. */
export function bad(type: MessageType, what: string, details: Record<string, unknown> = {}): GodwitError {
  return new GodwitError("WIRE_BAD_MESSAGE", `bad ${type} message: ${what}`, { type, ...details });
}

/** @throws WIRE_BAD_MESSAGE when it is no offset */
export function u64(type: MessageType, value: number | bigint): Uint8Array {
  if (typeof value === "number" && !(Number.isSafeInteger(value) && value >= 0))
    throw bad(type, `${value} is no offset`);
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(value), true);
  return bytes;
}

export function u32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value, true);
  return bytes;
}

export function u64At(payload: Uint8Array, at: number): bigint {
  return new DataView(payload.buffer, payload.byteOffset, payload.byteLength).getBigUint64(at, true);
}

/** @throws WIRE_BAD_MESSAGE when it is beyond 2^53 */
export function offsetAt(type: MessageType, payload: Uint8Array, at: number): number {
  const value = u64At(payload, at);
  if (value > Number.MAX_SAFE_INTEGER) throw bad(type, "an offset beyond 2^53");
  return Number(value);
}
