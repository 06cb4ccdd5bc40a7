/**
 * The headers of DATA and REPAIR (docs/wire-protocol.md has the layouts).
 *
 * They are written in front of bytes that stand elsewhere, and these are read into memory that the caller supplies (reader.ts), so
 * that no byte of a page is copied here.
 */
import { bad, offsetAt, u64 } from "./fields.ts";
import {
  CODECS,
  DATA_FIELDS_BYTES,
  DATA_HEADER_BYTES,
  type DataHeader,
  HEADER_BYTES,
  MAX_BODY_BYTES,
  MAX_RAW_BYTES,
  MAX_REPAIR_BYTES,
  type MessageType,
  REPAIR_FIELDS_BYTES,
  REPAIR_HEADER_BYTES,
  type RepairHeader,
  SHAPES,
} from "./messages.ts";

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

/** The range that a NACK or REPAIR is about, as bytes. @throws WIRE_BAD_MESSAGE when it is out of its limits. */
export function rangeFields(type: "NACK" | "REPAIR", { rawOffset, rawBytes }: RepairHeader): Uint8Array {
  checkRange(type, rawOffset, rawBytes);
  const fields = new Uint8Array(REPAIR_FIELDS_BYTES);
  fields.set(u64(type, rawOffset));
  new DataView(fields.buffer).setUint32(8, rawBytes, true);
  return fields;
}

/** The same from bytes. @throws WIRE_BAD_MESSAGE */
export function rangeAt(type: "NACK" | "REPAIR", fields: Uint8Array): RepairHeader {
  const rawOffset = offsetAt(type, fields, 0);
  const rawBytes = new DataView(fields.buffer, fields.byteOffset, REPAIR_FIELDS_BYTES).getUint32(8, true);
  checkRange(type, rawOffset, rawBytes);
  return { rawOffset, rawBytes };
}

function checkRange(type: MessageType, rawOffset: number, rawBytes: number): void {
  if (!(rawBytes >= 1 && rawBytes <= MAX_REPAIR_BYTES)) throw bad(type, "rawBytes out of limits", { rawBytes });
  if (!Number.isSafeInteger(rawOffset + rawBytes)) throw bad(type, "rawOffset out of limits", { rawOffset });
}
