/** The messages of docs/wire-protocol.md: their names, codes, limits and fields. Encoded and decoded in encoding.ts and bulk.ts. */
import { z } from "zod";

export const PROTOCOL_MAJOR = 1;
export const PROTOCOL_MINOR = 3;
/** A peer of an older minor version lacks messages or fields that this program needs. */
export const OLDEST_MINOR = 3;
/** What HELLO and WELCOME begin with: "GDWT", then the version. */
export const MAGIC = 0x54_57_44_47;
export const GREETING_BYTES = 8;

/** Type, flags, reserved, payloadBytes. */
export const HEADER_BYTES = 8;
/** The fields of a DATA message in front of its body. */
export const DATA_FIELDS_BYTES = 24;
/** The header of a DATA message with the fields in front of its body. */
export const DATA_HEADER_BYTES = HEADER_BYTES + DATA_FIELDS_BYTES;

/** The fields of a REPAIR message in front of its bytes; a NACK has the same. */
export const REPAIR_FIELDS_BYTES = 12;
export const REPAIR_HEADER_BYTES = HEADER_BYTES + REPAIR_FIELDS_BYTES;

export const MAX_RAW_BYTES = 4 << 20;
/** What one reference regenerates at most (docs/page-format.md): 256 records of 4104 bytes. */
export const MAX_REPAIR_BYTES = 256 * 4104;
/** Disks and checkpoints that references may be to. */
export const MAX_DISKS = 64;
const MAX_CHECKPOINTS = 16;
/** The fields of a HASHES message in front of its hashes, how many there are at most, and the bytes of each. */
export const HASHES_FIELDS_BYTES = 12;
const MAX_HASHES = 8192;
const MIN_HASH_BYTES = 5;
const MAX_HASH_BYTES = 7;
export const MAX_BODY_BYTES = (1 << 20) + (64 << 10);
export const MAX_JSON_BYTES = 64 << 10;
/** JSON nested deeper could exhaust the stack of whoever walks it. */
export const MAX_JSON_DEPTH = 32;
export const MAX_RETURN_BYTES = 64 << 10;
/** Bytes of a PROBE. */
export const MAX_PROBE_BYTES = 64 << 10;
/** Largest payload of an optional message that this version does not know. */
export const MAX_OPTIONAL_BYTES = 64 << 10;
/** Types from here on may be skipped by a program that does not know them. */
export const FIRST_OPTIONAL_CODE = 0x80;
/** Longest text a peer may give us to show, in UTF-16 units. */
export const MAX_TEXT_LENGTH = 4096;

/** How a DATA body is packed. */
export type Codec = "none" | "zstd" | "lz4";
/** In the order of their numbers on the wire. */
export const CODECS: readonly Codec[] = ["none", "zstd", "lz4"];

interface Shape {
  readonly code: number;
  readonly minBytes: number;
  readonly maxBytes: number;
}

const fixed = (code: number, bytes: number): Shape => ({ code, minBytes: bytes, maxBytes: bytes });
const json = (code: number, prefixBytes = 0): Shape => ({
  code,
  minBytes: prefixBytes + "{}".length,
  maxBytes: prefixBytes + MAX_JSON_BYTES,
});

/** Code on the wire and payload limits of every message. */
export const SHAPES = {
  HELLO: json(0x01, GREETING_BYTES),
  WELCOME: json(0x02, GREETING_BYTES),
  REFUSE: json(0x03),
  DATA: { code: 0x10, minBytes: DATA_FIELDS_BYTES + 1, maxBytes: DATA_FIELDS_BYTES + MAX_BODY_BYTES },
  ACK: fixed(0x11, 24),
  RETURN: { code: 0x12, minBytes: 8 + 1, maxBytes: 8 + MAX_RETURN_BYTES },
  END: fixed(0x13, 8),
  RETURN_END: fixed(0x14, 8),
  REPAIR: { code: 0x15, minBytes: REPAIR_FIELDS_BYTES + 1, maxBytes: REPAIR_FIELDS_BYTES + MAX_REPAIR_BYTES },
  PING: fixed(0x18, 8),
  PONG: fixed(0x19, 8),
  NACK: fixed(0x1a, REPAIR_FIELDS_BYTES),
  HASHES: {
    code: 0x1b,
    minBytes: HASHES_FIELDS_BYTES + MIN_HASH_BYTES,
    maxBytes: HASHES_FIELDS_BYTES + MAX_HASHES * MAX_HASH_BYTES,
  },
  SWITCHOVER: fixed(0x20, 0),
  LOADED: json(0x21),
  COMMIT: json(0x22),
  RUNNING: json(0x23),
  ABORT: json(0x24),
  SETTLED: fixed(0x25, 0),
  PROBE: { code: 0x30, minBytes: 1, maxBytes: MAX_PROBE_BYTES },
} as const satisfies Record<string, Shape>;

