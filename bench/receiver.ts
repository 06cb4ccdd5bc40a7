/** The receiver: TCP → frames → decode → unix socket, compression off, with and without TLS. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Peer } from "../src/migration/peer.ts";
import { StreamReceiver } from "../src/migration/receiver.ts";
import { listen } from "../src/wire/transport.ts";
import { firstMessage, startProcess, table } from "./support.ts";
import { greetAsReceiver, security } from "./wire.ts";

const PAGES = 512 * 1024; // 2 GiB of guest memory
const RUNS = 3;

interface Speed {
  perCore: number;
  wall: number;
  rssBytes: number;
}

/** Receives 2 GiB of guest memory; GB/s by the CPU time of this process, and by the clock. */
async function measureReceiver(isTls: boolean, zeroShare: number): Promise<Speed> {
  const folder = mkdtempSync(join(tmpdir(), "godwit-bench-"));
  const path = join(folder, "stream");
  const sink = startProcess("stream-sink.ts", path);
  try {
    await firstMessage(sink);
    const done = Promise.withResolvers<void>();
    let startMs = 0;
    let cpu = process.cpuUsage();
    const listener = await listen({
      host: "127.0.0.1",
      port: 0,
      security: security(isTls),
      onRejected: done.reject,
      onConnection: async (connection) => {
        let ended: number | undefined;
        const peer: Peer = new Peer(connection, "receiver", {
          onMessage: (message) => {
            if (message.type === "HELLO") greetAsReceiver(peer, message);
            if (message.type === "END") {
              ended = message.rawBytes;
              receiver.onEndOfStream(message.rawBytes);
            }
          },
          onData: (header) => receiver.onData(header),
          onDataComplete: (header, body) => receiver.onDataComplete(header, body),
        });
        const receiver = new StreamReceiver({
          send: (message) => {
            peer.send(message);
            if (receiver.rawBytes === ended) done.resolve();
          },
          onRoom: () => peer.onRoom(),
          onError: done.reject,
          wireBytes: () => peer.receivedBytes,
        });
        await receiver.connect(path);
        startMs = performance.now();
        cpu = process.cpuUsage();
        peer.onRoom();
        await done.promise;
        peer.destroy();
      },
    });
    startProcess(
      "wire-source.ts",
      String(listener.address.port),
      isTls ? "tls" : "plain",
      String(PAGES),
      String(zeroShare),
    );
    await done.promise;
    const seconds = (performance.now() - startMs) / 1000;
    const used = process.cpuUsage(cpu);
    const bytes = PAGES * 4096;
    listener.close();
    const cpuSeconds = (used.user + used.system) / 1e6;
    return { perCore: bytes / cpuSeconds / 1e9, wall: bytes / seconds / 1e9, rssBytes: process.memoryUsage().rss };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** One measurement in a process of its own, so that memory is that of one receiver. */
async function inOwnProcess(isTls: boolean, zeroShare: number): Promise<Speed> {
  return firstMessage<Speed>(startProcess("receiver.ts", String(isTls), String(zeroShare)));
}

export async function bench(): Promise<string> {
  const rows = [["receiver, 2 GiB of guest memory", "GB/s per core", "GB/s by the clock", "memory MB"]];
  const cases = [
    ["plain TCP, all pages literal", false, 0],
    ["TLS, all pages literal", true, 0],
    ["TLS, 60 % zero pages", true, 0.6],
  ] as const;
  for (let run = 0; run < RUNS; run++) {
    for (const [name, isTls, zeroShare] of cases) {
      const { perCore, wall, rssBytes } = await inOwnProcess(isTls, zeroShare);
      rows.push([name, perCore.toFixed(2), wall.toFixed(2), (rssBytes / 1e6).toFixed(0)]);
    }
  }
  return table(rows);
}

if (import.meta.main) {
  const [isTls, zeroShare] = process.argv.slice(2);
  if (process.send === undefined) console.log(await bench());
  else process.send(await measureReceiver(isTls === "true", Number(zeroShare)), () => process.exit());
}
