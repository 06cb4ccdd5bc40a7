// Programs that are killed in the middle of a migration and started again: the VM never runs twice, it ends up running at one place,
// and both journals know where. A sender that keeps a checkpoint is there for seconds more, so that it is killed before its end.
import { expect, test } from "vitest";
import { type GodwitProcess, type Migration, startGodwit, startMigration } from "../../lab/godwit.ts";
import type { Pair } from "../../lab/pair.ts";
import type { Vm } from "../../lab/vm.ts";
import { cleanWalks } from "../../lab/walks.ts";
import { SessionStore } from "../../src/store/session-store.ts";
import { SMALL_LOAD, startPair, watch } from "./support/pair.ts";

/** The bulk round takes some seconds. */
const SLOW = ["--max-bandwidth", "4M"];

/** Kills the program, and starts it as it was started before. */
async function restartReceive(pair: Pair, migration: Migration): Promise<GodwitProcess> {
  migration.receive.kill("SIGKILL");
  await migration.receive.exited;
  const { host, port } = await migration.receive.event("listening");
  const args = ["--qmp", pair.destination.qmpPath, "--listen", `${host}:${port}`, "--psk-file", migration.pskPath];
  return startGodwit(pair.hosts.destination, ["receive", ...args, "--json"]);
}

async function restartSend(pair: Pair, migration: Migration): Promise<GodwitProcess> {
  migration.send.kill("SIGKILL");
  await migration.send.exited;
  const { host, port } = await migration.receive.event("listening");
  const args = ["--qmp", pair.source.qmpPath, "--to", `${host}:${port}`, "--psk-file", migration.pskPath];
  return startGodwit(pair.hosts.source, ["send", ...args, "--json"]);
}

/** What the journals of both ends say of the only session. */
async function noted({ hosts }: Pair): Promise<unknown[]> {
  const ends = [];
  for (const { stateDir } of [hosts.source, hosts.destination]) {
    const [only] = await (await SessionStore.open(stateDir!)).list();
    ends.push({ state: only?.content?.state, isSettled: only?.content?.isSettled });
  }
  return ends;
}

async function runs(vm: Vm): Promise<boolean> {
  return (await vm.qmp.execute("query-status")).running;
}

test("receive is killed once it has loaded the VM: started again, it takes it over", async () => {
  await using pair = await startPair({ load: SMALL_LOAD });
  await using watched = await watch(pair);
  await using migration = await startMigration(pair);
  await migration.receive.event("loaded");
  await using again = await restartReceive(pair, migration);
  expect(await migration.send.exited).toMatchObject({ code: 0 });
  expect(await again.exited).toMatchObject({ code: 0 });
  expect(await runs(pair.source)).toBe(false);
  await cleanWalks(pair.destination, 1);
  expect(watched.verdict()).toBeUndefined();
  const settled = { state: "running", isSettled: true };
  expect(await noted(pair)).toEqual([settled, settled]);
});

test("receive is killed while the stream flows: started again, it gives up, and the guest goes on at the source", async () => {
  await using pair = await startPair({ load: SMALL_LOAD });
  await using watched = await watch(pair);
  await using migration = await startMigration(pair, { sendArgs: SLOW });
  await migration.receive.event("receiving");
  await using again = await restartReceive(pair, migration);
  expect(await migration.send.exited).toMatchObject({ code: 1 });
  expect(await again.exited).toMatchObject({ code: 1 });
  await pair.destination.exited;
  await cleanWalks(pair.source, 1);
  expect(watched.verdict()).toBeUndefined();
  const settled = { state: "aborted", isSettled: true };
  expect(await noted(pair)).toEqual([settled, settled]);
});

test("send is killed once it has handed the VM over: started again, it learns that it runs there", async () => {
  await using pair = await startPair({ load: SMALL_LOAD });
  await using watched = await watch(pair);
  await using migration = await startMigration(pair);
  await migration.send.event("committed");
  await using again = await restartSend(pair, migration);
  expect(await again.exited).toMatchObject({ code: 0 });
  expect(await migration.receive.exited).toMatchObject({ code: 0 });
  expect(await runs(pair.source)).toBe(false);
  await cleanWalks(pair.destination, 1);
  expect(watched.verdict()).toBeUndefined();
});

test("send is killed while the stream flows: started again, it tells the destination that the VM stays", async () => {
  await using pair = await startPair({ load: SMALL_LOAD });
  await using watched = await watch(pair);
  await using migration = await startMigration(pair, { sendArgs: SLOW });
  await migration.receive.event("receiving");
  await using again = await restartSend(pair, migration);
  expect(await migration.receive.exited).toMatchObject({ code: 1 });
  expect(await again.exited).toMatchObject({ code: 2 }); // nobody listens any more
  await pair.destination.exited;
  await cleanWalks(pair.source, 1);
  expect(watched.verdict()).toBeUndefined();
});
