// A `send` that is started again first settles what the one before has left.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { PAGE_FORMAT } from "../../src/compact/limits.ts";
import type { SessionState } from "../../src/migration/hand-off/steps.ts";
import { Peer } from "../../src/migration/peer.ts";
import { type SettleOptions, settleLeft } from "../../src/migration/settle-source.ts";
import { readProcess } from "../../src/qemu/process.ts";
import { QmpClient } from "../../src/qemu/qmp.ts";
import { SessionStore } from "../../src/store/session-store.ts";
import { formatAddress } from "../../src/wire/address.ts";
import type { Message } from "../../src/wire/messages.ts";
import { listen } from "../../src/wire/transport.ts";
import { FakeQmp } from "./support/fake-qmp.ts";
import { spoilJournal } from "./support/spoil-journal.ts";

const SESSION = "3fa94c0122334455667788990011aabb";
const SECRET = "0f".repeat(32);
const UUID = "3d0f6a6e-6d3c-4f0e-9d6a-2c6f9f6f0001";
const security = { kind: "none" } as const;

/** A source QEMU whose `send` was killed in a state of the session, and what listens where the destination was. */
async function left(
  states: readonly (SessionState | { readonly state: SessionState; readonly run: boolean })[],
  answer: (message: Message, say: (message: Message) => void) => void,
) {
  const qemu = spawn("sleep", ["600"], { argv0: "qemu-of-the-test", stdio: "ignore" });
  await once(qemu, "spawn");
  let running = false;
  let stopped = "postmigrate";
  const fake = await FakeQmp.start({
    commands: {
      "query-cpus-fast": [{ "thread-id": qemu.pid, "cpu-index": 0 }],
      "query-status": () => ({ running, status: running ? "running" : stopped }),
      "query-migrate": { status: "completed" },
      "query-version": { qemu: { major: 10, minor: 0, micro: 0 }, package: "" },
      "qom-get": "pc-q35-10.0-machine",
      "query-memory-size-summary": { "base-memory": 1 << 30 },
      "query-memory-devices": [],
      "query-block": [],
      "query-name": { name: "web1" },
      "query-uuid": { UUID },
      cont: () => {
        running = true;
        return {};
      },
    },
  });
  const heard: Message[] = [];
  const listener = await listen({
    ...{ host: "127.0.0.1", port: 0, security, onRejected: () => {} },
    onConnection: (connection) => {
      const peer: Peer = new Peer(connection, "receiver", {
        onMessage: (message) => {
          heard.push(message);
          answer(message, (said) => peer.send(said));
        },
      });
    },
  });
  const stateDir = mkdtempSync(join(tmpdir(), "godwit-settle-"));
  const qmp = await QmpClient.connect(fake.path);
  onTestFinished(async () => {
    listener.close();
    qmp.close();
    await fake[Symbol.asyncDispose]();
    qemu.kill("SIGKILL");
    rmSync(stateDir, { recursive: true });
  });
  const sessions = await SessionStore.open(stateDir);
  const journal = await sessions.create({
    ...{ session: SESSION, role: "source", program: "godwit test", peer: formatAddress(listener.address) },
    ...{
      vm: { name: "web1", uuid: UUID },
      qmpPath: fake.path,
      qemu: await readProcess(qmp),
      guestRuns: true,
      secret: SECRET,
    },
  });
  for (const state of states) await journal.note(typeof state === "string" ? { state } : state);
  await journal.close();
  const settle = (options: Partial<SettleOptions> = {}) =>
    settleLeft(qmp, { stateDir, security, reconnectForMs: 5_000, onEvent: () => {}, ...options });
  const journalled = async () => {
    const [{ content } = { content: null }] = await sessions.list();
    return [content?.state, content?.isSettled];
  };
  const letRun = () => {
    running = true;
  };
  const stopAs = (status: string) => {
    stopped = status;
  };
  return {
    stateDir,
    settle,
    heard,
    journalled,
    runs: () => running,
    letRun,
    stopAs,
    closeListener: () => listener.close(),
  };
}

