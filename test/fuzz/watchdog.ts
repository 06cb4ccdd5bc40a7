// Ends the fuzzer when an input never ends, which its own thread can't notice, and saves that input.
import { writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { workerData } from "node:worker_threads";

const STUCK_MS = 60_000;
const [counter, length, input] = [
  new Int32Array(workerData, 0, 1),
  new Int32Array(workerData, 4, 1),
  new Uint8Array(workerData, 8),
];
let last = -1;

setInterval(() => {
  const now = Atomics.load(counter, 0);
  if (now === last) {
    const path = join(import.meta.dirname, "regressions", "stuck");
    writeFileSync(path, input.slice(0, Atomics.load(length, 0)));
    writeSync(2, `an input has not ended within ${STUCK_MS / 1000} s; it was saved as regressions/stuck\n`);
    process.kill(process.pid, "SIGKILL");
  }
  last = now;
}, STUCK_MS);
