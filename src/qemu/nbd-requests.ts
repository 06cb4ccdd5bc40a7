/** The transmission phase of NBD, as far as a reader of disks needs it: reads and block status (doc/proto.md of NetworkBlockDevice/nbd). */

import { GodwitError } from "../errors.ts";
import type { Negotiated } from "./nbd-handshake.ts";
import { MAX_MESSAGE_BYTES, payload, printable, type Steps, safeNumber, violation } from "./nbd-steps.ts";

const REQUEST_MAGIC = 0x25609513;
const SIMPLE_REPLY_MAGIC = 0x67446698;
const STRUCTURED_REPLY_MAGIC = 0x668e33ef;

export const COMMAND_READ = 0;
export const COMMAND_DISCONNECT = 2;
export const COMMAND_BLOCK_STATUS = 7;

const REPLY_DONE = 1;
const REPLY_NONE = 0;
const REPLY_OFFSET_DATA = 1;
const REPLY_OFFSET_HOLE = 2;
const REPLY_BLOCK_STATUS = 5;
const REPLY_ERROR = 0x8000;

/** QEMU sends at most 1 MiB of extents in a reply (NBD_MAX_BLOCK_STATUS_EXTENTS, nbd/server.c). */
const MAX_STATUS_BYTES = 4 + 2 ** 20;

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

interface ReadRequest extends Settled {
  readonly offsetBytes: number;
  readonly target: Uint8Array;
  missingBytes: number;
}

interface StatusRequest extends Settled {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly extents: Map<string, BlockExtent[]>;
}

/** Requests in flight by their cookie. */
export type Pending = Map<number, ReadRequest | StatusRequest>;

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

function failed(errno: number, words: string): GodwitError {
  const text = `the NBD server could not answer: ${words || `error ${errno}`}`;
  return new GodwitError("QMP_NBD_FAILED", text, { errno });
}
