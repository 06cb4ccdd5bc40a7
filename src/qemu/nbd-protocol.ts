/**
 * The NBD protocol as far as a reader of disks needs it: fixed newstyle handshake, reads, block status
 * (NetworkBlockDevice/nbd, doc/proto.md). No I/O here: generators say which bytes they need next, `nbd.ts` brings them.
 *
 * The server is the user's own QEMU, but is not trusted: every length is checked before anything is kept for it.
 */

import { GodwitError } from "../errors.ts";

/** So many bytes, handed in as a Buffer that is valid until the next step; or a place to be filled. Never empty. */
export type Need = number | Uint8Array;
export type Steps<T> = Generator<Need, T, Buffer>;

const INIT_MAGIC = 0x4e42444d41474943n; // "NBDMAGIC"
const OPTION_MAGIC = 0x49484156454f5054n; // "IHAVEOPT"
const OPTION_REPLY_MAGIC = 0x0003e889045565a9n;
const REQUEST_MAGIC = 0x25609513;
const SIMPLE_REPLY_MAGIC = 0x67446698;
const STRUCTURED_REPLY_MAGIC = 0x668e33ef;

const FLAG_FIXED_NEWSTYLE = 1;
const FLAG_NO_ZEROES = 2;

const OPT_GO = 7;
const OPT_STRUCTURED_REPLY = 8;
const OPT_SET_META_CONTEXT = 10;
const REP_ACK = 1;
const REP_INFO = 3;
const REP_META_CONTEXT = 4;
const REP_ERROR = 0x80000000;
const INFO_EXPORT = 0;
const FLAG_SEND_DF = 1 << 7;

export const COMMAND_READ = 0;
export const COMMAND_DISCONNECT = 2;
export const COMMAND_BLOCK_STATUS = 7;
/**
 * Don't fragment: all data in one chunk, holes as zeros. QEMU then need not look for holes first: a fifth less CPU for 4 KiB
 * of an image with a backing file.
 */
const COMMAND_FLAG_DF = 1 << 2;

const REPLY_DONE = 1;
const REPLY_NONE = 0;
const REPLY_OFFSET_DATA = 1;
const REPLY_OFFSET_HOLE = 2;
const REPLY_BLOCK_STATUS = 5;
const REPLY_ERROR = 0x8000;

/** Strings have at most 4096 bytes (proto.md, Conventions); no option reply or error that we ask for holds more than one. */
const MAX_MESSAGE_BYTES = 4096 + 64;
/** QEMU sends at most 1 MiB of extents in a reply (NBD_MAX_BLOCK_STATUS_EXTENTS, nbd/server.c). */
const MAX_STATUS_BYTES = 4 + 2 ** 20;

/** What was agreed with the server. */
export interface Negotiated {
  readonly sizeBytes: number;
  readonly hasStructuredReplies: boolean;
  /** The command flags for reads. */
  readonly readFlags: number;
  /** Of the contexts asked for, those that the server has, by its numbers for them. */
  readonly contexts: ReadonlyMap<number, string>;
}

/** A range of the disk and what a context says of it: for `base:allocation` bit 0 is a hole, bit 1 reads as zeros. */
export interface BlockExtent {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly flags: number;
}

interface Settled {
  failure?: GodwitError;
  readonly resolve: () => void;
  readonly reject: (error: GodwitError) => void;
}

export interface ReadRequest extends Settled {
  readonly offsetBytes: number;
  readonly target: Uint8Array;
  missingBytes: number;
}

export interface StatusRequest extends Settled {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly extents: Map<string, BlockExtent[]>;
}

/** Requests in flight by their cookie. */
export type Pending = Map<number, ReadRequest | StatusRequest>;

/**
 * Haggles for an export.
 *
 * @throws QMP_NBD_PROTOCOL: no NBD server, or one that breaks the rules
 * @throws QMP_NBD_REFUSED: there is no such export
 */
