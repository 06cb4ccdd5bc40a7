import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readFacts } from "../../../src/qemu/facts.ts";
import { readMemoryMap } from "../../../src/qemu/guest-memory.ts";
import { handshake, type Negotiated } from "../../../src/qemu/nbd-handshake.ts";
import { type Pending, replies } from "../../../src/qemu/nbd-requests.ts";
import type { Steps } from "../../../src/qemu/nbd-steps.ts";
import { QmpClient } from "../../../src/qemu/qmp.ts";
import {
  chunk,
  dataChunk,
  errorChunk,
  exportInfo,
  hello,
  holeChunk,
  optionReply,
  simpleReply,
  statusChunk,
  uint32,
} from "../../unit/support/fake-nbd.ts";
import { GREETING } from "../../unit/support/fake-qmp.ts";
import { mutateBytes, mutateJson } from "../mutate.ts";
import { type FuzzTarget, WrongOutput } from "../target.ts";

const GUARD = Buffer.alloc(64, 0xa5);
const READ_BYTES = 4096;
/** Nothing that a server says makes the client put more together than this: a block status (nbd-requests.ts). */
const MAX_NEED_BYTES = 4 + 2 ** 20;
const CONTEXT = "base:allocation";

const context = Buffer.concat([uint32(7), Buffer.from(CONTEXT)]);
const haggling = [
  hello(),
  optionReply(8, 1),
  optionReply(10, 4, context),
  optionReply(10, 1),
  optionReply(7, 3, exportInfo(2 ** 20)),
  optionReply(7, 1),
];
const data = Buffer.alloc(READ_BYTES, "d");
const conversations = [
  [
    ...haggling,
    dataChunk(1n, 0, data, true),
    statusChunk(2n, 7, [
      [4096, 3],
      [8192, 0],
    ]),
  ],
  [
    ...haggling,
    dataChunk(1n, 0, data.subarray(0, 100)),
    holeChunk(1n, 100, READ_BYTES - 100, true),
    errorChunk(2n, 5, "it is broken"),
  ],
  [
    hello(),
    optionReply(8, 0x80000001),
    optionReply(7, 3, exportInfo(2 ** 20)),
    optionReply(7, 1),
    simpleReply(1n, 0),
    data,
  ],
  [hello(), optionReply(8, 1), optionReply(10, 1), optionReply(7, 0x80000006, Buffer.from("no such export"))],
  [...haggling, chunk(1n, 0, Buffer.alloc(0), true)],
];

const nbd: FuzzTarget = {
  name: "NBD servers",
  share: 3,
  refuses: /^QMP_NBD_/,
  seeds: () => conversations.map((parts) => Buffer.concat(parts)),
  feed(input) {
    const memory = Buffer.concat([GUARD, Buffer.alloc(READ_BYTES), GUARD]);
    const settled = { resolve: () => {}, reject: () => {} };
    const target = memory.subarray(GUARD.length, GUARD.length + READ_BYTES);
    const pending: Pending = new Map();
    pending.set(1, { ...settled, offsetBytes: 0, target, missingBytes: READ_BYTES });
    pending.set(2, { ...settled, offsetBytes: 0, lengthBytes: 2 ** 20, extents: new Map() });
    const steps = conversation(pending);
    for (let at = 0, { value: need } = steps.next(); ; ) {
      const bytes = typeof need === "number" ? need : need.length;
      if (!(bytes > 0 && bytes <= MAX_NEED_BYTES)) throw new WrongOutput(`it wants ${bytes} bytes at once`);
      const piece = Buffer.from(input.subarray(at, at + bytes));
      if (typeof need !== "number") need.set(piece);
      if (!GUARD.equals(memory.subarray(0, 64)) || !GUARD.equals(memory.subarray(-64)))
        throw new WrongOutput("it wrote beyond what was to be read");
      if (piece.length < bytes) return; // it waits for more
      at += bytes;
      need = steps.next(piece).value;
    }
  },
};

function* conversation(pending: Pending): Steps<never> {
  const negotiated: Negotiated = yield* handshake("", [CONTEXT], () => {});
  return yield* replies(pending, negotiated);
}

const lines = [
  GREETING,
  { return: {}, id: 1 },
  { return: { status: "running", running: true }, id: 2 },
  { event: "STOP", data: {}, timestamp: { seconds: 1, microseconds: 2 } },
  { error: { class: "GenericError", desc: "no" }, id: 3 },
  { event: "MIGRATION", data: { status: "completed" }, timestamp: { seconds: 1, microseconds: 2 } },
];

