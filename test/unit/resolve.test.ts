import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { restartDestination } from "../../src/migration/hand-off/destination.ts";
import { restartSource } from "../../src/migration/hand-off/source.ts";
import type { SessionState } from "../../src/migration/hand-off/steps.ts";
import { adviseOn, type Found, type SessionEnd } from "../../src/migration/resolve/advice.ts";
import { listSessions, type ResolveOptions, resolveSession } from "../../src/migration/resolve/resolve.ts";
import { readProcess } from "../../src/qemu/process.ts";
import { QmpClient } from "../../src/qemu/qmp.ts";
import type { JournalHeader } from "../../src/store/journal-format.ts";
import { SessionStore } from "../../src/store/session-store.ts";
import { FakeQmp, refuse } from "./support/fake-qmp.ts";
import { spoilJournal } from "./support/spoil-journal.ts";

const STATES: readonly (SessionState | null)[] = [
  null,
  "streaming",
  "loaded",
  "committed",
  "running",
  "aborted",
  "lost",
];
const SOURCE_FOUND: readonly Found[] = ["running", "stopped", "gone", "unknown"];
const DESTINATION_FOUND: readonly Found[] = ["running", "held", "unloaded", "gone", "unknown"];

function* ends(): Generator<SessionEnd> {
  for (const role of ["source", "destination", "settings"] as const)
    for (const state of STATES)
      for (const found of role === "destination" ? DESTINATION_FOUND : SOURCE_FOUND)
        for (const isSettled of [false, true])
          for (const run of [false, true])
            for (const isCertain of [false, true])
              for (const pid of [null, 42])
                for (const hasSettings of [false, true])
                  yield { role, state, found, isSettled, run, isCertain, pid, hasSettings };
}

describe("what may be done", () => {
  test("there is always an answer in plain words, and an end has the actions of its own side only", () => {
    let count = 0;
    for (const end of ends()) {
      const { why, can } = adviseOn(end);
      expect(why).toMatch(/^[a-z].{10,200}[^.]$/);
      expect(can.length).toBeGreaterThan(0);
      for (const { action, text } of can) {
        expect(text.length).toBeGreaterThan(10);
        const other =
          end.role === "destination" ? ["resume-source", "restart-send"] : ["run-destination", "restart-receive"];
        expect(other).not.toContain(action);
      }
      count++;
    }
    expect(count).toBe(32 * 7 * (4 + 5 + 4));
  });

  test("nothing but to wait while a godwit is at it; nothing where all is settled or the QEMU can't be asked", () => {
    for (const end of ends()) {
      const actions = adviseOn(end).can.map(({ action }) => action);
      if (end.pid !== null) expect(actions).toEqual(["wait"]);
      else if (end.role !== "settings" && (end.isSettled || end.found === "unknown")) expect(actions).toEqual(["none"]);
    }
  });

  test("what no one has to vouch for, the machines do too", () => {
    for (const end of ends()) {
      if (end.role === "settings") continue;
      const safe = adviseOn(end)
        .can.filter(({ needsIKnow }) => !needsIKnow)
        .map(({ action }) => action);
      const state = end.state ?? "streaming";
      if (safe.includes("resume-source")) {
        expect(["streaming", "aborted"]).toContain(state);
        const step = restartSource(state, end.found as "running" | "stopped");
        expect(step?.actions).toContainEqual({ do: "give-back" });
      }
      if (safe.includes("run-destination")) {
        const step = restartDestination(state, end.found as "running" | "held", end.run);
        const does = step!.actions.some((a) => a.do === "run" || (a.do === "journal" && a.state === "running"));
        expect(does || state === "running").toBe(true);
      }
    }
  });

  test("a session is closed only where this end's QEMU has ended, or runs the VM for good; of one that was handed over only by who knows", () => {
    let count = 0;
    for (const end of ends()) {
      const close = adviseOn(end).can.find(({ action }) => action === "close");
      if (close === undefined) continue;
      count++;
      expect([end.isSettled, end.pid]).toEqual([false, null]);
      if (end.role === "destination" && end.state === "running") {
        expect([close.needsIKnow, ["running", "gone"].includes(end.found)]).toEqual([false, true]);
        continue;
      }
      expect(end.found).toBe("gone");
      expect(close.needsIKnow).toBe(end.role !== "settings" && end.state === "committed");
      if (close.needsIKnow || end.role === "settings") continue;
      const state = end.state ?? "streaming";
      const step = end.role === "source" ? restartSource(state, "gone") : restartDestination(state, "gone", end.run);
      if (step === undefined) continue; // a state that this end never notes
      if (end.role === "source") {
        expect(step.actions).toContainEqual({ do: "journal", state: "lost", isSettled: true });
      } else {
        expect(["giving-up", "aborted"]).toContain(step.state.phase);
      }
    }
    expect(count).toBeGreaterThan(20);
  });

  test("a QEMU that may be another one is touched only by who knows", () => {
    for (const end of ends()) {
      if (end.isCertain || end.role === "settings") continue;
      for (const { action, needsIKnow } of adviseOn(end).can)
        if (action === "resume-source" || action === "run-destination") expect(needsIKnow).toBe(true);
    }
  });
});

