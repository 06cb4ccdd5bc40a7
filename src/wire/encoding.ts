/**
 * Messages to bytes and back (docs/wire-protocol.md has the layouts).
 *
 * DATA and REPAIR are apart: their headers are written in front of bytes that stand elsewhere, and these are read into
 * memory that the caller supplies (reader.ts), so that no byte of a page is copied here.
 */
import type { z } from "zod";
import { GodwitError } from "../errors.ts";
import {
  abortSchema,
  type BulkType,
  CODECS,
  commitSchema,
  DATA_FIELDS_BYTES,
  DATA_HEADER_BYTES,
  type DataHeader,
  GREETING_BYTES,
  HASHES_FIELDS_BYTES,
  HEADER_BYTES,
  helloSchema,
  loadedSchema,
  MAGIC,
  MAX_BODY_BYTES,
  MAX_JSON_DEPTH,
  MAX_RAW_BYTES,
  MAX_REPAIR_BYTES,
  MAX_TEXT_LENGTH,
  type Message,
  type MessageType,
  OLDEST_MINOR,
  PROTOCOL_MAJOR,
  PROTOCOL_MINOR,
  REPAIR_FIELDS_BYTES,
  REPAIR_HEADER_BYTES,
  type RepairHeader,
  refuseSchema,
  runningSchema,
  SHAPES,
  welcomeSchema,
} from "./messages.ts";

function bad(type: MessageType, what: string, details: Record<string, unknown> = {}): GodwitError {
  return new GodwitError("WIRE_BAD_MESSAGE", `bad ${type} message: ${what}`, { type, ...details });
}

/**
 * Writes the header of a DATA message (DATA_HEADER_BYTES bytes); the encoded body must follow it on the wire.
 *
 * @throws WIRE_BAD_MESSAGE when a field is out of its limits.
 */
export function writeDataHeader(target: Uint8Array, offset: number, header: DataHeader): void {
  checkDataHeader(header);
  const view = new DataView(target.buffer, target.byteOffset + offset, DATA_HEADER_BYTES);
  view.setUint32(0, SHAPES.DATA.code, true);
  view.setUint32(4, DATA_FIELDS_BYTES + header.encodedBytes, true);
  view.setBigUint64(8, BigInt(header.rawOffset), true);
  view.setUint32(16, header.rawBytes, true);
  view.setUint32(20, header.bodyBytes, true);
  view.setUint32(24, header.tokenBytes, true);
  view.setUint32(28, CODECS.indexOf(header.codec), true);
}

/**
 * Reads the 24 bytes that stand in front of a DATA body.
 *
 * @param encodedBytes what the message's payloadBytes leave for the body.
 * @throws WIRE_BAD_MESSAGE when a field is out of its limits.
 */
export function readDataHeader(fields: Uint8Array, encodedBytes: number): DataHeader {
  const view = new DataView(fields.buffer, fields.byteOffset, DATA_FIELDS_BYTES);
  const codec = CODECS[view.getUint32(20, true)];
  if (codec === undefined) throw bad("DATA", "unknown codec or non-zero reserved bytes");
  const header = {
    rawOffset: Number(view.getBigUint64(0, true)),
    rawBytes: view.getUint32(8, true),
    bodyBytes: view.getUint32(12, true),
    tokenBytes: view.getUint32(16, true),
    codec,
    encodedBytes,
  };
  checkDataHeader(header);
  return header;
}

function checkDataHeader(header: DataHeader): void {
  const { rawOffset, rawBytes, bodyBytes, tokenBytes, codec, encodedBytes } = header;
  const fail = (what: string) => bad("DATA", what, { ...header });
  if (!(rawBytes >= 1 && rawBytes <= MAX_RAW_BYTES)) throw fail("rawBytes out of limits");
  if (!(rawOffset >= 0 && Number.isSafeInteger(rawOffset + rawBytes))) throw fail("rawOffset out of limits");
  if (!(bodyBytes >= 1 && bodyBytes <= MAX_BODY_BYTES)) throw fail("bodyBytes out of limits");
  if (!(tokenBytes >= 0 && tokenBytes <= bodyBytes)) throw fail("tokenBytes out of limits");
  if (!(encodedBytes >= 1 && encodedBytes <= bodyBytes)) throw fail("its body is empty or longer than bodyBytes");
  if (codec === "none" && encodedBytes !== bodyBytes) throw fail("a plain body must have bodyBytes bytes");
}

/**
 * Writes the header of a REPAIR message (REPAIR_HEADER_BYTES bytes); the raw bytes must follow it on the wire.
 *
 * @throws WIRE_BAD_MESSAGE when a field is out of its limits.
 */
export function writeRepairHeader(target: Uint8Array, offset: number, header: RepairHeader): void {
  const view = new DataView(target.buffer, target.byteOffset + offset, REPAIR_HEADER_BYTES);
  view.setUint32(0, SHAPES.REPAIR.code, true);
  view.setUint32(4, REPAIR_FIELDS_BYTES + header.rawBytes, true);
  target.set(rangeFields("REPAIR", header), offset + HEADER_BYTES);
}

