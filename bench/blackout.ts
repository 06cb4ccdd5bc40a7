/** Idle guest, unshaped link. */
import { compare, godwit, stock } from "./pairs.ts";
import { table } from "./support.ts";

const name = "idle guest of 512 MiB, unshaped link";

export async function bench(): Promise<string> {
  return table(
    await compare({ name, vm: { memoryMiB: 512, preallocated: true }, movers: [stock(), godwit()], runs: 7 }),
  );
}

if (import.meta.main) console.log(await bench());
