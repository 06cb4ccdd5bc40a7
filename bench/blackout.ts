/** Idle guest, unshaped link. */
import { compare } from "./pairs.ts";
import { table } from "./support.ts";

const RUNS = 7;

export async function bench(): Promise<string> {
  return table(await compare("idle guest of 512 MiB, unshaped link", { memoryMiB: 512 }, RUNS));
}

if (import.meta.main) console.log(await bench());