/** What a client waits for that is never said would take it longer than there is time for. */
const IDLE_MS = 20;

/** A server that sends a line, and one more for each command; it hangs up after the last, or when it is asked no more. */
class LineServer {
  readonly folder = mkdtempSync(join(tmpdir(), "godwit-fuzz-"));
  readonly path = join(this.folder, "qmp");
  readonly #server: Server;
  text = Buffer.alloc(0);

  constructor() {
    this.#server = createServer((socket) => this.#serve(socket)).listen(this.path);
  }

  async ready(): Promise<this> {
    if (!this.#server.listening) await once(this.#server, "listening");
    return this;
  }

  #serve(socket: Socket): void {
    let rest = this.text;
    const send = () => {
      const end = rest.indexOf(10) + 1 || rest.length;
      socket.write(rest.subarray(0, end));
      rest = rest.subarray(end);
      if (rest.length === 0) socket.end();
      socket.setTimeout(IDLE_MS, () => socket.end());
    };
    socket.on("error", () => {});
    socket.on("data", send);
    send();
  }

  close(): void {
    this.#server.close();
    rmSync(this.folder, { recursive: true });
  }
}

let server: Promise<LineServer> | undefined;

const qmp: FuzzTarget = {
  name: "QMP servers",
  share: 0.3,
  refuses: /^QMP_/,
  seeds: () => [Buffer.from(lines.map((line) => `${JSON.stringify(line)}\r\n`).join(""))],
  input: (seeds, random) => {
    if (random.chance(0.4)) return mutateBytes(random.pick(seeds), seeds, random, 20_000);
    return Buffer.from(
      lines.map((line) => `${JSON.stringify(random.chance(0.3) ? mutateJson(line, random) : line)}\n`).join(""),
    );
  },
  async feed(input) {
    server ??= new LineServer().ready();
    const { path } = Object.assign(await server, { text: Buffer.from(input) });
    using client = await QmpClient.connect(path);
    client.onEvent(() => {});
    const stop = client.waitForEvent("STOP");
    await client.execute("query-status");
    await Promise.race([stop, client.execute("cont")]);
  },
  close: async () => {
    (await server)?.close();
    server = undefined;
  },
};

const MAP = `FlatView #1
 AS "memory", root: system
 AS "cpu-memory-0", root: system
 Root memory region: system
  0000000000000000-00000000000bffff (prio 0, ram): pc.ram KVM
  00000000000c0000-00000000000dffff (prio 1, rom): pc.rom
  0000000000100000-000000003fffffff (prio 0, ram): pc.ram @0000000000100000
`;
const answers: Readonly<Record<string, unknown>> = {
  "query-version": { qemu: { major: 10, minor: 0, micro: 2 }, package: "Debian" },
  "qom-get": "pc-q35-10.0-machine",
  "query-memory-size-summary": { "base-memory": 2 ** 30, "plugged-memory": 0 },
  "query-cpus-fast": [{ "cpu-index": 0 }],
  "query-block": [
    {
      device: "",
      qdev: "/machine/peripheral/virtio-disk0/virtio-backend",
      inserted: { ro: false, image: { "virtual-size": 2 ** 30 } },
    },
  ],
  "query-name": { name: "web1" },
  "query-uuid": { UUID: "7b0e2a3c-2f6d-4d3a-9b43-0c9d2f3b1a55" },
  "human-monitor-command": MAP,
  "query-memdev": [{ id: "pc.ram" }],
  "query-memory-devices": [{ type: "dimm", data: { memdev: "/objects/mem1" } }],
};

/** A QEMU of another version may answer with less, or otherwise. */
const qemuAnswers: FuzzTarget = {
  name: "QEMU's answers about a VM",
  share: 1,
  refuses: /^QMP_/,
  seeds: () => [Buffer.from(JSON.stringify(answers))],
  input: (_seeds, random) => {
    const key = random.pick(Object.keys(answers));
    return Buffer.from(JSON.stringify({ ...answers, [key]: mutateJson(answers[key], random) }));
  },
  async feed(input) {
    const given = JSON.parse(Buffer.from(input).toString()) as Record<string, unknown>;
    const client = { path: "/qmp", execute: async (name: string) => given[name] } as unknown as QmpClient;
    await readFacts(client);
    const ranges = await readMemoryMap(client);
    if (ranges.some(({ firstPage, pages }) => !(firstPage >= 0 && pages > 0)))
      throw new WrongOutput("a range of memory that is none");
  },
};

export const QEMU_TARGETS = [nbd, qmp, qemuAnswers];
