/** The greeting that both sides of a benchmark exchange, without a VM. */
import { PAGE_FORMAT } from "../src/compact/limits.ts";
import type { Peer } from "../src/migration/peer.ts";
import type { Message } from "../src/wire/messages.ts";
import type { Security } from "../src/wire/transport.ts";

const SESSION = "0".repeat(32);

/** "plain": no TLS at all; "key": one that everyone knows; else the folder of certificates that are for "bench". */
export function security(transport: string): Security {
  if (transport === "plain") return { kind: "none" };
  if (transport === "key") return { kind: "psk", psk: { identity: "bench", key: Buffer.alloc(32, 7) } };
  return { kind: "tls", folder: transport, peerNames: ["bench"] };
}

const greeting = {
  session: SESSION,
  generation: 1,
  program: "bench",
  pageFormat: PAGE_FORMAT,
  features: [],
  vm: {},
  disks: [],
  cachePages: 0,
};

export function greetAsSender(peer: Peer): void {
  peer.send({
    type: "HELLO",
    ...greeting,
    checkpointPages: 0,
    tagKey: "0".repeat(64),
    returnOffset: 0,
    knownHashes: 0,
  });
}

export function greetAsReceiver(peer: Peer, _hello: Extract<Message, { type: "HELLO" }>): void {
  peer.send({ type: "WELCOME", ...greeting, checkpoints: [], rawOffset: 0, windowBytes: 64 << 20 });
}
