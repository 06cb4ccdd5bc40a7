/** The checkpoint store: writing and reading a checkpoint, in GB/s of guest memory on one core: `node bench/checkpoint.ts`. */
import { randomFillSync } from "node:crypto";
import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openCheckpoints } from "../src/migration/open-checkpoints.ts";
import type { CheckpointReader } from "../src/store/checkpoint-reader.ts";
import type { CheckpointStore } from "../src/store/checkpoint-store.ts";
import { readBatch } from "../src/store/read-batch.ts";
import { machine, median, table } from "./support.ts";

const RUNS = 3;
const PAGE_BYTES = 4096;
const MEMORY_BYTES = 96 << 20;
/** What a capturer adds at once, and a sequential reader asks for. */
const PIECE_BYTES = 1 << 20;
/** Runs as a migration asks for them: 32 pages, their records 4104 bytes apart, 64 runs at once. */
const RUN_PAGES = 32;
const RECORD_BYTES = 4104;
const BATCH_RUNS = 64;

type Keep = (memory: Uint8Array) => Promise<string>;

function keeper(store: CheckpointStore): Keep {
  return async (memory) => {
    await using writer = await store.create({
      identity: "name:bench",
      vmName: "bench",
      memoryBytes: memory.length,
      origin: "saved",
    });
    for (let at = 0; at < memory.length; at += PIECE_BYTES) {
      writer.add(at / PAGE_BYTES, memory.subarray(at, at + PIECE_BYTES));
      await writer.drained();
    }
    return (await writer.finish()).id;
  };
}

async function readThrough(reader: CheckpointReader): Promise<void> {
  const pieces = [new Uint8Array(PIECE_BYTES), new Uint8Array(PIECE_BYTES)];
  const reads: Promise<void>[] = [];
  for (let at = 0; at < reader.sizeBytes; at += PIECE_BYTES) {
    const turn = (at / PIECE_BYTES) % 2;
    await reads[turn];
    reads[turn] = reader.read(at, pieces[turn]!.subarray(0, Math.min(PIECE_BYTES, reader.sizeBytes - at)));
  }
  await Promise.all(reads);
}

async function readRuns(reader: CheckpointReader): Promise<void> {
  const memory = new Uint8Array(BATCH_RUNS * RUN_PAGES * RECORD_BYTES);
  const runs = Math.floor(reader.pages / RUN_PAGES);
  for (let first = 0; first < runs; first += BATCH_RUNS) {
    const reads = Array.from({ length: Math.min(BATCH_RUNS, runs - first) }, (_, run) => ({
      // Every run is asked for once, in an order in which none follows the one before.
      offsetBytes: (((first + run) * 7) % runs) * RUN_PAGES * PAGE_BYTES,
      targets: Array.from({ length: RUN_PAGES }, (_, page) => {
        const at = (run * RUN_PAGES + page) * RECORD_BYTES + 8;
        return memory.subarray(at, at + PAGE_BYTES);
      }),
    }));
    const failure = (await readBatch(reader, reads)).find((error) => error !== undefined);
    if (failure) throw failure;
  }
}

async function speedOf<T>(work: () => Promise<T>): Promise<{ result: T; speed: number }> {
  const startMs = performance.now();
  const result = await work();
  return { result, speed: MEMORY_BYTES / (performance.now() - startMs) / 1e6 };
}

export async function bench(): Promise<string> {
  const program = readFileSync(process.execPath).subarray(0, MEMORY_BYTES);
  const random = randomFillSync(new Uint8Array(MEMORY_BYTES));
  const rows = [["checkpoint of 96 MiB", "kept GB/s", "kept again", "read in order", "runs of 32", "takes"]];
  for (const [name, memory] of [
    ["program text", program],
    ["random", random],
  ] as const) {
    const speeds: number[][] = [[], [], [], []];
    let share = 0;
    for (let run = 0; run < RUNS; run++) {
      const stateDir = await mkdtemp(join(tmpdir(), "godwit-bench-"));
      try {
        const store = await openCheckpoints(stateDir, { maxBytes: 2 ** 34 });
        const keep = keeper(store);
        const first = await speedOf(() => keep(memory));
        share = (await store.storedBytes()) / memory.length;
        const again = await speedOf(() => keep(memory));
        await using reader = await store.open(again.result);
        const inOrder = await speedOf(() => readThrough(reader));
        const inRuns = await speedOf(() => readRuns(reader));
        for (const [column, { speed }] of [first, again, inOrder, inRuns].entries()) speeds[column]!.push(speed);
      } finally {
        await rm(stateDir, { recursive: true });
      }
    }
    rows.push([name, ...speeds.map((list) => median(list).toFixed(2)), `${(share * 100).toFixed(0)} %`]);
  }
  return table(rows);
}

if (import.meta.main) console.log(`${machine()}\n\n${await bench()}`);
