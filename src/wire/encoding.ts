/**
 * Messages to bytes and back (docs/wire-protocol.md has the layouts), but for DATA and REPAIR: those are of bulk.ts.
 */
import type { z } from "zod";
import { GodwitError } from "../errors.ts";
import { rangeAt, rangeFields } from "./bulk.ts";
import { bad, offsetAt, u32, u64, u64At } from "./fields.ts";
import {
  abortSchema,
  type BulkType,
  commitSchema,
  GREETING_BYTES,
  HASHES_FIELDS_BYTES,
  HEADER_BYTES,
  helloSchema,
  loadedSchema,
  MAGIC,
  MAX_JSON_DEPTH,
  MAX_TEXT_LENGTH,
  type Message,
  type MessageType,
  OLDEST_MINOR,
  PROTOCOL_MAJOR,
  PROTOCOL_MINOR,
  refuseSchema,
  runningSchema,
  SHAPES,
  welcomeSchema,
} from "./messages.ts";

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
