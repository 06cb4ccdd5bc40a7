/** Messages for the tests of src/wire: one of every kind, and arbitrary ones. */
import fc from "fast-check";
import { writeDataHeader, writeRepairHeader } from "../../src/wire/bulk.ts";
import { encodeMessage } from "../../src/wire/encoding.ts";
import {
  DATA_HEADER_BYTES,
  type DataHeader,
  MAX_RAW_BYTES,
  MAX_REPAIR_BYTES,
  type Message,
  REPAIR_HEADER_BYTES,
  type RepairHeader,
} from "../../src/wire/messages.ts";
import { type MessageHandler, MessageReader } from "../../src/wire/reader.ts";

/** A DATA message with its body, beside the others. */
export interface Data {
  readonly type: "DATA";
  readonly header: DataHeader;
  readonly body: Uint8Array;
}

/** A REPAIR message with its bytes. */
export interface Repair {
  readonly type: "REPAIR";
  readonly header: RepairHeader;
  readonly body: Uint8Array;
}

export type AnyMessage = Message | Data | Repair;

const greeting = {
  session: "00112233445566778899aabbccddeeff",
  generation: 1,
  program: "godwit 0.1.0",
  pageFormat: 3,
  features: ["zstd"],
  vm: { memoryBytes: 1 << 30 },
  disks: ["disk0"],
  cachePages: 4096,
};
const tagKey = "0f".repeat(32);
const checkpoint = {
  id: "0123456789ab",
  pages: 2,
  createdMs: 1_790_000_000_000,
  seed: "00000000deadbeef",
  hashBytes: 5,
};

/** A whole migration in an allowed order: the example of docs/wire-protocol.md. */
export const exchange: readonly AnyMessage[] = [
  { type: "HELLO", ...greeting, checkpointPages: 262_144, tagKey, returnOffset: 0, knownHashes: 0 },
  { type: "WELCOME", ...greeting, checkpoints: [checkpoint], rawOffset: 0, windowBytes: 16 << 20 },
  { type: "HASHES", checkpoint: 0, page: 0, hashes: Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8, 9, 10) },
  { type: "PING", opaque: 0xfedc_ba98_7654_3210n },
  { type: "PONG", opaque: 0xfedc_ba98_7654_3210n },
  data({ rawOffset: 0, rawBytes: 32, tokenBytes: 3, codec: "none" }, [0x50, 0x31, 0x20, 2, 0, 0, 0, 3]),
  { type: "NACK", rawOffset: 5, rawBytes: 9 },
  repair(5, [0, 0, 0, 0, 0, 1, 0, 0x22, 0]),
  { type: "ACK", rawOffset: 32, wireBytes: 424, receivedBytes: 464 },
  { type: "RETURN", returnOffset: 0, bytes: Uint8Array.of(9, 8, 7) },
  { type: "SWITCHOVER" },
  { type: "END", rawBytes: 32 },
  { type: "RETURN_END", returnBytes: 3 },
  { type: "LOADED", loadMs: 1.5, rawBytes: 32 },
  { type: "COMMIT", run: true },
  { type: "RUNNING", resumeMs: 0.25 },
  { type: "SETTLED" },
];

export function data(
  fields: Pick<DataHeader, "rawOffset" | "rawBytes" | "tokenBytes" | "codec"> & { bodyBytes?: number },
  body: ArrayLike<number>,
): Data {
  const bodyBytes = fields.bodyBytes ?? body.length;
  return { type: "DATA", header: { ...fields, bodyBytes, encodedBytes: body.length }, body: Uint8Array.from(body) };
}

export function repair(rawOffset: number, body: ArrayLike<number>): Repair {
  return { type: "REPAIR", header: { rawOffset, rawBytes: body.length }, body: Uint8Array.from(body) };
}

export function encode(message: AnyMessage): Uint8Array {
  if (message.type !== "DATA" && message.type !== "REPAIR") return encodeMessage(message);
  const headerBytes = message.type === "DATA" ? DATA_HEADER_BYTES : REPAIR_HEADER_BYTES;
  const bytes = new Uint8Array(headerBytes + message.body.length);
  if (message.type === "DATA") writeDataHeader(bytes, 0, message.header);
  else writeRepairHeader(bytes, 0, message.header);
  bytes.set(message.body, headerBytes);
  return bytes;
}

/** A reader that keeps all it hands out. `room` says whether the next body may be taken. */
export function collector(room: () => boolean = () => true) {
  const messages: AnyMessage[] = [];
  let repaired: Uint8Array;
  const handler: MessageHandler = {
    onMessage: (message) => void messages.push(message),
    onData: (header) => (room() ? new Uint8Array(header.encodedBytes) : null),
    onDataComplete: (header, body) => void messages.push({ type: "DATA", header, body }),
    onRepair: ({ rawBytes }) => {
      repaired = new Uint8Array(rawBytes);
      return repaired;
    },
    onRepairComplete: (header) => void messages.push({ type: "REPAIR", header, body: repaired }),
  };
  return { messages, reader: new MessageReader(handler) };
}