/**
 * Reads the 12 bytes that stand in front of the bytes of a REPAIR.
 *
 * @param bytes what the message's payloadBytes leave for them.
 * @throws WIRE_BAD_MESSAGE when a field is out of its limits.
 */
export function readRepairHeader(fields: Uint8Array, bytes: number): RepairHeader {
  const header = rangeAt("REPAIR", fields);
  if (header.rawBytes !== bytes) throw bad("REPAIR", "it holds another number of bytes than it says", { bytes });
  return header;
}

/** The range that a NACK or REPAIR is about. */
function rangeFields(type: MessageType, { rawOffset, rawBytes }: RepairHeader): Uint8Array {
  checkRange(type, rawOffset, rawBytes);
  const fields = new Uint8Array(REPAIR_FIELDS_BYTES);
  fields.set(u64(type, rawOffset));
  new DataView(fields.buffer).setUint32(8, rawBytes, true);
  return fields;
}

function rangeAt(type: MessageType, fields: Uint8Array): RepairHeader {
  const rawOffset = offsetAt(type, fields, 0);
  const rawBytes = new DataView(fields.buffer, fields.byteOffset, REPAIR_FIELDS_BYTES).getUint32(8, true);
  checkRange(type, rawOffset, rawBytes);
  return { rawOffset, rawBytes };
}

function checkRange(type: MessageType, rawOffset: number, rawBytes: number): void {
  if (!(rawBytes >= 1 && rawBytes <= MAX_REPAIR_BYTES)) throw bad(type, "rawBytes out of limits", { rawBytes });
  if (!Number.isSafeInteger(rawOffset + rawBytes)) throw bad(type, "rawOffset out of limits", { rawOffset });
}

/**
 * Encodes a message other than DATA and REPAIR, header and all.
 *
 * @throws WIRE_TOO_LONG when it exceeds the limit of its type; WIRE_BAD_MESSAGE when an offset is no whole number.
 */
export function encodeMessage(message: Message): Uint8Array {
  switch (message.type) {
    case "HELLO":
    case "WELCOME": {
      const greeting = new Uint8Array(GREETING_BYTES);
      const view = new DataView(greeting.buffer);
      view.setUint32(0, MAGIC, true);
      view.setUint16(4, PROTOCOL_MAJOR, true);
      view.setUint16(6, PROTOCOL_MINOR, true);
      return frame(message.type, greeting, jsonOf(message));
    }
    case "REFUSE":
    case "ABORT":
      return frame(message.type, jsonOf({ ...message, message: message.message.slice(0, MAX_TEXT_LENGTH) }));
    case "LOADED":
    case "COMMIT":
    case "RUNNING":
      return frame(message.type, jsonOf(message));
    case "ACK":
      return frame(
        message.type,
        ...[message.rawOffset, message.wireBytes, message.receivedBytes].map((value) => u64(message.type, value)),
      );
    case "RETURN":
      return frame(message.type, u64(message.type, message.returnOffset), message.bytes);
    case "END":
      return frame(message.type, u64(message.type, message.rawBytes));
    case "RETURN_END":
      return frame(message.type, u64(message.type, message.returnBytes));
    case "PING":
    case "PONG":
      return frame(message.type, u64(message.type, message.opaque));
    case "NACK":
      return frame(message.type, rangeFields(message.type, message));
    case "HASHES":
      return frame(message.type, u64(message.type, message.page), u32(message.checkpoint), message.hashes);
    case "SWITCHOVER":
    case "SETTLED":
      return frame(message.type);
    case "PROBE":
      return frame(message.type, new Uint8Array(message.probeBytes));
  }
}

function frame(type: MessageType, ...parts: Uint8Array[]): Uint8Array {
  const payloadBytes = parts.reduce((sum, part) => sum + part.length, 0);
  checkPayloadBytes(type, payloadBytes);
  const encoded = new Uint8Array(HEADER_BYTES + payloadBytes);
  const view = new DataView(encoded.buffer);
  view.setUint32(0, SHAPES[type].code, true);
  view.setUint32(4, payloadBytes, true);
  let at = HEADER_BYTES;
  for (const part of parts) {
    encoded.set(part, at);
    at += part.length;
  }
  return encoded;
}

/** @throws WIRE_TOO_LONG, WIRE_BAD_MESSAGE when a payload of this length cannot be one of this type. */
export function checkPayloadBytes(type: MessageType, payloadBytes: number): void {
  const { minBytes, maxBytes } = SHAPES[type];
  if (payloadBytes > maxBytes) {
    const message = `${type} message of ${payloadBytes} bytes, at most ${maxBytes} are allowed`;
    throw new GodwitError("WIRE_TOO_LONG", message, { type, payloadBytes, maxBytes });
  }
  if (payloadBytes < minBytes) throw bad(type, `only ${payloadBytes} bytes long`, { payloadBytes, minBytes });
}

