/** The beginning of an NBD connection: fixed newstyle, the metadata contexts, and the export (doc/proto.md of NetworkBlockDevice/nbd). */

import { GodwitError } from "../errors.ts";
import { MAX_MESSAGE_BYTES, payload, printable, type Steps, safeNumber, violation } from "./nbd-steps.ts";

const INIT_MAGIC = 0x4e42444d41474943n; // "NBDMAGIC"
const OPTION_MAGIC = 0x49484156454f5054n; // "IHAVEOPT"
const OPTION_REPLY_MAGIC = 0x0003e889045565a9n;

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
/**
 * A flag of reads. Don't fragment: all data in one chunk, holes as zeros. QEMU then need not look for holes first: a fifth less CPU
 * for 4 KiB of an image with a backing file.
 */
const COMMAND_FLAG_DF = 1 << 2;

/** What was agreed with the server. */
export interface Negotiated {
  readonly sizeBytes: number;
  readonly hasStructuredReplies: boolean;
  /** The command flags for reads. */
  readonly readFlags: number;
  /** Of the contexts asked for, those that the server has, by its numbers for them. */
  readonly contexts: ReadonlyMap<number, string>;
}

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
