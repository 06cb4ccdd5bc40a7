/** What a peer can do that has the key, or a certificate, and means no good. */
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import type { GodwitError } from "../../src/errors.ts";
import { assertExpectedVm, assertMatch, parseFacts } from "../../src/migration/greeting.ts";
import { Peer } from "../../src/migration/peer.ts";
import { StreamSender } from "../../src/migration/sender.ts";
import type { VmFacts } from "../../src/qemu/facts.ts";
import { Backlog } from "../../src/wire/backlog.ts";
import type { Connection } from "../../src/wire/connection.ts";
import { decodeMessage } from "../../src/wire/encoding.ts";

const UUID = "3d0f6a6e-6d3c-4f0e-9d6a-2c6f9f6f0001";
const facts = (changes: Partial<VmFacts> = {}): VmFacts => ({
  qemuVersion: { major: 10, minor: 0, micro: 0, package: "" },
  machineType: "pc-q35-10.0",
  memoryBytes: 1 << 30,
  cpus: 2,
  blockDevices: [],
  name: "web1",
  uuid: UUID,
  ...changes,
});
const decode = (type: "ABORT", fields: unknown) => decodeMessage(type, Buffer.from(JSON.stringify(fields)));

test("a return path that the source QEMU does not read is not kept without end", async () => {
  const folder = mkdtempSync(join(tmpdir(), "godwit-hostile-"));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  const server = net.createServer({ pauseOnConnect: true, allowHalfOpen: true }).listen(join(folder, "in"));
  const entered = once(server, "connection");
  const qemu = net.connect({ path: join(folder, "in"), allowHalfOpen: true }).pause();
  const [socket] = (await entered) as [net.Socket];
  server.close();
  const sender = new StreamSender({ backlog: new Backlog(), writeAs: () => {} }, { threads: 0, onError: () => {} });
  onTestFinished(() => {
    sender.stop();
    qemu.destroy();
  });
  sender.start(socket);
  const bytes = new Uint8Array(64 << 10);
  const flood = () => {
    for (let i = 0; i < 1000; i++) sender.writeReturn({ returnOffset: sender.returnBytes, bytes });
  };
  expect(flood).toThrow(expect.objectContaining({ code: "PEER_WINDOW" }));
  expect(sender.returnBytes).toBeLessThan(3 << 20);
});

test("a peer that acknowledges without reading is let go of before it takes all memory", () => {
  let pendingBytes = 0;
  const destroyed: (GodwitError | undefined)[] = [];
  const connection: Connection = {
    remoteAddress: "peer",
    bytesRead: 0,
    bytesWritten: 0,
    get pendingBytes() {
      return pendingBytes;
    },
    closed: new Promise(() => {}),
    receive: () => {},
    pause: () => {},
    resume: () => {},
    write: () => {},
    end: () => {},
    destroy: (reason) => void destroyed.push(reason),
  };
  const peer = new Peer(connection, "receiver", { onMessage: () => {} });
  pendingBytes = 256 << 20;
  peer.writeAs("REFUSE", []);
  expect(destroyed).toEqual([]);
  pendingBytes++;
  new Peer(connection, "receiver", { onMessage: () => {} }).writeAs("REFUSE", []);
  expect(destroyed).toEqual([expect.objectContaining({ code: "WIRE_BAD_MESSAGE" })]);
});

test("--vm holds a sender to one VM, by name or UUID", () => {
  for (const expected of [undefined, "web1", UUID, UUID.toUpperCase()])
    expect(() => assertExpectedVm(facts(), expected)).not.toThrow();
  for (const expected of ["web2", UUID.replace("0001", "0002"), ""]) {
    const refused = { code: "MIGRATION_OTHER_VM", message: expect.stringContaining(`takes the VM ${expected} only`) };
    expect(() => assertExpectedVm(facts(), expected)).toThrow(expect.objectContaining(refused));
  }
});

test("thousands of disks that do not match are one short line", () => {
  const blockDevices = Array.from({ length: 4096 }, (_, i) => ({ id: `d${i}`, readOnly: false, virtualSizeBytes: 1 }));
  const message = expect.stringMatching(/^.{1,2000}; and 4080 more$/);
  expect(() => assertMatch(facts({ blockDevices }), facts(), false)).toThrow(
    expect.objectContaining({ code: "MIGRATION_MISMATCH", message }),
  );
});

test.each([
  ["too many disks", { blockDevices: Array(4097).fill({ id: "d", readOnly: false, virtualSizeBytes: 1 }) }],
  ["a name that moves the cursor", { name: "\u001b[2J" }],
  ["a name that turns text around", { name: "\u202egnp.exe" }],
  ["a size that is none", { memoryBytes: -1 }],
  ["a field that is not known", { path: "/etc/shadow" }],
])("facts with %s are refused", (_, changes) => {
  expect(() => parseFacts({ ...facts(), ...changes })).toThrow(expect.objectContaining({ code: "PEER_BAD_FACTS" }));
});

test("what a peer says is shown without what moves a cursor, ends a line or turns it around", () => {
  const said = decode("ABORT", { code: "X", message: "a\u001b[2J\nb\u202ec\u2028d\u2066e" });
  expect(said).toMatchObject({ message: "a [2J b c d e" });
});

test.each([
  ["a code that is none", { code: "not a code\n", message: "" }],
  ["a message without end", { code: "X", message: "x".repeat(4097) }],
  ["no object", []],
  ["a number too large", JSON.parse('{"code": 1e999, "message": ""}')],
])("ABORT with %s is refused", (_, fields) => {
  expect(() => decode("ABORT", fields)).toThrow(expect.objectContaining({ code: "WIRE_BAD_MESSAGE" }));
});

test("JSON that is nested deeply is refused without harm", () => {
  const deep = Buffer.from(`{"code":"X","message":"","more":${"[".repeat(32_000)}${"]".repeat(32_000)}}`);
  expect(() => decodeMessage("ABORT", deep)).toThrow(expect.objectContaining({ code: "WIRE_BAD_MESSAGE" }));
});