export type MessageType = keyof typeof SHAPES;
/** Those with bytes behind their fields that are not held here: see reader.ts. */
export type BulkType = "DATA" | "REPAIR";

const TYPES = new Map(Object.entries(SHAPES).map(([type, shape]) => [shape.code, type as MessageType]));

/** The message with this code, or undefined when this version has none. */
export function messageTypeOf(code: number): MessageType | undefined {
  return TYPES.get(code);
}

/** What could move a cursor, end a line or reorder one. */
const NOT_FOR_TERMINALS = /[\p{Cc}\p{Bidi_Control}\p{Zl}\p{Zp}]/gu;

/** A peer's text that may reach a terminal: bounded, what is not for terminals turned into spaces. */
function textSchema(maxLength: number) {
  return z
    .string()
    .max(maxLength)
    .transform((text) => text.replace(NOT_FOR_TERMINALS, " "));
}

const bytesSchema = z.int().nonnegative();
const millisecondsSchema = z.number().nonnegative();
const codeSchema = z.string().regex(/^[A-Z][A-Z0-9_]{0,63}$/);

/** Ids of block devices as in the facts of the VM. */
const disksSchema = z.array(textSchema(512)).max(MAX_DISKS);

/** A checkpoint of the VM that the receiver holds. */
const checkpointSchema = z.object({
  id: z.string().regex(/^[0-9a-f]{1,64}$/),
  /** References name them by their place in it; as many hashes are told. */
  pages: z.int().positive(),
  /** When it was made, in milliseconds since 1970 by the receiver's clock. */
  createdMs: z.int().nonnegative(),
  /** Of its hashes (XXH3-64), in hexadecimal. */
  seed: z.string().regex(/^[0-9a-f]{16}$/),
  /** What is told of each hash: its low bytes. */
  hashBytes: z.int().min(MIN_HASH_BYTES).max(MAX_HASH_BYTES),
});
export type OfferedCheckpoint = z.infer<typeof checkpointSchema>;

export const helloSchema = z.object({
  /** The migration, whatever number of connections it takes. */
  session: z.string().regex(/^[0-9a-f]{32}$/),
  /** Which connection of the session this is: 1, then always a greater one. */
  generation: z.int().positive(),
  /** What the connection is for, if not to move a VM: a plan sends PROBEs, and who wants to settle has no stream any more. */
  purpose: z.enum(["plan", "settle"]).optional(),
  /** Name and version of the peer's program, for people. */
  program: textSchema(128),
  /** Version of the tokens in DATA bodies. */
  pageFormat: z.int().nonnegative(),
  features: z.array(textSchema(64)).max(64),
  /** What is to be compared before the guest is touched; checked with a schema of the migration's own. */
  vm: z.unknown(),
  /** The disks that the sender can read. */
  disks: disksSchema,
  /** How many pages of checkpoints the sender will look pages up in; 0: it wants none. */
  checkpointPages: z.int().nonnegative(),
  /** Slots of the page cache that the sender has room for; 0: none. */
  cachePages: z.int().nonnegative(),
  /** The key of the tags of references, in hexadecimal. Secret: not for logs, not for events. */
  tagKey: z.string().regex(/^[0-9a-f]{64}$/),
  /** How much of the return path the source QEMU has been fed. */
  returnOffset: bytesSchema,
  /** How many pages' hashes the sender has been told, of all checkpoints together. */
  knownHashes: z.int().nonnegative(),
});
export const welcomeSchema = helloSchema
  .omit({ tagKey: true, checkpointPages: true, returnOffset: true, knownHashes: true })
  /** Its disks: those of the sender's that the receiver can read too. Its cachePages: the slots that both have. */
  .extend({
    /** Tokens name checkpoints, as disks, by their place in the list. */
    checkpoints: z.array(checkpointSchema).max(MAX_CHECKPOINTS),
    rawOffset: bytesSchema,
    windowBytes: z.int().positive(),
    /** How far the receiver is, for people and for who wants to settle; absent: streaming. */
    state: z.enum(["streaming", "loaded", "committed", "running", "aborted"]).optional(),
  });
