// Exactly one machine runs: real QEMUs, with a peer that breaks off at the worst moments of the hand-off. The peers here are
// built of the same parts as ours, and leave out or stop at a step. Links that break there: reconnect-hand-off.test.ts.
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { startMigration } from "../../lab/godwit.ts";
import type { Pair } from "../../lab/pair.ts";
import type { Vm } from "../../lab/vm.ts";
import { cleanWalks } from "../../lab/walks.ts";
import { PAGE_FORMAT } from "../../src/compact/limits.ts";
import { receiveFromPeer } from "../../src/migration/destination.ts";
import { DestinationVm } from "../../src/migration/destination-vm.ts";
import type { MigrationEvent, SourceSummary } from "../../src/migration/events.ts";
import { Peer } from "../../src/migration/peer.ts";
import { StreamReceiver } from "../../src/migration/receiver.ts";
import { StreamSender } from "../../src/migration/sender.ts";
import { migrateToPeer } from "../../src/migration/source.ts";
import { SourceVm } from "../../src/migration/source-vm.ts";
import { readFacts } from "../../src/qemu/facts.ts";
import { QmpClient } from "../../src/qemu/qmp.ts";
import { SessionStore } from "../../src/store/session-store.ts";
import { generatePsk } from "../../src/wire/psk.ts";
import { connect, listen } from "../../src/wire/transport.ts";
import { SMALL_LOAD, startPair } from "./support/pair.ts";

const security = { kind: "psk", psk: generatePsk() } as const;
const HOST = "127.0.0.1";
const greeting = { generation: 1, program: "test", pageFormat: PAGE_FORMAT, features: [], disks: [], cachePages: 0 };

/** What a receiver does at the end of the stream instead of the right thing. */
type ReceiverFault = "drops after COMMIT" | "aborts after COMMIT";

/** A receiver that feeds a real destination QEMU, and misbehaves in the hand-off. Returns its port. */
async function faultyReceiver(pair: Pair, fault: ReceiverFault): Promise<{ port: number } & AsyncDisposable> {
  const qmp = await QmpClient.connect(pair.destination.qmpPath);
  const vm = await DestinationVm.open(qmp);
  const facts = await readFacts(qmp);
  const folder = mkdtempSync(join(tmpdir(), "godwit-test-"));
  const listener = await listen({
    host: HOST,
    port: 0,
    security,
    onRejected: () => {},
    onConnection: async (connection) => {
      const peer: Peer = new Peer(connection, "receiver", {
        onMessage: (message) => {
          if (message.type === "HELLO") {
            const { session } = message;
            peer.send({
              type: "WELCOME",
              session,
              ...greeting,
              vm: facts,
              checkpoints: [],
              rawOffset: 0,
              windowBytes: 1 << 26,
            });
          }
          if (message.type === "END") receiver.onEndOfStream(message.rawBytes);
          if (message.type === "COMMIT" && fault === "drops after COMMIT") peer.destroy();
          if (message.type === "COMMIT" && fault === "aborts after COMMIT") {
            void vm.giveUp().then(() => peer.send({ type: "ABORT", code: "TEST", message: "its disk has gone" }));
          }
        },
        onData: (header) => receiver.onData(header),
        onDataComplete: (header, body) => receiver.onDataComplete(header, body),
      });
      const receiver: StreamReceiver = new StreamReceiver({
        send: (message) => peer.send(message),
        onRoom: () => peer.onRoom(),
        onError: () => {},
        ping: () => peer.ping(),
        wireBytes: () => peer.receivedBytes,
      });
      await vm.start(join(folder, "s"));
      await receiver.connect(join(folder, "s"));
      peer.onRoom();
      await vm.loaded(AbortSignal.timeout(60_000));
      peer.send({ type: "LOADED", loadMs: 0, rawBytes: receiver.rawBytes });
    },
  });
  const dispose = async () => {
    listener.close();
    qmp.close();
    rmSync(folder, { recursive: true, force: true });
  };
  return { port: listener.address.port, [Symbol.asyncDispose]: dispose };
}

async function sendTo(pair: Pair, port: number): Promise<{ summary: SourceSummary; events: MigrationEvent[] }> {
  const events: MigrationEvent[] = [];
  const onEvent = (event: MigrationEvent) => void events.push(event);
  const to = { host: HOST, port };
  const summary = await migrateToPeer({ qmpPath: pair.source.qmpPath, to, security, onEvent, reconnectForMs: 0 });
  return { summary, events };
}

test("the link breaks right after COMMIT: the source stays stopped, in doubt, and can be made to run", async () => {
  await using pair = await startPair({ load: SMALL_LOAD });
  await using receiver = await faultyReceiver(pair, "drops after COMMIT");
  const { summary, events } = await sendTo(pair, receiver.port);
  expect(summary.status).toBe("in-doubt");
  expect(events.at(-2)).toMatchObject({ event: "error", vm: expect.stringMatching(/stopped here, and may run/) });
  expect(await pair.source.qmp.execute("query-status")).toMatchObject({ status: "postmigrate" });
  // The person has looked: the destination did not start it.
  expect(await pair.destination.qmp.execute("query-status")).toMatchObject({ status: "paused" });
  await pair.destination.quit();
  await pair.source.qmp.execute("cont");
  await cleanWalks(pair.source, 1);
});

