import { openSync, readSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { Vm } from "../../../lab/vm.ts";
import { openCheckpoints } from "../../../src/migration/open-checkpoints.ts";
import { makeSocketFolder } from "../../../src/migration/socket-folder.ts";
import { identityOf, readFacts } from "../../../src/qemu/facts.ts";

const PIECE_BYTES = 16 << 20;

/** Keeps the memory of a VM that is stopped as a checkpoint in a state folder; returns its id. */
export async function keepCheckpoint({ qmp, qmpPath }: Vm, stateDir: string): Promise<string> {
  const { memoryBytes, name: vmName, ...facts } = await readFacts(qmp);
  const store = await openCheckpoints(stateDir);
  const identity = identityOf({ name: vmName, ...facts })!;
  await using writer = await store.create({ identity, vmName, memoryBytes, origin: "migration" });
  await using folder = await makeSocketFolder(qmpPath);
  const path = join(folder.path, "memory");
  const bytes = new Uint8Array(PIECE_BYTES);
  for (let at = 0; at < memoryBytes; at += PIECE_BYTES) {
    await qmp.execute("pmemsave" as never, { val: at, size: PIECE_BYTES, filename: path } as never);
    readSync(openSync(path, "r"), bytes);
    rmSync(path);
    writer.add(at / 4096, bytes);
    await writer.drained();
  }
  return (await writer.finish()).id;
}
