import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import type { GodwitError } from "../../src/errors.ts";
import type { QmpEvent } from "../../src/qemu/commands.ts";
import { QmpClient } from "../../src/qemu/qmp.ts";
import { type FakeOptions, FakeQmp, GREETING, NO_ANSWER, refuse } from "./support/fake-qmp.ts";

async function pair(options: FakeOptions = {}): Promise<{ fake: FakeQmp; qmp: QmpClient }> {
  const fake = await FakeQmp.start(options);
  onTestFinished(() => fake[Symbol.asyncDispose]());
  const qmp = await QmpClient.connect(fake.path);
  onTestFinished(() => qmp.close());
  return { fake, qmp };
}

async function fakeOnly(options: FakeOptions): Promise<FakeQmp> {
  const fake = await FakeQmp.start(options);
  onTestFinished(() => fake[Symbol.asyncDispose]());
  return fake;
}

async function temporaryFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "godwit-qmp-"));
  onTestFinished(() => rm(folder, { recursive: true }));
  return folder;
}

async function errorOf(promise: Promise<unknown>): Promise<GodwitError> {
  return promise.then(
    () => expect.fail("it did not fail"),
    (error) => error,
  );
}

const version = GREETING.QMP.version;
const status = { status: "running", running: true };

test("connects, negotiates and runs commands", async () => {
  const { fake, qmp } = await pair({ commands: { "query-version": version, "qom-get": "pc-q35-7.2-machine" } });
  expect(await qmp.execute("query-version")).toEqual(version);
  expect(await qmp.execute("qom-get", { path: "/machine", property: "type" })).toBe("pc-q35-7.2-machine");
  expect(fake.requests.map(({ execute }) => execute)).toEqual(["qmp_capabilities", "query-version", "qom-get"]);
  expect(fake.requests[2]?.arguments).toEqual({ path: "/machine", property: "type" });
});

test("a byte at a time, with characters of several bytes", async () => {
  const { fake, qmp } = await pair({ chunkBytes: 1, commands: { "query-name": { name: "größe 🐦" }, cont: {} } });
  const event = qmp.waitForEvent("RESUME");
  fake.event("RESUME");
  expect(await qmp.execute("query-name")).toEqual({ name: "größe 🐦" });
  expect((await event).name).toBe("RESUME");
});

test("commands in flight at once are answered in any order", async () => {
  const held: number[] = [];
  const { fake, qmp } = await pair({
    commands: {
      "query-name": ({ id }: { id: number }) => {
        held.push(id);
        if (held.length === 3) {
          for (const each of held.toReversed()) fake.send({ return: { name: `${each}` }, id: each });
        }
        return NO_ANSWER;
      },
    },
  });
  const names = await Promise.all([1, 2, 3].map(() => qmp.execute("query-name")));
  expect(names).toEqual(held.map((id) => ({ name: `${id}` })));
});

test("what QEMU says when it refuses a command is kept", async () => {
  const stop = () => {
    throw refuse("GenericError", "not now");
  };
  const { fake, qmp } = await pair({ commands: { stop } });
  const error = await errorOf(qmp.execute("stop"));
  expect(error.code).toBe("QMP_COMMAND_FAILED");
  expect(error.message).toBe("QEMU refused stop: not now");
  expect(error.details).toEqual({ path: fake.path, command: "stop", class: "GenericError", desc: "not now" });
  expect((await errorOf(qmp.executeAny("nosuch"))).details.class).toBe("CommandNotFound");
});

test("a command that is not answered times out, and its late answer is ignored", async () => {
  const { fake, qmp } = await pair({ commands: { stop: NO_ANSWER, "query-status": status } });
  const error = await errorOf(qmp.execute("stop", undefined, { timeoutMs: 20 }));
  expect(error.code).toBe("QMP_TIMEOUT");
  expect(error.message).toContain("did not answer stop within 0.02 s");
  fake.send({ return: {}, id: fake.requests.at(-1)!.id });
  expect(await qmp.execute("query-status")).toEqual(status);
});

test("events reach all listeners with both clocks, and no listener after it unsubscribed", async () => {
  const { fake, qmp } = await pair({ commands: { "query-status": status } });
  const events: QmpEvent[] = [];
  const beforeMs = performance.now();
  const unsubscribe = qmp.onEvent((event) => {
    events.push(event);
    if (event.name === "STOP") unsubscribe();
  });
  fake.event("MIGRATION", { status: "setup" });
  fake.event("SOMETHING_ELSE");
  fake.event("STOP");
  fake.event("RESUME");
  await qmp.execute("query-status");
  expect(events.map(({ name }) => name)).toEqual(["MIGRATION", "STOP"]);
  expect(events[0]).toMatchObject({ data: { status: "setup" }, timestampMs: 1_700_000_000_123.456 });
  expect(events[0]!.receivedMs).toBeGreaterThanOrEqual(beforeMs);
  expect(events[0]!.receivedMs).toBeLessThanOrEqual(performance.now());
});

test("a wait may be left alone, and a listener that left hears no more, not even the same event", async () => {
  const { fake, qmp } = await pair();
  void qmp.waitForEvent("STOP");
  const heard: string[] = [];
  qmp.onEvent(() => {
    heard.push("first");
    leave();
    qmp.onEvent(() => heard.push("late"));
  });
  const leave = qmp.onEvent(() => heard.push("second"));
  fake.event("POWERDOWN");
  await expect.poll(() => heard).toEqual(["first"]);
  fake.drop();
  await qmp.closed;
});

