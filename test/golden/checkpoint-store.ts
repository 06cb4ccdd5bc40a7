/**
 * What the golden checkpoint store of format version 1 holds; `node test/golden/checkpoint-store.ts` records it anew, into
 * checkpoint-store-1/. It stays as it is while there are readers of version 1.
 */

import { cp, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { openCheckpoints } from "../../src/migration/open-checkpoints.ts";

export const GOLDEN_STORE = fileURLToPath(new URL("checkpoint-store-1/", import.meta.url));
export const GOLDEN_VM = { identity: "uuid:7b0e2a3c-2f6d-4d3a-9b43-0c9d2f3b1a55", vmName: "bar-tailed", memoryBytes: 2 ** 24 };

const PAGE_BYTES = 4096;

/** A page that can be packed, another for each number. */
function textPage(number: number): Buffer {
  return Buffer.alloc(PAGE_BYTES, `golden page ${number}, `);
}

/** A page that cannot. */
function noisePage(number: number): Buffer {
  const page = Buffer.alloc(PAGE_BYTES);
  let word = Math.imul(number + 1, 0x9e3779b1);
  for (let at = 0; at < PAGE_BYTES; at += 4) {
    word ^= word << 13;
    word ^= word >>> 17;
    word ^= word << 5;
    page.writeInt32LE(word, at);
  }
  return page;
}

/** The pages of each of its checkpoints, by page numbers. The third was deleted, so what only it had is left out of the packs. */
export function goldenPages(checkpoint: 0 | 1 | 2): Map<number, Buffer> {
  const pages = new Map<number, Buffer>();
  if (checkpoint !== 1) for (let page = 0; page < 40; page++) pages.set(page + 100 * checkpoint, textPage(page * 3 + checkpoint));
  if (checkpoint !== 2) for (let page = 0; page < 20; page++) pages.set(2 ** 20 + page, noisePage(page));
  if (checkpoint === 1) for (let page = 0; page < 40; page += 3) pages.set(7 + page, textPage(page * 3 + 2));
  return pages;
}

async function record(): Promise<void> {
  const stateDir = await mkdtemp(join(tmpdir(), "godwit-golden-"));
  try {
    const store = await openCheckpoints(stateDir);
    const ids: string[] = [];
    for (const checkpoint of [2, 0, 1] as const) {
      await using writer = await store.create({ ...GOLDEN_VM, origin: checkpoint === 0 ? "migration" : "saved" });
      for (const [number, page] of goldenPages(checkpoint)) writer.add(number, page);
      ids.push((await writer.finish()).id);
    }
    await store.delete(ids[0]!);
    await rm(GOLDEN_STORE, { recursive: true, force: true });
    await cp(store.path, GOLDEN_STORE, { recursive: true });
  } finally {
    await rm(stateDir, { recursive: true });
  }
}

if (import.meta.main) await record();
