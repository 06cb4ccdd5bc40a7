/** A unix socket that was accepted, read into memory of ours: in place, and through 'data' events with a copy. */
import { once } from "node:events";
import net from "node:net";
import { join } from "node:path";
import { temporaryFolder } from "../lab/leftovers.ts";
import { openInPlace, openWithCopy } from "../src/migration/intake.ts";
import { createKernels } from "../src/migration/kernels.ts";
import { RawWindow, WINDOW_MEMORY_BYTES } from "../src/migration/window.ts";
import { median, startProcess, table } from "./support.ts";

const PAGES = 512 * 1024;
const RUNS = 3;

/** GB/s of stream by the CPU time of this process. */
async function measure(open: typeof openWithCopy | typeof openInPlace): Promise<number> {
  using folder = temporaryFolder();
  const path = join(folder.path, "stream");
  const server = net.createServer({ pauseOnConnect: true, allowHalfOpen: true }).listen(path);
  await once(server, "listening");
  startProcess("stream-writer.ts", path, String(PAGES), "literal");
  const [accepted] = (await once(server, "connection")) as [net.Socket];
  server.close();
  const window = new RawWindow(createKernels(WINDOW_MEMORY_BYTES));
  const ended = Promise.withResolvers<void>();
  const cpu = process.cpuUsage();
  const intake = open(accepted, window, {
    onBytes: () => {
      window.parsed(window.writeAt);
      window.release(window.readOffset);
      return true;
    },
    onEnd: ended.resolve,
    onError: ended.reject,
  });
  await ended.promise;
  const used = process.cpuUsage(cpu);
  intake?.socket.end();
  return window.readOffset / ((used.user + used.system) / 1e6) / 1e9;
}

export async function bench(): Promise<string> {
  const [inPlace, withCopy]: [number[], number[]] = [[], []];
  for (let run = 0; run < RUNS; run++) {
    inPlace.push(await measure(openInPlace));
    withCopy.push(await measure(openWithCopy));
  }
  return table([
    ["accepted unix socket into our memory", "GB/s per core"],
    ["in place (descriptor opened again)", median(inPlace).toFixed(1)],
    ["'data' events and a copy", median(withCopy).toFixed(1)],
  ]);
}

if (import.meta.main) console.log(await bench());