test("waitForEvent takes the first event that fits", async () => {
  const { fake, qmp } = await pair();
  const pass = qmp.waitForEvent("MIGRATION_PASS", ({ data }) => data.pass > 1);
  for (const n of [1, 2, 3]) fake.event("MIGRATION_PASS", { pass: n });
  expect((await pass).data.pass).toBe(2);
});

test("waitForEvent ends by its timeout, its signal, and the connection's end", async () => {
  const { fake, qmp } = await pair();
  expect((await errorOf(qmp.waitForEvent("STOP", undefined, { timeoutMs: 20 }))).code).toBe("QMP_TIMEOUT");
  const reason = new Error("enough");
  expect(await errorOf(qmp.waitForEvent("STOP", undefined, { signal: AbortSignal.abort(reason) }))).toBe(reason);
  const abort = new AbortController();
  const aborted = errorOf(qmp.waitForEvent("STOP", undefined, { signal: abort.signal }));
  abort.abort(reason);
  expect(await aborted).toBe(reason);
  const lost = errorOf(qmp.waitForEvent("STOP"));
  fake.drop();
  expect((await lost).code).toBe("QMP_CLOSED");
});

test("when QEMU goes away, pending and later commands fail and `closed` says why", async () => {
  const { fake, qmp } = await pair({ commands: { stop: NO_ANSWER } });
  const pending = errorOf(qmp.execute("stop"));
  await expect.poll(() => fake.requests.at(-1)?.execute).toBe("stop");
  fake.send('{"return": {}, "id"');
  fake.drop();
  expect((await pending).code).toBe("QMP_CLOSED");
  expect((await pending).message).toBe(`QEMU closed the QMP connection at ${fake.path} before stop was answered`);
  expect((await pending).details).toEqual({ path: fake.path, command: "stop" });
  expect((await qmp.closed)?.code).toBe("QMP_CLOSED");
  expect((await errorOf(qmp.execute("cont"))).code).toBe("QMP_CLOSED");
});

test("close ends everything without an error, also twice", async () => {
  const { qmp } = await pair({ commands: { stop: NO_ANSWER } });
  const pending = errorOf(qmp.execute("stop"));
  {
    using same = qmp;
    same.close();
  }
  expect((await pending).code).toBe("QMP_CLOSED");
  expect(await qmp.closed).toBeUndefined();
});

test.each(["no JSON", "[]", "7", '{"return": {}}', '{"event": "STOP"}', '{"error": {"class": "GenericError"}}'])(
  "a line that is no QMP ends the connection: %s",
  async (line) => {
    const { fake, qmp } = await pair({ commands: { stop: NO_ANSWER } });
    const pending = errorOf(qmp.execute("stop"));
    fake.send(`${line}\n`);
    expect((await pending).code).toBe("QMP_NOT_QMP");
    expect((await qmp.closed)?.details.line).toBe(line);
  },
);

test("a line without end is refused at 64 MiB", async () => {
  const { fake, qmp } = await pair();
  const mebibyte = "x".repeat(2 ** 20);
  for (let i = 0; i < 65; i++) fake.send(mebibyte);
  expect(await qmp.closed).toMatchObject({ code: "QMP_NOT_QMP", message: expect.stringContaining("too long") });
});

test.each([
  ["garbage\n", "is not QMP"],
  ["NBDMAGIC", "is not QMP"],
  ['{"hello": 1}\n', "is not QMP"],
  ['{"QMP": 1}\n', "is not QMP"],
  ["{\r\n", "pretty=on"],
  ["QEMU 7.2.22 monitor - type 'help' for more information\r\n(qemu) ", "human monitor"],
  ['{"QMP": {"version"', "no whole QMP greeting"],
])("a peer that greets with %j is not QMP", async (greeting, text) => {
  const fake = await fakeOnly({ greeting });
  const error = await errorOf(QmpClient.connect(fake.path, { timeoutMs: 200 }));
  expect(error.code).toBe("QMP_NOT_QMP");
  expect(error.message).toContain(text);
});

test("a monitor without a greeting is busy", async () => {
  const fake = await fakeOnly({ greeting: null });
  const error = await errorOf(QmpClient.connect(fake.path, { timeoutMs: 50 }));
  expect(error.code).toBe("QMP_BUSY");
  expect(error.details).toEqual({ path: fake.path, timeoutMs: 50, receivedBytes: 0 });
});

test("a monitor that greets and falls silent times out", async () => {
  const fake = await fakeOnly({ commands: { qmp_capabilities: NO_ANSWER } });
  expect((await errorOf(QmpClient.connect(fake.path, { timeoutMs: 50 }))).code).toBe("QMP_TIMEOUT");
});

test("a connection that ends before the greeting", async () => {
  const folder = await temporaryFolder();
  const server = createServer((socket) => socket.end());
  onTestFinished(() => void server.close());
  await new Promise<void>((resolve) => server.listen(join(folder, "qmp"), resolve));
  expect((await errorOf(QmpClient.connect(join(folder, "qmp")))).code).toBe("QMP_CLOSED");
});

test("paths that lead to no QMP", async () => {
  const folder = await temporaryFolder();
  const file = join(folder, "file");
  await writeFile(file, "");
  const codeOf = async (path: string) => (await errorOf(QmpClient.connect(path))).code;
  expect(await codeOf(join(folder, "absent"))).toBe("QMP_NO_SOCKET");
  expect(await codeOf(join(file, "below"))).toBe("QMP_NO_SOCKET");
  expect(await codeOf(join(folder, "x".repeat(120)))).toBe("QMP_NO_SOCKET");
  expect(await codeOf(file)).toBe("QMP_NOT_QMP");
});
