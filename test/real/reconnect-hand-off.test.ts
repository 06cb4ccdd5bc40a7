// The link is cut at exactly one message of the hand-off, between real QEMUs: the VM never runs twice, and ends where docs/hand-off.md
// says. A relay that has the key sees which message is which, so nothing depends on time.
import { join } from "node:path";
import { expect, test } from "vitest";
import { FaultyMessages, type MessageCut } from "../../lab/faulty-messages.ts";
import { temporaryFolder } from "../../lab/leftovers.ts";
import type { Pair } from "../../lab/pair.ts";
import type { Vm } from "../../lab/vm.ts";
import { cleanWalks } from "../../lab/walks.ts";
import { receiveFromPeer } from "../../src/migration/destination.ts";
import type { MigrationEvent } from "../../src/migration/events.ts";
import { migrateToPeer } from "../../src/migration/source.ts";
import { SessionStore } from "../../src/store/session-store.ts";
import type { Address } from "../../src/wire/address.ts";
import { generatePsk } from "../../src/wire/psk.ts";
import { SMALL_LOAD, startPair, watch } from "./support/pair.ts";

const security = { kind: "psk", psk: generatePsk() } as const;

/** State folders of the two ends, gone with it. */
function stateFolders() {
  const folder = temporaryFolder();
  const at = (name: string) => join(folder.path, name);
  return { source: at("source"), destination: at("destination"), [Symbol.dispose]: () => folder[Symbol.dispose]() };
}

interface Way {
  readonly state: { readonly source: string; readonly destination: string };
  readonly reconnectForMs?: number;
  /** What stands between the two ends. */
  readonly relay?: FaultyMessages;
}

/** Both ends, as `send` and `receive` run them, until both have ended; each with its events. */
async function moveVm(pair: Pair, { state, reconnectForMs, relay }: Way) {
  const listening = Promise.withResolvers<Address>();
  const events: { source: MigrationEvent[]; destination: MigrationEvent[] } = { source: [], destination: [] };
  const both = { security, reconnectForMs };
  const received = receiveFromPeer({
    ...{ ...both, qmpPath: pair.destination.qmpPath, stateDir: state.destination },
    listen: { host: "127.0.0.1", port: 0 },
    onEvent: (event) => {
      events.destination.push(event);
      if (event.event === "listening") listening.resolve(event);
    },
  });
  const { host, port } = await Promise.race([listening.promise, received.then(() => Promise.reject(events))]);
  const to = (await relay?.listen({ host, port })) ?? { host, port };
  const sent = migrateToPeer({
    ...{ ...both, qmpPath: pair.source.qmpPath, stateDir: state.source },
    ...{ to, onEvent: (event) => void events.source.push(event) },
  });
  const statuses = { source: (await sent).status, destination: (await received).status };
  return { statuses, events };
}

const statusOf = async ({ qmp }: Vm) => (await qmp.execute("query-status")).status;

/** What the journals of both ends say of the last session. */
async function noted(state: Way["state"]): Promise<unknown> {
  const of = async (stateDir: string) => (await (await SessionStore.open(stateDir)).list())[0]?.content?.state;
  return { source: await of(state.source), destination: await of(state.destination) };
}

const reconnections = (events: readonly MigrationEvent[]) =>
  events.filter(({ event }) => event === "reconnected").length;

const CUTS: readonly MessageCut[] = [
  { at: "LOADED", hasArrived: false },
  { at: "LOADED", hasArrived: true },
  { at: "COMMIT", hasArrived: false },
  { at: "COMMIT", hasArrived: true },
  { at: "RUNNING", hasArrived: false },
];

test("cut at each message from LOADED to RUNNING, and connected again: the VM goes to the destination, there and back", async () => {
  await using first = await startPair({ load: SMALL_LOAD });
  let pair = first;
  for (const cut of CUTS) {
    using state = stateFolders();
    await using watched = await watch(pair);
    await using relay = new FaultyMessages(security, cut, true);
    const name = `${cut.at} ${cut.hasArrived ? "has come" : "is lost"}`;
    const { statuses, events } = await moveVm(pair, { state, relay });
    expect(statuses, name).toEqual({ source: "completed", destination: "completed" });
    expect(relay.hasCut, name).toBe(true);
    expect([events.source, events.destination].map(reconnections), name).toEqual([1, 1]);
    expect(await Promise.all([pair.source, pair.destination].map(statusOf)), name).toEqual(["postmigrate", "running"]);
    expect(await noted(state), name).toEqual({ source: "running", destination: "running" });
    await cleanWalks(pair.destination, 1);
    expect(watched.verdict(), name).toBeUndefined();
    pair = await pair.back();
  }
});

/** Both ends give up soon: nobody can connect any more. */
async function cutForGood(pair: Pair, state: Way["state"], cut: MessageCut) {
  await using relay = new FaultyMessages(security, cut, false);
  const moved = await moveVm(pair, { state, relay, reconnectForMs: 1500 });
  expect(relay.hasCut).toBe(true);
  return moved.statuses;
}

test("LOADED is lost, and the link for good: the guest goes on at the source, and the copy is held", async () => {
  await using pair = await startPair({ load: SMALL_LOAD });
  using state = stateFolders();
  await using watched = await watch(pair);
  const statuses = await cutForGood(pair, state, { at: "LOADED", hasArrived: false });
  expect(statuses).toEqual({ source: "failed", destination: "in-doubt" });
  expect(await noted(state)).toEqual({ source: "aborted", destination: "loaded" });
  expect(await statusOf(pair.destination)).toBe("paused");
  await cleanWalks(pair.source, 1);
  expect(watched.verdict()).toBeUndefined();
});

test("COMMIT is lost, and the link for good: nobody runs it until both are started again, then the destination", async () => {
  await using pair = await startPair({ load: SMALL_LOAD });
  using state = stateFolders();
  await using watched = await watch(pair);
  const statuses = await cutForGood(pair, state, { at: "COMMIT", hasArrived: false });
  expect(statuses).toEqual({ source: "in-doubt", destination: "in-doubt" });
  expect(await noted(state)).toEqual({ source: "committed", destination: "loaded" });
  expect(await Promise.all([pair.source, pair.destination].map(statusOf))).toEqual(["postmigrate", "paused"]);
  const again = await moveVm(pair, { state });
  expect(again.statuses).toEqual({ source: "completed", destination: "completed" });
  expect(await noted(state)).toEqual({ source: "running", destination: "running" });
  await cleanWalks(pair.destination, 1);
  expect(watched.verdict()).toBeUndefined();
});

test("RUNNING is lost, and the link for good: it runs at the destination, and the source stays stopped until it is told", async () => {
  await using pair = await startPair({ load: SMALL_LOAD });
  using state = stateFolders();
  await using watched = await watch(pair);
  const statuses = await cutForGood(pair, state, { at: "RUNNING", hasArrived: false });
  expect(statuses).toEqual({ source: "in-doubt", destination: "completed" });
  expect(await noted(state)).toEqual({ source: "committed", destination: "running" });
  expect(await Promise.all([pair.source, pair.destination].map(statusOf))).toEqual(["postmigrate", "running"]);
  await cleanWalks(pair.destination, 1);
  expect(watched.verdict()).toBeUndefined();
});
