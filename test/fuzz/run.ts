/**
 * `npm run fuzz [-- --bytes N] [--seed S] [--target NAME]`: feeds mutated real input and made-up input to everything that reads
 * what came from elsewhere, and prints what came of it. An input that fails is saved for `fuzz.test.ts` to feed again.
 */
import { createHash } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Worker } from "node:worker_threads";
import { temporaryFoldersOfRun } from "../../lab/leftovers.ts";
import { table } from "../../src/cli/table.ts";
import { FuzzFailure, type FuzzFigures, fuzz } from "./engine.ts";
import { bytesFor, TARGETS } from "./targets.ts";

const { values } = parseArgs({
  options: { bytes: { type: "string" }, seed: { type: "string" }, target: { type: "string" } },
});
const bytes = Number(values.bytes ?? 1e8);
const seed = Number(values.seed ?? Date.now() % 2 ** 31);
const targets = TARGETS.filter(({ name }) => values.target === undefined || name === values.target);
if (targets.length === 0)
  throw new Error(`no target ${values.target}; there are: ${TARGETS.map(({ name }) => name).join(", ")}`);

temporaryFoldersOfRun(); // gone when this process ends

const MAX_INPUT_BYTES = 4 * 2 ** 20;
/** What an input that never ends looked like: written by this thread, read by the watchdog. */
const current = new SharedArrayBuffer(8 + MAX_INPUT_BYTES);
const [counter, length, copy] = [
  new Int32Array(current, 0, 1),
  new Int32Array(current, 4, 1),
  new Uint8Array(current, 8),
];
const watchdog = new Worker(new URL("watchdog.ts", import.meta.url), { workerData: current });
watchdog.unref();

// What is thrown where nobody waits for it, such as in a handler of a socket.
process.on("uncaughtException", (error) => {
  console.error(error);
  save("uncaught", copy.slice(0, Atomics.load(length, 0)));
  process.exit(1);
});

function save(target: string, input: Uint8Array): void {
  const digest = createHash("sha256").update(input).digest("hex").slice(0, 12);
  const name = `${target.replaceAll(/[^A-Za-z0-9]+/g, "-")}.${digest}`;
  writeFileSync(join(import.meta.dirname, "regressions", name), input);
  console.error(`its input was saved as regressions/${name}`);
}

const figures: FuzzFigures[] = [];
const startMs = performance.now();
console.log(`seed ${seed}`);
try {
  for (const target of targets) {
    const onInput = (input: Uint8Array) => {
      copy.set(input);
      Atomics.store(length, 0, input.length);
      Atomics.add(counter, 0, 1);
    };
    try {
      const done = await fuzz(target, {
        bytes: values.target === undefined ? bytesFor(target, bytes) : bytes,
        seed,
        onInput,
      });
      figures.push(done);
      console.log(rowOf(done).join("  "));
    } finally {
      await target.close?.();
    }
  }
} catch (error) {
  if (!(error instanceof FuzzFailure)) throw error;
  console.error(`${error.message}\n${(error.cause as Error | undefined)?.stack ?? ""}\n`);
  save(error.target, error.input);
  process.exitCode = 1;
}
const sum = (of: (row: FuzzFigures) => number) => figures.reduce((total, row) => total + of(row), 0);
const all: FuzzFigures = {
  ...{ target: "all", bytes: sum((row) => row.bytes), inputs: sum((row) => row.inputs) },
  ...{ refused: sum((row) => row.refused), accepted: sum((row) => row.accepted) },
  ...{
    maxMs: Math.max(...figures.map((row) => row.maxMs)),
    growthBytes: Math.max(...figures.map((row) => row.growthBytes)),
  },
};
const head = ["target", "bytes", "inputs", "refused", "accepted", "longest", "memory"];
console.log(`\n${table([head, ...[...figures, all].map(rowOf)], 1).join("\n")}`);
console.log(`\n${Math.round((performance.now() - startMs) / 1000)} s, seed ${seed}`);

function rowOf({ target, bytes, inputs, refused, accepted, maxMs, growthBytes }: FuzzFigures): string[] {
  const count = (number: number) => number.toLocaleString("en");
  const growth = `${growthBytes >= 0 ? "+" : "−"}${Math.abs(Math.round(growthBytes / 2 ** 20))} MiB`;
  return [target, count(bytes), count(inputs), count(refused), count(accepted), `${maxMs.toFixed(0)} ms`, growth];
}