export function* handshake(
  exportName: string,
  contexts: readonly string[],
  send: (bytes: Uint8Array) => void,
): Steps<Negotiated> {
  const hello = yield 18;
  if (hello.readBigUInt64BE(0) !== INIT_MAGIC || hello.readBigUInt64BE(8) !== OPTION_MAGIC) {
    throw violation("what answers does not speak NBD");
  }
  const serverFlags = hello.readUInt16BE(16);
  if (!(serverFlags & FLAG_FIXED_NEWSTYLE)) throw violation("the NBD server is too old: no fixed newstyle");
  send(uint32(serverFlags & (FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES)));

  const ask = (option: number, data: Uint8Array, onReply?: (type: number, data: Buffer) => void) => {
    send(optionRequest(option, data));
    return optionReplies(option, onReply);
  };

  const hasStructuredReplies = (yield* ask(OPT_STRUCTURED_REPLY, new Uint8Array(0))) === undefined;
  const agreed = new Map<number, string>();
  if (hasStructuredReplies && contexts.length > 0) {
    const queries = contexts.map(lengthPrefixed);
    const data = Buffer.concat([lengthPrefixed(exportName), uint32(contexts.length), ...queries]);
    yield* ask(OPT_SET_META_CONTEXT, data, (type, reply) => {
      if (type !== REP_META_CONTEXT || reply.length < 4) throw violation("the NBD server answered with a wrong option");
      const name = reply.toString("utf8", 4);
      if (!contexts.includes(name)) throw violation("the NBD server chose a context that was not asked for");
      agreed.set(reply.readUInt32BE(0), name);
    });
  }

  let sizeBytes: number | undefined;
  let flags = 0;
  const refusal = yield* ask(OPT_GO, Buffer.concat([lengthPrefixed(exportName), uint16(0)]), (type, reply) => {
    if (type !== REP_INFO || reply.length < 2) throw violation("the NBD server answered with a wrong option");
    if (reply.readUInt16BE(0) !== INFO_EXPORT) return; // others are only hints
    if (reply.length !== 12) throw violation("the NBD server described the export wrongly");
    sizeBytes = safeNumber(reply.readBigUInt64BE(2));
    flags = reply.readUInt16BE(10);
  });
  if (refusal !== undefined) {
    const text = `the NBD server does not give the export "${exportName}"${refusal && `: ${refusal}`}`;
    throw new GodwitError("QMP_NBD_REFUSED", text, { exportName });
  }
  if (sizeBytes === undefined) throw violation("the NBD server did not tell the size of the export");
  const readFlags = hasStructuredReplies && flags & FLAG_SEND_DF ? COMMAND_FLAG_DF : 0;
  return { sizeBytes, hasStructuredReplies, readFlags, contexts: agreed };
}

/** Reads the replies to one option; returns undefined when it was accepted, else the server's words. */
function* optionReplies(option: number, onReply?: (type: number, data: Buffer) => void): Steps<string | undefined> {
  for (;;) {
    const header = yield 20;
    if (header.readBigUInt64BE(0) !== OPTION_REPLY_MAGIC || header.readUInt32BE(8) !== option) {
      throw violation("the NBD server's answer to an option is none");
    }
    const type = header.readUInt32BE(12);
    const data = yield* payload(header.readUInt32BE(16), MAX_MESSAGE_BYTES);
    if (type === REP_ACK) return undefined;
    if (type >= REP_ERROR) return printable(data);
    if (!onReply) throw violation("the NBD server answered with a wrong option");
    onReply(type, data);
  }
}

/** The bytes of a request of the transmission phase. */
export function request(command: number, cookie: number, offsetBytes: number, lengthBytes: number, flags = 0): Buffer {
  const bytes = Buffer.alloc(28);
  bytes.writeUInt32BE(REQUEST_MAGIC, 0);
  bytes.writeUInt16BE(flags, 4);
  bytes.writeUInt16BE(command, 6);
  bytes.writeUInt32BE(cookie, 12);
  bytes.writeBigUInt64BE(BigInt(offsetBytes), 16);
  bytes.writeUInt32BE(lengthBytes, 24);
  return bytes;
}

/**
 * Takes in replies for ever, in whatever order they come, and settles the requests.
 *
 * @throws QMP_NBD_PROTOCOL when the server breaks the rules; nothing can be said of what follows then
 */
export function* replies(pending: Pending, { hasStructuredReplies, contexts }: Negotiated): Steps<never> {
  for (;;) {
    const header = yield 16; // all of a simple reply, and a structured one without its length
    const magic = header.readUInt32BE(0);
    const isStructured = magic === STRUCTURED_REPLY_MAGIC && hasStructuredReplies;
    if (!isStructured && magic !== SIMPLE_REPLY_MAGIC) throw violation("the NBD server sent what is no reply");
    const word = header.readUInt32BE(4); // flags and type, or the error
    const cookie = header.readUInt32BE(12);
    const pendingRequest = header.readUInt32BE(8) === 0 ? pending.get(cookie) : undefined;
    if (!pendingRequest) throw violation("the NBD server answered a request that nobody made");

    let isDone = true;
    if (isStructured) {
      const lengthBytes = (yield 4).readUInt32BE(0);
      isDone = ((word >>> 16) & REPLY_DONE) !== 0;
      yield* chunk(pendingRequest, word & 0xffff, lengthBytes, contexts);
    } else if (word !== 0) {
      pendingRequest.failure = failed(word, "");
    } else if ("target" in pendingRequest && !hasStructuredReplies) {
      yield pendingRequest.target;
      pendingRequest.missingBytes = 0;
    } else {
      throw violation("the NBD server sent a reply without its content");
    }
    if (!isDone) continue;

    if (!pendingRequest.failure && "target" in pendingRequest && pendingRequest.missingBytes > 0) {
      throw violation("the NBD server sent less than was asked for");
    }
    pending.delete(cookie);
    if (pendingRequest.failure) pendingRequest.reject(pendingRequest.failure);
    else pendingRequest.resolve();
  }
}

