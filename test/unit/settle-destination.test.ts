// A `receive` that is started again goes on with the session of its journal, and answers for those that are over.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { PAGE_FORMAT } from "../../src/compact/limits.ts";
import type { SessionState } from "../../src/migration/hand-off/steps.ts";
import { readHello, refuse } from "../../src/migration/hello.ts";
import { Peer } from "../../src/migration/peer.ts";
import { LeftSessions } from "../../src/migration/settle-destination.ts";
import { readProcess } from "../../src/qemu/process.ts";
import { QmpClient } from "../../src/qemu/qmp.ts";
import { SessionStore } from "../../src/store/session-store.ts";
import type { Message } from "../../src/wire/messages.ts";
import { connect, listen } from "../../src/wire/transport.ts";
import { FakeQmp } from "./support/fake-qmp.ts";
import { spoilJournal } from "./support/spoil-journal.ts";

const SESSION = "3fa94c0122334455667788990011aabb";
const SECRET = "0f".repeat(32);
const VM = { name: "web1", uuid: "3d0f6a6e-6d3c-4f0e-9d6a-2c6f9f6f0001" };
const security = { kind: "none" } as const;

/** A destination QEMU whose `receive` was killed once its journal said `states`, and a new one's listener. */
async function left(
  states: readonly SessionState[],
  { status = "paused", isSettled = false, isGone = false, spoil = undefined as "record" | "whole" | undefined } = {},
) {
  const qemu = spawn("sleep", ["600"], { argv0: "qemu-of-the-test", stdio: "ignore" });
  await once(qemu, "spawn");
  const done: string[] = [];
  let running = false;
  const fake = await FakeQmp.start({
    commands: {
      "query-cpus-fast": [{ "thread-id": qemu.pid, "cpu-index": 0 }],
      "query-status": () => ({ running, status: running ? "running" : status }),
      "query-migrate": status === "inmigrate" ? { status: "failed" } : { status: "completed" },
      cont: () => {
        done.push("cont");
        running = true;
        return {};
      },
      quit: (_request: unknown, server: FakeQmp) => {
        done.push("quit");
        void server[Symbol.asyncDispose]();
        return {};
      },
    },
  });
  const stateDir = mkdtempSync(join(tmpdir(), "godwit-settle-"));
  const store = await SessionStore.open(stateDir);
  {
    using qmp = await QmpClient.connect(fake.path);
    const journal = await store.create({
      ...{ session: SESSION, role: "destination", program: "godwit test", peer: "10.0.0.1:1", vm: VM },
      ...{ qmpPath: fake.path, qemu: await readProcess(qmp), guestRuns: true, secret: SECRET },
    });
    for (const state of states) await journal.note({ state, ...(isSettled && { settled: true }) });
    await journal.close();
  }
  if (spoil !== undefined) await spoilJournal(stateDir, SESSION, "destination", spoil);
  if (isGone) {
    qemu.kill("SIGKILL");
    await once(qemu, "exit");
    await fake[Symbol.asyncDispose]();
  }
  onTestFinished(async () => {
    await fake[Symbol.asyncDispose]();
    qemu.kill("SIGKILL");
    rmSync(stateDir, { recursive: true });
  });
  const warnings: string[] = [];
  const sessions = await LeftSessions.open({
    ...{ qmpPath: fake.path, stateDir, reconnectForMs: 10_000 },
    onEvent: (event) => void (event.event === "warning" && warnings.push(event.message)),
  });
  const listener = await listen({
    ...{ host: "127.0.0.1", port: 0, security, onRejected: () => {} },
    onConnection: async (connection) => {
      const { peer, hello } = await readHello(connection);
      if (!(await sessions.offer(peer, hello))) refuse(peer, "MIGRATION_UNKNOWN_SESSION", "unknown");
    },
  });
  onTestFinished(async () => {
    listener.close();
    await sessions.end(new Error("the test ends"));
  });
  const noted = async () => {
    const [{ content } = { content: null }] = await store.list();
    return [content?.state, content?.isSettled];
  };
  /** A source that says what `answer` makes of what it hears; resolves with all that it has heard once the connection is over. */
  const ask = async (answer: (message: Message) => readonly Message[], tagKey = SECRET) => {
    const heard: Message[] = [];
    const peer: Peer = new Peer(await connect({ ...listener.address, security }), "sender", {
      onMessage: (message) => {
        heard.push(message);
        for (const words of answer(message)) peer.send(words);
      },
    });
    peer.send({
      ...{ type: "HELLO", session: SESSION, generation: 2, purpose: "settle", program: "test" },
      ...{ pageFormat: PAGE_FORMAT, features: [], vm: VM, disks: [], checkpointPages: 0, cachePages: 0 },
      ...{ tagKey, returnOffset: 0, knownHashes: 0 },
    });
    await peer.closed.catch(() => {});
    return heard;
  };
  return { sessions, ask, noted, done, warnings };
}

