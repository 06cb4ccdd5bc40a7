/** Which pages of a sample stand on the VM's disks, as this host's indexes say. */

import { GodwitError } from "../../errors.ts";
import { listDisks } from "../../qemu/disks.ts";
import { identityOf, type VmFacts } from "../../qemu/facts.ts";
import type { QmpClient } from "../../qemu/qmp.ts";
import { HASH_BYTES, PART_BLOCKS } from "../../store/index-format.ts";
import type { IndexStore } from "../../store/index-store.ts";
import type { SampleAnalysis } from "./sample-analysis.ts";

/** Between two parts of an index others get their turn. */
const TURN = () => new Promise((resolve) => setImmediate(resolve));

/**
 * Looks the sample up in the indexes that there are; none is built. @returns the ids of the disks that have none
 * @throws what `execute` throws, or the signal's reason
 */
export async function findOnDisks(
  qmp: QmpClient,
  vm: VmFacts,
  store: IndexStore,
  sample: SampleAnalysis,
  signal?: AbortSignal,
): Promise<string[]> {
  const unknown: string[] = [];
  const hashes = new Uint8Array(PART_BLOCKS * HASH_BYTES);
  for (const disk of await listDisks(qmp)) {
    const subject = {
      vm: identityOf(vm) ?? `image:${disk.image}`,
      disk: disk.id,
      vmName: vm.name,
      image: disk.image,
    };
    await using stored = await store.find(subject).catch((error) => {
      if (error instanceof GodwitError) return undefined; // damaged, or of another host: as good as none
      throw error;
    });
    if (stored === undefined) {
      unknown.push(disk.id);
      continue;
    }
    for (let part = 0; part < stored.parts; part++) {
      signal?.throwIfAborted();
      if (stored.hashesOf(part) === 0 || !(await stored.readPart(part, hashes))) continue;
      sample.foundOnDisk(hashes.subarray(0, stored.blocks(part) * HASH_BYTES));
      await TURN();
    }
  }
  return unknown;
}