function jsonOf({ type: _, ...body }: Message): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(body));
}

function u64(type: MessageType, value: number | bigint): Uint8Array {
  if (typeof value === "number" && !(Number.isSafeInteger(value) && value >= 0))
    throw bad(type, `${value} is no offset`);
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(value), true);
  return bytes;
}

function u32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value, true);
  return bytes;
}

/**
 * Decodes the payload of a message other than DATA and REPAIR, whose length was checked. Nothing of the result refers to it.
 *
 * @throws WIRE_VERSION, WIRE_BAD_MESSAGE
 */
export function decodeMessage(type: Exclude<MessageType, BulkType>, payload: Uint8Array): Message {
  switch (type) {
    case "HELLO":
      return { type, ...parse(type, helloSchema, afterGreeting(type, payload)) };
    case "WELCOME":
      return { type, ...parse(type, welcomeSchema, afterGreeting(type, payload)) };
    case "REFUSE":
      return { type, ...parse(type, refuseSchema, payload) };
    case "LOADED":
      return { type, ...parse(type, loadedSchema, payload) };
    case "COMMIT":
      return { type, ...parse(type, commitSchema, payload) };
    case "RUNNING":
      return { type, ...parse(type, runningSchema, payload) };
    case "ABORT":
      return { type, ...parse(type, abortSchema, payload) };
    case "ACK":
      return {
        type,
        rawOffset: offsetAt(type, payload, 0),
        wireBytes: offsetAt(type, payload, 8),
        receivedBytes: offsetAt(type, payload, 16),
      };
    case "RETURN":
      return { type, returnOffset: offsetAt(type, payload, 0), bytes: payload.slice(8) };
    case "END":
      return { type, rawBytes: offsetAt(type, payload, 0) };
    case "RETURN_END":
      return { type, returnBytes: offsetAt(type, payload, 0) };
    case "PING":
    case "PONG":
      return { type, opaque: u64At(payload, 0) };
    case "NACK":
      return { type, ...rangeAt(type, payload) };
    case "HASHES": {
      const checkpoint = new DataView(payload.buffer, payload.byteOffset).getUint32(8, true);
      return { type, page: offsetAt(type, payload, 0), checkpoint, hashes: payload.slice(HASHES_FIELDS_BYTES) };
    }
    case "SWITCHOVER":
    case "SETTLED":
      return { type };
    case "PROBE":
      return { type, probeBytes: payload.length };
  }
}

/** What follows magic and version, if that is one that we understand. The other end may read what is thrown too. */
function afterGreeting(type: "HELLO" | "WELCOME", payload: Uint8Array): Uint8Array {
  const view = new DataView(payload.buffer, payload.byteOffset, GREETING_BYTES);
  if (view.getUint32(0, true) !== MAGIC) {
    throw new GodwitError("WIRE_VERSION", "the peer does not speak godwit's protocol");
  }
  const major = view.getUint16(4, true);
  const minor = view.getUint16(6, true);
  if (major === PROTOCOL_MAJOR && minor >= OLDEST_MINOR) return payload.subarray(GREETING_BYTES);
  const [theirs, ours] = type === "HELLO" ? ["source", "destination"] : ["destination", "source"];
  const older = major > PROTOCOL_MAJOR ? ours : theirs;
  const versions = `the ${theirs} speaks version ${major}.${minor} of the protocol, the ${ours} ${PROTOCOL_MAJOR}.${PROTOCOL_MINOR}`;
  throw new GodwitError("WIRE_VERSION", `${versions}: update godwit at the ${older}`, { major, minor });
}

function parse<T>(type: MessageType, schema: z.ZodType<T>, payload: Uint8Array): T {
  let text: string;
  let value: unknown;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(payload);
    value = JSON.parse(text);
  } catch {
    throw bad(type, "its payload is no JSON");
  }
  if (depthOf(text) > MAX_JSON_DEPTH) throw bad(type, `JSON nested deeper than ${MAX_JSON_DEPTH}`);
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  throw bad(type, `${issue?.path.join(".") || "payload"}: ${issue?.message ?? "invalid"}`);
}

/** How deep valid JSON is nested. */
function depthOf(text: string): number {
  let depth = 0;
  let deepest = 0;
  for (const bracket of text.replace(/"(?:[^"\\]|\\.)*"/g, "").match(/[[\]{}]/g) ?? []) {
    depth += bracket === "[" || bracket === "{" ? 1 : -1;
    deepest = Math.max(deepest, depth);
  }
  return deepest;
}

function u64At(payload: Uint8Array, at: number): bigint {
  return new DataView(payload.buffer, payload.byteOffset, payload.byteLength).getBigUint64(at, true);
}

function offsetAt(type: MessageType, payload: Uint8Array, at: number): number {
  const value = u64At(payload, at);
  if (value > Number.MAX_SAFE_INTEGER) throw bad(type, "an offset beyond 2^53");
  return Number(value);
}