const welcomeTo = (hello: Message & { type: "HELLO" }, state: "streaming" | "loaded" | "running"): Message => ({
  ...{
    type: "WELCOME",
    session: hello.session,
    generation: hello.generation,
    program: "test",
    pageFormat: PAGE_FORMAT,
  },
  ...{
    features: [],
    vm: hello.vm,
    disks: [],
    checkpoints: [],
    cachePages: 0,
    rawOffset: 0,
    windowBytes: 64 << 20,
    state,
  },
});
const types = (heard: readonly Message[]) => heard.map(({ type }) => type);

test("a VM that was handed over: says COMMIT again, and hears that it runs", async () => {
  const { settle, heard, journalled, runs } = await left(["streaming", "committed"], (message, say) => {
    if (message.type === "HELLO") say(welcomeTo(message, "loaded"));
    if (message.type === "SWITCHOVER") say({ type: "LOADED", loadMs: 1, rawBytes: 1 });
    if (message.type === "COMMIT") say({ type: "RUNNING", resumeMs: 1 });
  });
  expect(await settle()).toMatchObject({ end: "completed" });
  expect(heard[0]).toMatchObject({ type: "HELLO", session: SESSION, purpose: "settle", tagKey: SECRET, generation: 2 });
  await expect.poll(() => types(heard)).toEqual(["HELLO", "SWITCHOVER", "COMMIT", "SETTLED"]);
  expect(await journalled()).toEqual(["running", true]);
  expect(runs()).toBe(false);
  expect(await settle()).toBeNull();
});

test("a VM that was handed over, and the destination gave up: the guest goes on here", async () => {
  const { settle, journalled, runs } = await left(["streaming", "committed"], (message, say) => {
    if (message.type !== "HELLO") return;
    say(welcomeTo(message, "streaming"));
    say({ type: "ABORT", code: "X", message: "its QEMU is gone" });
  });
  expect(await settle()).toMatchObject({ end: "aborted", reason: { code: "PEER_ABORTED" } });
  expect(await journalled()).toEqual(["aborted", true]);
  expect(runs()).toBe(true);
});

test("a VM that was paused when it was handed over is paused wherever it ends up", async () => {
  const paused = ["streaming", { state: "committed", run: false }] as const;
  const there = await left(paused, (message, say) => {
    if (message.type === "HELLO") say(welcomeTo(message, "loaded"));
    if (message.type === "SWITCHOVER") say({ type: "LOADED", loadMs: 1, rawBytes: 1 });
    if (message.type === "COMMIT") say({ type: "RUNNING", resumeMs: 0 });
  });
  expect(await there.settle()).toMatchObject({ end: "completed" });
  expect(there.heard).toContainEqual({ type: "COMMIT", run: false });
  const here = await left(paused, (message, say) => {
    if (message.type !== "HELLO") return;
    say(welcomeTo(message, "streaming"));
    say({ type: "ABORT", code: "X", message: "its QEMU is gone" });
  });
  expect(await here.settle()).toMatchObject({ end: "aborted" });
  expect(here.runs()).toBe(false);
});

test("a person wants it back: the destination, which does not run it, is asked to give up", async () => {
  const { settle, heard, runs } = await left(["streaming", "committed"], (message, say) => {
    if (message.type === "HELLO") say(welcomeTo(message, "loaded"));
    if (message.type === "ABORT") say({ type: "ABORT", code: "X", message: "as the source wants" });
  });
  expect(await settle({ wantsBack: true })).toMatchObject({ end: "aborted" });
  expect(types(heard).slice(0, 2)).toEqual(["HELLO", "ABORT"]);
  expect(runs()).toBe(true);
});

