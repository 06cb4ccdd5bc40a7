/** The sender: unix socket → parse → frame → TCP, compression off, with and without TLS. */
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Peer } from "../src/migration/peer.ts";
import { StreamSender } from "../src/migration/sender.ts";
import { SentPages } from "../src/stream/sent-pages.ts";
import { connect } from "../src/wire/transport.ts";
import { referableDisk } from "./disk.ts";
import { firstMessage, packingOf, pipelineTable, type Speed, startProcess, type Workload } from "./support.ts";
import { greetAsSender, security } from "./wire.ts";

const PAGES = 512 * 1024; // 2 GiB of guest memory

/** Sends 2 GiB of guest memory; GB/s by the CPU time of this process, and by the clock. */
async function measureSender(transport: string, workload: Workload): Promise<Speed> {
  const folder = mkdtempSync(join(tmpdir(), "godwit-bench-"));
  const sink = startProcess("wire-sink.ts", transport);
  try {
    const port = await firstMessage<number>(sink);
    const connection = await connect({ host: "127.0.0.1", port, security: security(transport) });
    const welcome = Promise.withResolvers<void>();
    const done = Promise.withResolvers<void>();
    let sender: StreamSender | undefined;
    const peer = new Peer(connection, "sender", {
      onMessage: (message) => {
        if (message.type === "WELCOME") welcome.resolve();
        if (message.type !== "ACK" || sender === undefined) return;
        sender.acknowledge(message);
        if (sender.hasEnded && message.rawOffset === sender.rawBytes) done.resolve();
      },
    });
    peer.closed.catch(done.reject);
    greetAsSender(peer);
    await welcome.promise;
    const references = workload === "disk" ? { referable: referableDisk() } : {};
    sender = new StreamSender(peer, {
      packing: packingOf(workload),
      ...references,
      sentPages: new SentPages(),
      onError: done.reject,
    });
    const path = join(folder, "stream");
    const server = net.createServer({ pauseOnConnect: true, allowHalfOpen: true }).listen(path);
    await once(server, "listening");
    const writer = startProcess("stream-writer.ts", path, String(PAGES), workload);
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

export function bench(): Promise<string> {
  return pipelineTable("sender");
}

if (import.meta.main) {
  const [transport, workload] = process.argv.slice(2);
  if (process.send === undefined) console.log(await bench());
  else process.send(await measureSender(transport!, workload as Workload), () => process.exit());
}
