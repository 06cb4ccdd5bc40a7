import { isDeepStrictEqual } from "node:util";
import fc from "fast-check";
import { parseFacts } from "../../../src/migration/greeting.ts";
import { compareFacts, type VmFacts } from "../../../src/qemu/facts.ts";
import { HEADER_BYTES } from "../../../src/wire/messages.ts";
import { type AnyMessage, anyMessage, collector, encode, exchange } from "../../unit/wire-fixtures.ts";
import { mutateBytes, mutateJson } from "../mutate.ts";
import type { Random } from "../random.ts";
import { type FuzzTarget, WrongOutput } from "../target.ts";

/** Reads the messages in `bytes`, cut as `nextCut` says; what was thrown is part of the result. */
function read(bytes: Uint8Array, nextCut: () => number): { messages: AnyMessage[]; error: unknown } {
  const { messages, reader } = collector();
  try {
    for (let at = 0; at < bytes.length; ) {
      const end = at + Math.max(1, nextCut());
      reader.push(bytes.subarray(at, end));
      at = end;
    }
    return { messages, error: undefined };
  } catch (error) {
    return { messages, error };
  }
}

const JSON_AT: Partial<Record<AnyMessage["type"], number>> = {
  ...{ HELLO: 16, WELCOME: 16, REFUSE: 8, LOADED: 8, COMMIT: 8, RUNNING: 8, ABORT: 8 },
};

/** A message whose JSON is changed, and which is whole but for that. */
function withOtherJson(random: Random): Uint8Array {
  const jsonMessages = exchange.filter(({ type }) => type in JSON_AT);
  const message = random.pick(jsonMessages);
  const bytes = Buffer.from(encode(message));
  const at = JSON_AT[message.type]!;
  const json = Buffer.from(JSON.stringify(mutateJson(JSON.parse(bytes.toString("utf8", at)), random)) ?? "");
  const whole = Buffer.concat([bytes.subarray(0, at), json]);
  whole.writeUInt32LE(whole.length - HEADER_BYTES, 4);
  return whole;
}

const messages: FuzzTarget = {
  name: "messages of the wire",
  share: 20,
  refuses: /^WIRE_/,
  seeds: () => [
    ...exchange.map(encode),
    Buffer.concat(exchange.map(encode)),
    ...fc.sample(anyMessage, { numRuns: 100, seed: 1 }).map(encode),
  ],
  input: (seeds, random) =>
    random.chance(0.3) ? withOtherJson(random) : mutateBytes(random.pick(seeds), seeds, random, 200_000),
  feed(input, random) {
    const whole = read(input, () => input.length);
    const cut = read(input, () => random.small(2000));
    if (!isDeepStrictEqual(whole.messages, cut.messages)) throw new WrongOutput("cuts change what is read");
    if ((whole.error === undefined) !== (cut.error === undefined)) throw new WrongOutput("cuts change what is refused");
    for (const message of whole.messages) {
      const bytes = encode(message);
      const [again] = read(bytes, () => bytes.length).messages;
      if (again === undefined || Buffer.compare(encode(again), bytes) !== 0)
        throw new WrongOutput(`${message.type} is not what it encodes to`);
    }
    if (whole.error !== undefined) throw whole.error;
  },
};

const facts: VmFacts = {
  qemuVersion: { major: 10, minor: 0, micro: 2, package: "Debian 1:10.0.2+ds-2" },
  machineType: "pc-q35-10.0",
  memoryBytes: 2 ** 30,
  cpus: 2,
  blockDevices: [{ id: "virtio-disk0", readOnly: false, virtualSizeBytes: 2 ** 30 }],
  name: "web1",
  uuid: "7b0e2a3c-2f6d-4d3a-9b43-0c9d2f3b1a55",
};

const peerFacts: FuzzTarget = {
  name: "the peer's facts",
  share: 1,
  refuses: /^PEER_BAD_FACTS$/,
  seeds: () => [Buffer.from(JSON.stringify(facts))],
  input: (_seeds, random) => Buffer.from(JSON.stringify(mutateJson(facts, random)) ?? "null"),
  feed(input) {
    const theirs = parseFacts(JSON.parse(Buffer.from(input).toString()));
    for (const { text } of compareFacts(facts, theirs)) {
      if (/[\p{Cc}\p{Bidi_Control}]/u.test(text))
        throw new WrongOutput("what people are shown could disturb a terminal");
    }
  },
};

export const WIRE_TARGETS = [messages, peerFacts];