test("it can't be had back where it runs", async () => {
  const { settle, heard, runs } = await left(["streaming", "committed"], (message, say) => {
    if (message.type === "HELLO") say(welcomeTo(message, "running"));
    if (message.type === "SWITCHOVER") say({ type: "LOADED", loadMs: 1, rawBytes: 1 });
    if (message.type === "COMMIT") say({ type: "RUNNING", resumeMs: 1 });
  });
  expect(await settle({ wantsBack: true })).toMatchObject({ end: "completed" });
  expect(types(heard)).not.toContain("ABORT");
  expect(runs()).toBe(false);
});

test("a VM that was not handed over goes on here, and the destination is told, whatever number its connections had", async () => {
  let generations = 0;
  const { settle, heard, journalled, runs } = await left(["streaming"], (message, say) => {
    if (message.type !== "HELLO") return;
    const replayed = { type: "REFUSE", code: "WIRE_REPLAY", message: "known", details: { generation: 7 } } as const;
    say(generations++ === 0 ? replayed : welcomeTo(message, "streaming"));
  });
  expect(await settle()).toMatchObject({ end: "aborted" });
  expect(runs()).toBe(true);
  expect(await journalled()).toEqual(["aborted", true]);
  await expect.poll(() => types(heard)).toEqual(["HELLO", "HELLO", "ABORT", "SETTLED"]);
  expect(heard[1]).toMatchObject({ generation: 8 });
});

test.each(["paused", "shutdown"])(
  "a guest that was %s meanwhile, and not by the migration, stays so",
  async (status) => {
    const { settle, stopAs, journalled, runs } = await left(["streaming"], (message, say) => {
      if (message.type === "HELLO") say(welcomeTo(message, "streaming"));
    });
    stopAs(status);
    expect(await settle()).toMatchObject({ end: "aborted", whereabouts: "the VM stays paused here, as it was" });
    expect(runs()).toBe(false);
    expect(await journalled()).toEqual(["aborted", true]);
  },
);

test("nobody answers: in doubt, and open as before; a person need not wait", async () => {
  const { settle, journalled, runs, closeListener } = await left(["streaming", "committed"], () => {});
  closeListener();
  const message = expect.stringMatching(/^the connection to 127\.0\.0\.1:\d+ was lost/);
  expect(await settle({ reconnectForMs: 300 })).toMatchObject({ end: "in-doubt", reason: { message } });
  const person = new AbortController();
  const timer = setTimeout(() => person.abort(), 100);
  expect(await settle({ signal: person.signal, reconnectForMs: 60_000 })).toMatchObject({ end: "in-doubt" });
  clearTimeout(timer);
  expect(await journalled()).toEqual(["committed", false]);
  expect(runs()).toBe(false);
});

test("a guest that goes on though it was handed over is for a person", async () => {
  const { settle, letRun } = await left(["streaming", "committed"], () => {});
  letRun();
  await expect(settle()).rejects.toMatchObject({ code: "MIGRATION_UNSETTLED" });
});

test("a journal of this very QEMU that can't be read: no migration begins", async () => {
  const { stateDir, settle, heard, runs } = await left(["streaming", "committed"], () => {});
  await spoilJournal(stateDir, SESSION, "source", "record");
  await expect(settle()).rejects.toMatchObject({ code: "STORE_JOURNAL_DAMAGED" });
  expect([heard, runs()]).toEqual([[], false]);
});

test("one that may be of any: said in one line, and no more", async () => {
  const { stateDir, settle } = await left(["streaming"], () => {});
  await spoilJournal(stateDir, SESSION, "source", "whole");
  const warnings: string[] = [];
  const onEvent: SettleOptions["onEvent"] = (event) => void (event.event === "warning" && warnings.push(event.message));
  expect(await settle({ onEvent })).toBeNull();
  expect(warnings).toEqual([
    expect.stringMatching(/^what session 3fa94c01 has noted can't be read .*; see godwit status$/),
  ]);
});