describe("godwit resolve", () => {
  const SESSION = "3fa94c0122334455667788990011aabb";
  let stateDir: string;
  let qemu: ChildProcess;
  let fake: FakeQmp;
  let runState: { running: boolean; status: string };
  let migrateStatus: string;
  let refuseCont: boolean;

  beforeEach(async () => {
    stateDir = mkdtempSync(join(tmpdir(), "godwit-resolve-"));
    qemu = spawn("sleep", ["600"], { argv0: "qemu-of-the-test", stdio: "ignore" });
    [runState, migrateStatus, refuseCont] = [{ running: false, status: "postmigrate" }, "completed", false];
    fake = await FakeQmp.start({
      commands: {
        "query-cpus-fast": () => [{ "thread-id": qemu.pid, "cpu-index": 0, "qom-path": "" }],
        "query-status": () => runState,
        "query-migrate": () => ({ status: migrateStatus }),
        "query-version": { qemu: { major: 10, minor: 0, micro: 0 }, package: "" },
        "qom-get": "pc-q35-10.0-machine",
        "query-memory-size-summary": { "base-memory": 1 << 30 },
        "query-memory-devices": [],
        "query-block": [],
        "query-name": { name: "web1" },
        "query-uuid": { UUID: "3d0f6a6e-6d3c-4f0e-9d6a-2c6f9f6f0001" },
        "query-migrate-capabilities": [{ capability: "events", state: true }],
        "migrate-set-capabilities": {},
        "migrate-set-parameters": {},
        migrate_cancel: () => {
          migrateStatus = "cancelled";
          return {};
        },
        cont: () => {
          if (refuseCont) throw refuse("GenericError", "Failed to get a lock");
          runState = { running: true, status: "running" };
          return {};
        },
      },
    });
  });
  afterEach(async () => {
    await fake[Symbol.asyncDispose]();
    qemu.kill("SIGKILL");
    rmSync(stateDir, { recursive: true });
  });

  /** A journal that a program which is gone has left. */
  async function leave(role: JournalHeader["role"], ...states: SessionState[]): Promise<void> {
    using qmp = await QmpClient.connect(fake.path);
    const store = await SessionStore.open(stateDir);
    const journal = await store.create({
      session: SESSION,
      role,
      program: "godwit test",
      peer: "10.0.0.2:7747",
      vm: { name: "web1", uuid: "3d0f6a6e-6d3c-4f0e-9d6a-2c6f9f6f0001" },
      qmpPath: fake.path,
      qemu: await readProcess(qmp),
      guestRuns: true,
      secret: "0f".repeat(32),
    });
    await journal.noteSettings({ capabilities: { events: false }, parameters: { "downtime-limit": 300 } });
    for (const state of states) await journal.note({ state, ...(state === "committed" && { run: true }) });
    await journal.close();
    fake.requests.length = 0;
  }
  const resolve = (options: Partial<ResolveOptions> = {}) =>
    resolveSession({ stateDir, id: SESSION.slice(0, 6), action: null, iKnow: false, warn: () => {}, ...options });
  const asked = () => fake.requests.map(({ execute }) => execute).filter((name) => !name.startsWith("q"));
  const coded = (code: string) => expect.objectContaining({ code });

  test("explains, and changes nothing", async () => {
    await leave("source", "streaming", "committed");
    const [listed] = await listSessions(stateDir);
    expect(listed).toMatchObject({
      id: SESSION,
      role: "source",
      state: "committed",
      owner: "unknown",
      settled: false,
      pid: null,
    });
    expect(await resolve()).toMatchObject({
      id: SESSION,
      vm: { name: "web1" },
      owner: "unknown",
      why: expect.stringContaining("handed over, and the destination has not answered; the guest is stopped"),
      can: [
        { action: "restart-send", needsIKnow: false },
        { action: "ask-destination", needsIKnow: false },
        { action: "resume-source", needsIKnow: true },
      ],
      done: null,
    });
    expect(asked()).toEqual([]);
  });

  test("a source that has not handed over gets its guest back, and QEMU its settings", async () => {
    await leave("source", "streaming");
    migrateStatus = "active";
    expect(await resolve({ action: "resume-source" })).toMatchObject({
      state: "aborted",
      settled: true,
      done: "resume-source",
    });
    expect(asked()).toEqual(["migrate_cancel", "cont", "migrate-set-parameters", "migrate-set-capabilities"]);
    await expect(resolve({ action: "resume-source" })).rejects.toEqual(coded("MIGRATION_UNSAFE"));
  });

  test("after COMMIT a person has to vouch", async () => {
    await leave("source", "streaming", "committed");
    await expect(resolve({ action: "resume-source" })).rejects.toEqual(coded("MIGRATION_NOT_VOUCHED"));
    expect(asked()).toEqual([]);
    expect(await resolve({ action: "resume-source", iKnow: true })).toMatchObject({ state: "aborted", settled: true });
    expect(asked()[0]).toBe("cont");
  });

  test("the destination is asked in place of a person; where it does not answer, nothing is done", async () => {
    await leave("source", "streaming", "committed");
    const ask = { security: { kind: "none" }, to: { host: "127.0.0.1", port: 1 }, reconnectForMs: 200 } as const;
    const asking = resolve({ action: "resume-source", ask });
    await expect(asking).rejects.toMatchObject({
      code: "MIGRATION_UNSAFE",
      message: expect.stringMatching(/destination was not reached/),
    });
    expect(await resolve()).toMatchObject({ state: "committed", settled: false, pid: null });
    expect(asked()).not.toContain("cont");
  });

  test("a destination that has been handed the VM runs it; one that only holds it needs who knows", async () => {
    runState = { running: false, status: "paused" };
    await leave("destination", "streaming", "loaded");
    await expect(resolve({ action: "run-destination" })).rejects.toEqual(coded("MIGRATION_NOT_VOUCHED"));
    await expect(resolve({ action: "resume-source" })).rejects.toEqual(coded("STORE_SESSION_NONE"));
    const run = await resolve({ action: "run-destination", iKnow: true });
    expect(run).toMatchObject({ state: "running", owner: "destination", settled: false, done: "run-destination" });
    expect(asked()).toEqual(["cont"]);
  });

  test("what was journalled stands where QEMU does not do it", async () => {
    runState = { running: false, status: "paused" };
    await leave("destination", "streaming", "loaded", "committed");
    refuseCont = true;
    await expect(resolve({ action: "run-destination" })).rejects.toEqual(coded("MIGRATION_NOT_RESUMED"));
    refuseCont = false;
    expect(await resolve({ action: "run-destination" })).toMatchObject({ state: "running" });
  });

  test("another QEMU at the same monitor is not touched", async () => {
    await leave("source", "streaming");
    const other = spawn("sleep", ["600"], { argv0: "qemu-of-another", stdio: "ignore" });
    const first = qemu;
    qemu = other;
    try {
      expect(await resolve()).toMatchObject({
        can: [{ action: "none" }],
        why: expect.stringContaining("another QEMU than"),
      });
      first.kill("SIGKILL");
      await expect.poll(async () => (await resolve()).why).toContain("the QEMU here has ended");
    } finally {
      first.kill("SIGKILL");
    }
  });

  test("an end whose QEMU has ended is closed, and is open no more; of a VM that was handed over a person has to vouch", async () => {
    const states = async () => (await listSessions(stateDir)).map(({ role, state, settled }) => [role, state, settled]);
    await leave("destination", "streaming", "loaded");
    await expect(resolve({ action: "close" })).rejects.toEqual(coded("MIGRATION_UNSAFE"));
    expect(await states()).toEqual([["destination", "loaded", false]]);
    qemu.kill("SIGKILL");
    await fake[Symbol.asyncDispose]();
    await expect.poll(async () => (await resolve()).can.map(({ action }) => action)).toContain("close");
    expect(await resolve({ action: "close" })).toMatchObject({ done: "close", state: "aborted", settled: true });
    await expect(resolve({ action: "close" })).rejects.toEqual(coded("MIGRATION_UNSAFE"));
  });

  test.each([
    ["source", ["streaming"], false, "lost"],
    ["source", ["streaming", "committed"], true, "committed"],
    ["destination", ["streaming", "loaded", "committed"], true, "committed"],
    ["destination", ["streaming", "loaded", "committed", "running"], false, "running"],
    ["settings", [], false, "lost"],
  ] as const)("closed: %s, %j", async (role, noted, needsIKnow, state) => {
    await leave(role, ...noted);
    qemu.kill("SIGKILL");
    await fake[Symbol.asyncDispose]();
    await expect.poll(async () => (await resolve()).can.map(({ action }) => action)).toContain("close");
    if (needsIKnow) await expect(resolve({ action: "close" })).rejects.toEqual(coded("MIGRATION_NOT_VOUCHED"));
    expect(await resolve({ action: "close", iKnow: needsIKnow })).toMatchObject({
      state,
      settled: true,
      done: "close",
    });
  });

  test("the VM that runs at the destination is closed there, and goes on", async () => {
    runState = { running: true, status: "running" };
    await leave("destination", "streaming", "loaded", "committed", "running");
    expect(await resolve({ action: "close" })).toMatchObject({ state: "running", settled: true, owner: "destination" });
    expect(asked()).toEqual([]);
  });

  test("one that can't be read is listed with its VM, and nothing is done about it", async () => {
    await leave("source", "streaming");
    await spoilJournal(stateDir, SESSION, "source", "record");
    const problem = expect.stringMatching(/is damaged/);
    expect(await listSessions(stateDir)).toMatchObject([
      { vm: { name: "web1" }, owner: "unknown", state: null, problem },
    ]);
    for (const action of [null, "resume-source", "close"] as const)
      await expect(resolve({ action, iKnow: true })).rejects.toEqual(coded("STORE_JOURNAL_DAMAGED"));
    expect(asked()).toEqual([]);
  });

  test("one that a godwit is at is left to it; no such session; half of an id of two", async () => {
    await leave("destination", "streaming");
    const store = await SessionStore.open(stateDir);
    const journal = await store.take(SESSION, "destination");
    expect(await resolve()).toMatchObject({ pid: process.pid, can: [{ action: "wait" }] });
    await journal.close();
    await expect(resolve({ id: "ffff" })).rejects.toEqual(coded("STORE_SESSION_NONE"));
    await leave("source", "streaming");
    await expect(resolve()).rejects.toEqual(coded("STORE_SESSION_AMBIGUOUS"));
    expect(await resolve({ id: `${SESSION}.source` })).toMatchObject({ role: "source" });
  });
});
