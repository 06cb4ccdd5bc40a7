/** A guest of 1 GiB that has read its root file system, over a link of 500 Mbit/s: idle, and under a load. */
import { compare } from "./pairs.ts";
import { table } from "./support.ts";

const RUNS = 3;
const VM = { memoryMiB: 1024, cached: true, rateBitsPerSecond: 500e6 };
const LOADS = {
  idle: undefined,
  "a word in each of 64 MiB, 2,000 pages/s": { mib: 64, pagesPerSecond: 2000, pattern: "word" },
  "random pages, 64 MiB, 4,000 pages/s": { mib: 64, pagesPerSecond: 4000, pattern: "random" },
} as const;

export async function bench(): Promise<string> {
  const tables: string[] = [];
  for (const [name, load] of Object.entries(LOADS)) {
    tables.push(table(await compare(`1 GiB, 500 Mbit/s: ${name}`, { ...VM, ...(load && { load }) }, RUNS)));
  }
  return tables.join("\n\n");
}

if (import.meta.main) console.log(await bench());
