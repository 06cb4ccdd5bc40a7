/** The sender: unix socket → parse → frame → TCP, compression off, with and without TLS. */
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Peer } from "../src/migration/peer.ts";
import { StreamSender } from "../src/migration/sender.ts";
import { connect } from "../src/wire/transport.ts";
import { firstMessage, startProcess, table } from "./support.ts";
import { greetAsSender, security } from "./wire.ts";

const PAGES = 512 * 1024; // 2 GiB of guest memory
const RUNS = 3;

interface Speed {
  perCore: number;
  wall: number;
  rssBytes: number;
}

/** Sends 2 GiB of guest memory; GB/s by the CPU time of this process, and by the clock. */
async function measureSender(isTls: boolean, zeroShare: number): Promise<Speed> {
  const folder = mkdtempSync(join(tmpdir(), "godwit-bench-"));
  const sink = startProcess("wire-sink.ts", isTls ? "tls" : "plain");
  try {
    const port = await firstMessage<number>(sink);
    const connection = await connect({ host: "127.0.0.1", port, security: security(isTls) });
    const welcome = Promise.withResolvers<void>();
    const done = Promise.withResolvers<void>();
    let sender: StreamSender | undefined;
    const peer = new Peer(connection, "sender", {
      onMessage: (message) => {
        if (message.type === "WELCOME") welcome.resolve();
        if (message.type !== "ACK" || sender === undefined) return;
        sender.acknowledge(message.rawOffset, message.wireBytes);
        if (sender.hasEnded && message.rawOffset === sender.rawBytes) done.resolve();
      },
    });
    peer.closed.catch(done.reject);
    greetAsSender(peer);
    await welcome.promise;
    sender = new StreamSender(peer, { codec: "none", onError: done.reject });
    const path = join(folder, "stream");
    const server = net.createServer({ pauseOnConnect: true, allowHalfOpen: true }).listen(path);
    await once(server, "listening");
    const writer = startProcess("stream-writer.ts", path, String(PAGES), String(zeroShare));
    const [accepted] = (await once(server, "connection")) as [net.Socket];
    server.close();
    const cpu = process.cpuUsage();
    const startMs = performance.now();
    sender.start(accepted);
    await done.promise;
    const seconds = (performance.now() - startMs) / 1000;
    const used = process.cpuUsage(cpu);
    const bytes = PAGES * 4096;
    sender.stop();
    peer.destroy();
    if (writer.exitCode === null) await once(writer, "exit");
    const cpuSeconds = (used.user + used.system) / 1e6;
    return { perCore: bytes / cpuSeconds / 1e9, wall: bytes / seconds / 1e9, rssBytes: process.memoryUsage().rss };
  } finally {
    if (sink.exitCode === null) sink.kill();
    rmSync(folder, { recursive: true, force: true });
  }
}

/** One measurement in a process of its own, so that memory is that of one sender. */
async function inOwnProcess(isTls: boolean, zeroShare: number): Promise<Speed> {
  return firstMessage<Speed>(startProcess("sender.ts", String(isTls), String(zeroShare)));
}

export async function bench(): Promise<string> {
  const rows = [["sender, 2 GiB of guest memory", "GB/s per core", "GB/s by the clock", "memory MB"]];
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
  else process.send(await measureSender(isTls === "true", Number(zeroShare)), () => process.exit());
}