const offset = fc.maxSafeNat();
/** As the reader leaves it: nothing that is not for terminals. */
const text = (maxLength: number) =>
  fc.string({ unit: "grapheme", maxLength }).map((s) => s.replace(/[\p{Cc}\p{Bidi_Control}\p{Zl}\p{Zp}]/gu, " "));
const code = fc.stringMatching(/^[A-Z][A-Z0-9_]{0,30}$/);
const ms = fc.double({ min: 0, noNaN: true, noDefaultInfinity: true }).map((value) => value + 0);
const bytes = (maxLength: number) => fc.uint8Array({ minLength: 1, maxLength });
const json = fc.jsonValue().map((value): unknown => JSON.parse(JSON.stringify(value)));
const hello = {
  session: fc.stringMatching(/^[0-9a-f]{32}$/),
  generation: fc.integer({ min: 1 }),
  program: text(32),
  pageFormat: fc.nat(),
  features: fc.array(text(16), { maxLength: 8 }),
  vm: json,
  disks: fc.array(text(16), { maxLength: 4 }),
  cachePages: fc.nat(),
};
const ofHello = {
  checkpointPages: fc.nat(),
  tagKey: fc.stringMatching(/^[0-9a-f]{64}$/),
  returnOffset: offset,
  knownHashes: fc.nat(),
};
const anyCheckpoint = fc.record({
  id: fc.stringMatching(/^[0-9a-f]{12}$/),
  pages: fc.integer({ min: 1 }),
  createdMs: offset,
  seed: fc.stringMatching(/^[0-9a-f]{16}$/),
  hashBytes: fc.integer({ min: 5, max: 7 }),
});
const range = { rawOffset: fc.nat(), rawBytes: fc.integer({ min: 1, max: MAX_REPAIR_BYTES }) };
const of = <T extends string>(type: T) => fc.constant(type);

/** Any message that can be sent. */
export const anyMessage: fc.Arbitrary<AnyMessage> = fc.oneof(
  fc.record({ type: of("HELLO"), ...hello, ...ofHello }),
  fc.record({ type: of("HELLO"), ...hello, ...ofHello, purpose: fc.constantFrom("plan" as const, "settle" as const) }),
  fc.record({
    type: of("WELCOME"),
    ...hello,
    checkpoints: fc.array(anyCheckpoint, { maxLength: 3 }),
    rawOffset: offset,
    windowBytes: fc.integer({ min: 1 }),
    state: fc.constantFrom("streaming" as const, "loaded" as const, "aborted" as const),
  }),
  fc.record({ type: of("REFUSE"), code, message: text(200), details: fc.constant({ own: 1, peer: "x" }) }),
  fc.record({ type: of("ABORT"), code, message: text(200) }),
  fc.record({ type: of("ACK"), rawOffset: offset, wireBytes: offset, receivedBytes: offset }),
  fc.record({ type: of("RETURN"), returnOffset: offset, bytes: bytes(200) }),
  fc.record({ type: of("END"), rawBytes: offset }),
  fc.record({ type: of("RETURN_END"), returnBytes: offset }),
  fc.record({ type: fc.constantFrom("PING" as const, "PONG" as const), opaque: fc.bigInt(0n, (1n << 64n) - 1n) }),
  fc.record({ type: of("NACK"), ...range }),
  fc.record({
    type: of("HASHES"),
    checkpoint: fc.nat(),
    page: offset,
    hashes: fc.uint8Array({ minLength: 5, maxLength: 200 }),
  }),
  fc.tuple(fc.nat(), bytes(200)).map(([rawOffset, body]) => repair(rawOffset, body)),
  fc.record({ type: fc.constantFrom("SWITCHOVER" as const, "SETTLED" as const) }),
  fc.record({ type: of("COMMIT"), run: fc.boolean() }),
  fc.record({ type: of("LOADED"), loadMs: ms, rawBytes: offset }),
  fc.record({ type: of("RUNNING"), resumeMs: ms }),
  fc.record({ type: of("PROBE"), probeBytes: fc.integer({ min: 1, max: 2000 }) }),
  fc
    .record({
      rawOffset: fc.nat(),
      rawBytes: fc.integer({ min: 1, max: MAX_RAW_BYTES }),
      body: bytes(200),
      packed: fc.boolean(),
      tokens: fc.double({ min: 0, max: 1, noNaN: true }),
    })
    .map(({ rawOffset, rawBytes, body, packed, tokens }) => {
      const bodyBytes = packed ? body.length * 3 : body.length;
      const tokenBytes = Math.floor(tokens * bodyBytes);
      return data({ rawOffset, rawBytes, bodyBytes, tokenBytes, codec: packed ? "zstd" : "none" }, body);
    }),
);