export const abortSchema = z.object({ code: codeSchema, message: textSchema(MAX_TEXT_LENGTH) });
export const refuseSchema = abortSchema.extend({ details: z.record(z.string(), z.unknown()).optional() });
export const loadedSchema = z.object({ loadMs: millisecondsSchema, rawBytes: bytesSchema });
export const commitSchema = z.object({
  /** Whether the guest is to run there; false when it was paused before the migration. */
  run: z.boolean(),
});
export const runningSchema = z.object({ resumeMs: millisecondsSchema });

/** Every message but DATA and REPAIR. Offsets and counts are bytes from the start of the session's stream. */
export type Message =
  | ({ readonly type: "HELLO" } & z.infer<typeof helloSchema>)
  | ({ readonly type: "WELCOME" } & z.infer<typeof welcomeSchema>)
  | ({ readonly type: "REFUSE" } & z.infer<typeof refuseSchema>)
  | { readonly type: "ACK"; readonly rawOffset: number; readonly wireBytes: number; readonly receivedBytes: number }
  | { readonly type: "RETURN"; readonly returnOffset: number; readonly bytes: Uint8Array }
  | { readonly type: "END"; readonly rawBytes: number }
  | { readonly type: "RETURN_END"; readonly returnBytes: number }
  | { readonly type: "PING" | "PONG"; readonly opaque: bigint }
  | { readonly type: "NACK"; readonly rawOffset: number; readonly rawBytes: number }
  /** Low bytes of the hashes of a checkpoint's pages, one after the other, from its page `page` on. */
  | { readonly type: "HASHES"; readonly checkpoint: number; readonly page: number; readonly hashes: Uint8Array }
  | { readonly type: "SWITCHOVER" | "SETTLED" }
  | ({ readonly type: "LOADED" } & z.infer<typeof loadedSchema>)
  | ({ readonly type: "COMMIT" } & z.infer<typeof commitSchema>)
  | ({ readonly type: "RUNNING" } & z.infer<typeof runningSchema>)
  | ({ readonly type: "ABORT" } & z.infer<typeof abortSchema>)
  /** So many bytes that mean nothing: written as zeros, and not looked at. */
  | { readonly type: "PROBE"; readonly probeBytes: number };

/** A message of one type. */
export type MessageOf<Type extends Message["type"]> = Extract<Message, { type: Type }>;
export type Hello = MessageOf<"HELLO">;
export type Welcome = MessageOf<"WELCOME">;
/** What a message says beside its type. */
export type FieldsOf<Type extends Message["type"]> = Omit<MessageOf<Type>, "type">;

/** The fields in front of a DATA body. */
export interface DataHeader {
  /** Where the raw range begins in the stream of the source QEMU. */
  readonly rawOffset: number;
  readonly rawBytes: number;
  /** Length of the body once unpacked. */
  readonly bodyBytes: number;
  /** Length of the leading part of the unpacked body that is tokens. */
  readonly tokenBytes: number;
  readonly codec: Codec;
  /** Length of the body as it stands on the wire; equals bodyBytes for codec "none", at most that for others. */
  readonly encodedBytes: number;
}

/** The fields of a REPAIR in front of its bytes. */
export interface RepairHeader {
  /** The raw range, as the NACK named it. */
  readonly rawOffset: number;
  readonly rawBytes: number;
}