const types = (heard: readonly Message[]) => heard.map(({ type }) => type).filter((type) => type !== "ACK");
/** A source that has noted COMMIT. */
const committed = ({ type }: Message): readonly Message[] => {
  if (type === "WELCOME") return [{ type: "SWITCHOVER" }];
  if (type === "LOADED") return [{ type: "COMMIT", run: true }];
  return type === "RUNNING" || type === "ABORT" ? [{ type: "SETTLED" }] : [];
};

test("it had loaded the VM: holds it until COMMIT comes, then runs it", async () => {
  const { sessions, ask, noted, done } = await left(["streaming", "loaded"]);
  expect(done).toEqual([]);
  const heard = await ask(committed);
  expect(types(heard)).toEqual(["WELCOME", "LOADED", "RUNNING"]);
  expect(heard[0]).toMatchObject({ purpose: "settle", state: "loaded" });
  expect(await sessions.current!.ended).toMatchObject({ end: "completed" });
  expect(done).toEqual(["cont"]);
  expect(await noted()).toEqual(["running", true]);
});

test("COMMIT had come: the VM is run at once, and the source told when it asks", async () => {
  const { sessions, ask, noted, done } = await left(["streaming", "loaded", "committed"]);
  await expect.poll(noted).toEqual(["running", false]);
  expect(done).toEqual(["cont"]);
  expect(types(await ask(committed))).toEqual(["WELCOME", "LOADED", "RUNNING"]);
  expect(await sessions.current!.ended).toMatchObject({ end: "completed" });
});

test("its stream was lost: QEMU is ended, and the source told", async () => {
  const { sessions, ask, noted, done } = await left(["streaming"], { status: "inmigrate" });
  expect(types(await ask(committed))).toEqual(["WELCOME", "ABORT"]);
  expect(await sessions.current!.ended).toMatchObject({ end: "aborted" });
  expect(done).toEqual(["quit"]);
  expect(await noted()).toEqual(["aborted", true]);
});

test("its QEMU is gone, before COMMIT came: the source has the VM", async () => {
  const { ask, noted } = await left(["streaming", "loaded"], { isGone: true });
  expect(types(await ask(committed))).toEqual(["WELCOME", "ABORT"]);
  expect(await noted()).toEqual(["aborted", true]);
});

test("its QEMU is gone, after COMMIT: nobody knows whether it ran, and nothing is said", async () => {
  const { sessions, ask, noted, warnings } = await left(["streaming", "loaded", "committed"], { isGone: true });
  expect(sessions.current).toBeUndefined();
  expect(warnings).toEqual([expect.stringMatching(/is in doubt/)]);
  expect(await ask(committed)).toMatchObject([{ type: "REFUSE", code: "MIGRATION_UNKNOWN_SESSION" }]);
  expect(await noted()).toEqual(["committed", false]);
});

test("a session that is over is answered for from the journal, but to its own source only", async () => {
  const { sessions, ask, noted } = await left(["running"], { isSettled: true });
  expect(sessions.current).toBeUndefined();
  expect(types(await ask(committed, "0e".repeat(32)))).toEqual(["REFUSE"]);
  expect(types(await ask(committed))).toEqual(["WELCOME", "LOADED", "RUNNING"]);
  expect(await noted()).toEqual(["running", true]);
});

test("a journal of this very QEMU that can't be read: it takes no VM; one that may be of any is told of", async () => {
  await expect(left(["streaming", "loaded"], { spoil: "record" })).rejects.toMatchObject({
    code: "STORE_JOURNAL_DAMAGED",
  });
  const { sessions, warnings, done } = await left(["streaming", "loaded"], { spoil: "whole" });
  expect(sessions.current).toBeUndefined();
  expect(warnings).toEqual([expect.stringMatching(/^what session 3fa94c01 has noted can't be read /)]);
  expect(done).toEqual([]);
});

test("a session that was closed answers a late source as far as it knows", async () => {
  const { ask, noted } = await left(["streaming", "loaded", "aborted"], { isSettled: true, isGone: true });
  expect(types(await ask(committed))).toEqual(["WELCOME", "ABORT"]);
  expect(await noted()).toEqual(["aborted", true]);
  const other = await left(["streaming", "loaded", "committed"], { isSettled: true, isGone: true });
  expect(await other.ask(committed)).toMatchObject([{ type: "REFUSE", code: "MIGRATION_UNKNOWN_SESSION" }]);
  expect([await other.noted(), other.warnings]).toEqual([["committed", true], []]);
});