function* chunk(
  to: ReadRequest | StatusRequest,
  type: number,
  lengthBytes: number,
  contexts: ReadonlyMap<number, string>,
): Steps<void> {
  if (type === REPLY_OFFSET_DATA && "target" in to && lengthBytes > 8) {
    const place = part(to, (yield 8).readBigUInt64BE(0), lengthBytes - 8);
    yield place;
  } else if (type === REPLY_OFFSET_HOLE && "target" in to && lengthBytes === 12) {
    const hole = yield 12;
    part(to, hole.readBigUInt64BE(0), hole.readUInt32BE(8)).fill(0);
  } else if (type === REPLY_BLOCK_STATUS && "extents" in to && lengthBytes >= 12 && lengthBytes % 8 === 4) {
    takeStatus(to, yield* payload(lengthBytes, MAX_STATUS_BYTES), contexts);
  } else if (type >= REPLY_ERROR && lengthBytes >= 6) {
    const data = yield* payload(lengthBytes, MAX_MESSAGE_BYTES);
    to.failure ??= failed(data.readUInt32BE(0), printable(data.subarray(6, 6 + data.readUInt16BE(4))));
  } else if (type !== REPLY_NONE || lengthBytes !== 0) {
    throw violation("the NBD server sent a reply of a wrong kind");
  }
}

/** The part of the target that a chunk fills. Chunks may not overlap: together they are as long as the target. */
function part(read: ReadRequest, offset: bigint, lengthBytes: number): Uint8Array {
  const start = safeNumber(offset) - read.offsetBytes;
  if (start < 0 || start + lengthBytes > read.target.length || lengthBytes > read.missingBytes || lengthBytes === 0) {
    throw violation("the NBD server sent data that was not asked for");
  }
  read.missingBytes -= lengthBytes;
  return read.target.subarray(start, start + lengthBytes);
}

function takeStatus(status: StatusRequest, data: Buffer, contexts: ReadonlyMap<number, string>): void {
  const name = contexts.get(data.readUInt32BE(0));
  if (name === undefined || status.extents.has(name)) throw violation("the NBD server sent a wrong block status");
  const extents: BlockExtent[] = [];
  const endBytes = status.offsetBytes + status.lengthBytes;
  for (let at = 4, offsetBytes = status.offsetBytes; at < data.length && offsetBytes < endBytes; at += 8) {
    // Only the last extent may go beyond what was asked for, in base:allocation of some servers.
    const lengthBytes = Math.min(data.readUInt32BE(at), endBytes - offsetBytes);
    if (lengthBytes === 0) throw violation("the NBD server sent a wrong block status");
    extents.push({ offsetBytes, lengthBytes, flags: data.readUInt32BE(at + 4) });
    offsetBytes += lengthBytes;
  }
  status.extents.set(name, extents);
}

function* payload(lengthBytes: number, maxBytes: number): Steps<Buffer> {
  if (lengthBytes > maxBytes)
    throw violation(`the NBD server sent ${lengthBytes} bytes where ${maxBytes} are the limit`);
  return lengthBytes === 0 ? Buffer.alloc(0) : yield lengthBytes;
}

function optionRequest(option: number, data: Uint8Array): Buffer {
  const header = Buffer.alloc(16);
  header.writeBigUInt64BE(OPTION_MAGIC, 0);
  header.writeUInt32BE(option, 8);
  header.writeUInt32BE(data.length, 12);
  return Buffer.concat([header, data]);
}

function lengthPrefixed(text: string): Buffer {
  const bytes = Buffer.from(text, "utf8");
  return Buffer.concat([uint32(bytes.length), bytes]);
}

function uint16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function safeNumber(value: bigint): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw violation("the NBD server sent a number that is too large");
  return Number(value);
}

/** The server's words without what could disturb a terminal. */
function printable(bytes: Buffer): string {
  return bytes.toString("utf8").replace(/[\p{Cc}\p{Bidi_Control}]/gu, " ");
}

function failed(errno: number, words: string): GodwitError {
  const text = `the NBD server could not answer: ${words || `error ${errno}`}`;
  return new GodwitError("QMP_NBD_FAILED", text, { errno });
}

function violation(text: string): GodwitError {
  return new GodwitError("QMP_NBD_PROTOCOL", text);
}
