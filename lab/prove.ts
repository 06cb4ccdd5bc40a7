import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { accelerator } from "./accelerator.ts";
import { cached } from "./cache.ts";
import { startPair } from "./pair.ts";
import { type QemuVersion, qemuFolder } from "./qemus.ts";
import { type StockResult, stockMigration } from "./stock.ts";
import { cleanWalks } from "./walks.ts";

/** What a QEMU is proved with: enough load for several rounds over this link. */
const PROOF = {
  memoryMiB: 512,
  rateBitsPerSecond: 500e6,
  load: { mib: 64, pagesPerSecond: 2000, pattern: "random" },
} as const;

/**
 * Proves that a QEMU by itself moves a busy guest rightly here, by one stock migration with clean walks afterwards, so that
 * a broken guest in a test is not QEMU's doing. A proof is kept for each build, machine type and accelerator.
 *
 * @throws Error when the guest is broken afterwards, or root is missing for a link with a rate
 */
export async function proveQemu(qemu: QemuVersion, machine: string): Promise<void> {
  const build = await qemuFolder(qemu);
  await cached("proof", { build, machine, accelerator: await accelerator(), ...PROOF }, async (folder) => {
    const result = await proof(qemu, machine);
    await writeFile(join(folder, "proof.json"), JSON.stringify(result));
  });
}

async function proof(qemu: QemuVersion, machine: string): Promise<StockResult> {
  await using pair = await startPair({ qemu, machine, ...PROOF });
  const result = await stockMigration(pair.source, pair.destination);
  await cleanWalks(pair.destination, 2);
  return result;
}
