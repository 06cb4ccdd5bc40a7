import { afterEach, describe, expect, test } from "vitest";
import { GodwitError } from "../../src/errors.ts";
import { Peer } from "../../src/migration/peer.ts";
import { probeLink } from "../../src/migration/plan/link-probe.ts";
import { ProbeAnswer, type ProbeLimits } from "../../src/migration/plan/probe-answer.ts";
import type { VmFacts } from "../../src/qemu/facts.ts";
import type { Message } from "../../src/wire/messages.ts";
import { generatePsk } from "../../src/wire/psk.ts";
import { type Listener, listen } from "../../src/wire/transport.ts";

const security = { kind: "psk", psk: generatePsk() } as const;
const facts: VmFacts = {
  qemuVersion: { major: 10, minor: 0, micro: 0, package: "" },
  machineType: "pc-q35-10.0",
  memoryBytes: 1 << 30,
  cpus: 1,
  blockDevices: [],
  name: "vm",
  uuid: "00000000-0000-0000-0000-000000000000",
};

const listeners: Listener[] = [];
afterEach(() => {
  for (const listener of listeners.splice(0)) listener.close();
});

/** A receiver that answers plans only; or, with `answer`, in a way of its own. */
async function receiver(limits: ProbeLimits = {}, answer?: (peer: Peer, hello: Message) => void) {
  const seen: Message[] = [];
  const listener = await listen({
    host: "127.0.0.1",
    port: 0,
    security,
    onRejected: () => {},
    onConnection: (connection) => {
      let probe: ProbeAnswer | undefined;
      const peer: Peer = new Peer(connection, "receiver", {
        onMessage: (message) => {
          if (message.type !== "HELLO") {
            seen.push(message);
            probe?.onMessage(message);
          } else if (answer !== undefined) answer(peer, message);
          else probe = new ProbeAnswer(peer, message, facts, limits);
        },
      });
    },
  });
  listeners.push(listener);
  return { seen, to: { ...listener.address, security } };
}

describe("a link probe", () => {
  test("measures the link, and what it fits, over TLS", async () => {
    const { to, seen } = await receiver();
    const figures = await probeLink(to, facts);
    expect(figures.goodputBytesPerSecond).toBeGreaterThan(1e6);
    expect(figures.stretchesBytesPerSecond.length).toBeGreaterThanOrEqual(5);
    expect(figures.roundTripMs.low).toBeGreaterThan(0);
    expect(figures.roundTripMs.low).toBeLessThanOrEqual(figures.roundTripMs.expected);
    expect(figures.facts).toEqual(facts);
    expect(new Set(seen.map(({ type }) => type))).toEqual(new Set(["PROBE"]));
  });

  test("is refused where a migration would be", async () => {
    const { to } = await receiver({}, (peer) => {
      peer.send({ type: "REFUSE", code: "MIGRATION_BUSY", message: "another migration to this QEMU is under way" });
      peer.end();
    });
    await expect(probeLink(to, facts)).rejects.toMatchObject({
      code: "PEER_REFUSED",
      details: { code: "MIGRATION_BUSY" },
    });
  });

  test("says so where the other VM does not fit", async () => {
    const { to } = await receiver();
    await expect(probeLink(to, { ...facts, cpus: 2 })).rejects.toMatchObject({
      message: expect.stringContaining("cpus: 2 here, 1 at the destination"),
    });
  });

  test("refuses a receiver that would take it for a migration", async () => {
    const refused = Promise.withResolvers<Message>();
    const { to, seen } = await receiver({}, (peer, hello) => {
      if (hello.type !== "HELLO") return;
      const { session, generation, program, pageFormat, disks } = hello;
      const rest = { features: [], checkpoints: [], cachePages: 0, rawOffset: 0, windowBytes: 1 << 23, vm: facts };
      peer.send({ type: "WELCOME", session, generation, program, pageFormat, disks, ...rest });
      void peer.closed.then(
        () => refused.resolve(seen[0]!),
        () => refused.resolve(seen[0]!),
      );
    });
    await expect(probeLink(to, facts)).rejects.toMatchObject({ code: "PEER_NO_PROBE" });
    expect(await refused.promise).toMatchObject({ type: "REFUSE", code: "PEER_NO_PROBE" });
  });

  test.each([
    ["time", { maxMs: 300 }, "more than 0.3 s"],
    ["bytes", { maxBytes: 1 << 20 }, "too much"],
  ])("is ended by the receiver when it has had its share of %s", async (_, limits, why) => {
    const { to } = await receiver(limits);
    const error: GodwitError = await probeLink(to, facts).then(
      () => expect.unreachable(),
      (error) => error,
    );
    expect(error).toBeInstanceOf(GodwitError);
    expect(error.message).toContain(why);
  });

  test("can be cancelled", async () => {
    const { to } = await receiver();
    const signal = AbortSignal.timeout(300);
    await expect(probeLink({ ...to, signal }, facts)).rejects.toMatchObject({ name: "TimeoutError" });
  });

  test("has nothing of a migration on its connection", async () => {
    const ended = Promise.withResolvers<unknown>();
    const { to } = await receiver({}, (peer, hello) => {
      const probe = new ProbeAnswer(peer, hello as Extract<Message, { type: "HELLO" }>, facts);
      expect(() => probe.onMessage({ type: "SWITCHOVER" })).toThrow(/SWITCHOVER/);
      probe.end("a migration begins");
      expect(probe.isOver).toBe(true);
      void peer.closed.then(ended.resolve, ended.resolve);
    });
    await expect(probeLink(to, facts)).rejects.toMatchObject({
      message: expect.stringContaining("a migration begins"),
    });
    await ended.promise;
  });
});
