/** The receiver: TCP → frames → decode → unix socket, compression off, with and without TLS. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Peer } from "../src/migration/peer.ts";
import { StreamReceiver } from "../src/migration/receiver.ts";
import { FileDisk } from "../src/store/disk-reader.ts";
import { PAGE_BYTES } from "../src/stream/format.ts";
import { listen } from "../src/wire/transport.ts";
import { DISK_BLOCKS, TAG_KEY, writeDisk } from "./disk.ts";
import { firstMessage, pipelineTable, type Speed, startProcess, type Workload } from "./support.ts";
import { greetAsReceiver, security } from "./wire.ts";

const PAGES = 512 * 1024; // 2 GiB of guest memory

/** Receives 2 GiB of guest memory; GB/s by the CPU time of this process, and by the clock. */
async function measureReceiver(transport: string, workload: Workload): Promise<Speed> {
  const folder = mkdtempSync(join(tmpdir(), "godwit-bench-"));
  const path = join(folder, "stream");
  const sink = startProcess("stream-sink.ts", path);
  try {
    await firstMessage(sink);
    const reader = workload === "disk" ? await openDisk(join(folder, "disk")) : undefined;
    const done = Promise.withResolvers<void>();
    let startMs = 0;
    let cpu = process.cpuUsage();
    const listener = await listen({
      host: "127.0.0.1",
      port: 0,
      security: security(transport),
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
        peer.closed.catch(done.reject);
        const receiver = new StreamReceiver({
          send: (message) => {
            peer.send(message);
            if (receiver.rawBytes === ended) done.resolve();
          },
          onRoom: () => peer.onRoom(),
          onError: done.reject,
          ping: () => peer.ping(),
          wireBytes: () => peer.receivedBytes,
        });
        if (reader !== undefined)
          receiver.usePlaces({ disks: [{ reader, blocks: DISK_BLOCKS }], checkpoints: [] }, TAG_KEY, console.error);
        await receiver.connect(path);
        startMs = performance.now();
        cpu = process.cpuUsage();
        peer.onRoom();
        await done.promise;
        peer.destroy();
      },
    });
    startProcess("wire-source.ts", String(listener.address.port), transport, String(PAGES), workload);
    await done.promise;
    const seconds = (performance.now() - startMs) / 1000;
    const used = process.cpuUsage(cpu);
    const bytes = PAGES * 4096;
    listener.close();
    await reader?.[Symbol.asyncDispose]();
    const cpuSeconds = (used.user + used.system) / 1e6;
    return { perCore: bytes / cpuSeconds / 1e9, wall: bytes / seconds / 1e9, rssBytes: process.memoryUsage().rss };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function openDisk(path: string): Promise<FileDisk> {
  writeDisk(path);
  return FileDisk.open(path, DISK_BLOCKS * PAGE_BYTES);
}

export function bench(): Promise<string> {
  return pipelineTable("receiver");
}

if (import.meta.main) {
  const [transport, workload] = process.argv.slice(2);
  if (process.send === undefined) console.log(await bench());
  else process.send(await measureReceiver(transport!, workload as Workload), () => process.exit());
}
