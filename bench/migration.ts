/**
 * A guest of 1 GiB that has read its root file system, over a link of 500 Mbit/s: idle, on its way back, and under loads.
 *
 *   node bench/migration.ts [CASE...]     default: all of them, half an hour
 */
import type { Load } from "../lab/vm.ts";
import { type Comparison, compare, godwit, stock } from "./pairs.ts";
import { table } from "./support.ts";

const RUNS = 3;
const VM = { memoryMiB: 1024, cached: true, preallocated: true, rateBitsPerSecond: 500e6 };
const SPARSE: Load = { mib: 300, pagesPerSecond: 60_000, pattern: "sparse" };
const WORDS: Load = { mib: 64, pagesPerSecond: 2000, pattern: "word" };
const RANDOM: Load = { mib: 64, pagesPerSecond: 4000, pattern: "random" };

const CASES: Readonly<Record<string, Omit<Comparison, "runs">>> = {
  idle: {
    name: "idle",
    vm: VM,
    movers: [stock(), stock("multifd, zstd"), godwit(), godwit("--no-disk-refs")],
  },
  back: { name: "idle, the way back", vm: VM, movers: [stock(), godwit()], isWayBack: true },
  sparse: {
    name: "one word in each page of 300 MiB, 60,000 pages/s",
    vm: { ...VM, load: SPARSE },
    movers: [stock(), stock("auto-converge"), stock("xbzrle"), stock("multifd, zstd"), godwit()],
  },
  words: {
    name: "one word in each page of 64 MiB of random bytes, 2,000 pages/s",
    vm: { ...VM, load: WORDS },
    movers: [stock(), stock("xbzrle"), godwit()],
  },
  random: {
    name: "whole pages of 64 MiB, random bytes, 4,000 pages/s",
    vm: { ...VM, load: RANDOM },
    movers: [stock(), godwit()],
  },
};

export async function bench(names: readonly string[] = Object.keys(CASES)): Promise<string> {
  const tables: string[] = [];
  for (const name of names) {
    const comparison = CASES[name];
    if (comparison === undefined) throw new Error(`no case ${name}; there are: ${Object.keys(CASES).join(", ")}`);
    tables.push(table(await compare({ ...comparison, runs: RUNS })));
  }
  return tables.join("\n\n");
}

if (import.meta.main) console.log(await bench(process.argv.length > 2 ? process.argv.slice(2) : undefined));