test("the destination gives up after COMMIT and says so: the guest goes on at the source", async () => {
  await using pair = await startPair({ load: SMALL_LOAD });
  await using receiver = await faultyReceiver(pair, "aborts after COMMIT");
  const { summary, events } = await sendTo(pair, receiver.port);
  expect(summary.status).toBe("failed");
  expect(events.at(-2)).toMatchObject({ event: "error", vm: "the VM keeps running here" });
  await pair.destination.exited;
  await cleanWalks(pair.source, 1);
});

/** A sender that moves a real source QEMU's stream, and drops the link instead of saying COMMIT. */
async function faultySender(pair: Pair, port: number): Promise<string> {
  const qmp = await QmpClient.connect(pair.source.qmpPath);
  using _ = qmp;
  const vm = await SourceVm.open(qmp);
  const folder = mkdtempSync(join(tmpdir(), "godwit-test-"));
  const welcome = Promise.withResolvers<void>();
  const loaded = Promise.withResolvers<void>();
  const connection = await connect({ host: HOST, port, security });
  let sender: StreamSender | undefined;
  const peer = new Peer(connection, "sender", {
    onMessage: (message) => {
      if (message.type === "WELCOME") welcome.resolve();
      if (message.type === "LOADED") loaded.resolve();
      if (message.type === "ACK") sender?.acknowledge(message);
      if (message.type === "RETURN") sender?.writeReturn(message);
    },
  });
  peer.send({
    type: "HELLO",
    session: "0".repeat(32),
    ...greeting,
    checkpointPages: 0,
    tagKey: "0".repeat(64),
    returnOffset: 0,
    knownHashes: 0,
    vm: await readFacts(qmp),
  });
  await welcome.promise;
  const server = net.createServer({ pauseOnConnect: true, allowHalfOpen: true }).listen(join(folder, "s"));
  await once(server, "listening");
  sender = new StreamSender(peer, { onError: loaded.reject });
  await vm.start(join(folder, "s"), { limit: { downtimeLimitMs: 300, bandwidthBytesPerSecond: null } });
  const [accepted] = (await once(server, "connection")) as [net.Socket];
  server.close();
  sender.start(accepted);
  await vm.completed(AbortSignal.timeout(60_000));
  peer.send({ type: "SWITCHOVER" });
  await loaded.promise;
  const { status } = await pair.destination.qmp.execute("query-status");
  peer.end();
  rmSync(folder, { recursive: true, force: true });
  return status;
}

async function receiveOn(pair: Pair) {
  const events: MigrationEvent[] = [];
  const listening = Promise.withResolvers<number>();
  const onEvent = (event: MigrationEvent) => {
    events.push(event);
    if (event.event === "listening") listening.resolve(event.port);
  };
  const listenAt = { host: HOST, port: 0 };
  const ways = { qmpPath: pair.destination.qmpPath, listen: listenAt, security, reconnectForMs: 0 };
  const ended = receiveFromPeer({ ...ways, onEvent });
  return { port: await listening.promise, ended, events };
}

test("no COMMIT comes: the copy is held, and does not run, not even without -S", async () => {
  await using pair = await startPair({ load: SMALL_LOAD, destinationAutostart: true });
  const receive = await receiveOn(pair);
  expect(await faultySender(pair, receive.port)).toBe("paused"); // loaded, and held
  // The source may have handed it over, for all that is known here.
  expect(await receive.ended).toMatchObject({ status: "in-doubt" });
  expect(await pair.destination.qmp.execute("query-status")).toMatchObject({ status: "paused" });
  expect(pair.destination.ticks.lines).toHaveLength(0);
  await pair.destination.quit();
  await pair.source.qmp.execute("cont");
  await cleanWalks(pair.source, 1);
});

test("a paused VM is paused at the destination, and QEMU's settings are put back", async () => {
  await using pair = await startPair({ load: SMALL_LOAD });
  const parameters = { "downtime-limit": 123, "max-bandwidth": 77_000_000 };
  await pair.source.qmp.execute("migrate-set-parameters", parameters);
  await pair.source.qmp.execute("stop");
  await using migration = await startMigration(pair, { sendArgs: ["--no-keep-checkpoint"] });
  expect(await migration.send.exited).toMatchObject({ code: 0, stderr: "" });
  expect(migration.send.events.at(-1)).toMatchObject({ status: "completed", downtimeMs: null });
  expect(await pair.destination.qmp.execute("query-status")).toMatchObject({ running: false });
  expect(await pair.source.qmp.execute("query-migrate-parameters")).toMatchObject(parameters);
  const [session] = await (await SessionStore.open(pair.hosts.source.stateDir!)).list();
  expect(session!.content).toMatchObject({ state: "running", run: false });
  await pair.destination.qmp.execute("cont");
  await cleanWalks(pair.destination, 1);
});

test("a guest that sleeps (S3) sleeps on at the destination, and wakes up there", async () => {
  await using pair = await startPair({ load: SMALL_LOAD });
  const { source, destination } = pair;
  const statusOf = async ({ qmp }: Vm) => (await qmp.execute("query-status")).status;
  source.console.send("echo mem >/sys/power/state");
  await expect.poll(() => statusOf(source)).toBe("suspended");
  await using migration = await startMigration(pair, { sendArgs: ["--no-keep-checkpoint"] });
  expect(await migration.send.exited).toMatchObject({ code: 0, stderr: "" });
  expect(await statusOf(destination)).toBe("suspended");
  await destination.qmp.execute("human-monitor-command", { "command-line": "system_wakeup" });
  await cleanWalks(destination, 1);
});
