/**
 * What a guest writes to a disk, noted by its QEMU in dirty bitmaps: so that a disk that was read once need not be read whole
 * again. A bitmap lives as long as its QEMU, and its name is drawn at random: if it is there and notes, it has seen every write
 * since it was made. Ours are never persistent, and a migration leaves them behind.
 */

import { randomUUID } from "node:crypto";
import { GodwitError } from "../errors.ts";
import type { BlockDirtyInfo } from "./commands.ts";
import type { QmpClient } from "./qmp.ts";

const OUR_NAME = /^godwit-[0-9a-f]{8}-/;

/** Notes the writes to a node from the moment on when it was begun. One of `keep`, `undo` and `drop` ends it. */
export class WriteWatch {
  /** The bitmap that notes from now on. */
  readonly bitmap: string;
  /** The one that noted before, and can be read now; undefined if there was none. */
  readonly previous: string | undefined;
  readonly #qmp: QmpClient;
  readonly #node: string;

  private constructor(qmp: QmpClient, node: string, bitmap: string, previous: string | undefined) {
    this.#qmp = qmp;
    this.#node = node;
    this.bitmap = bitmap;
    this.previous = previous;
  }

  /**
   * Begins it, without missing a write between `previous` and the new bitmap. Bitmaps of ours that nobody can make use of any more are
   * removed.
   *
   * @param previous a bitmap that may still be there, and note
   * @throws what `execute` throws
   */
  static async begin(qmp: QmpClient, node: string, previous: string | null): Promise<WriteWatch> {
    const bitmaps = await bitmapsOf(qmp, node);
    const old = bitmaps.find(({ name, recording }) => name === previous && recording)?.name;
    for (const { name } of bitmaps) if (name && OUR_NAME.test(name) && name !== old) await remove(qmp, node, name);
    const name = `godwit-${randomUUID()}`;
    // One after the other, so that a write between is in both: a transaction would wait for all I/O of the guest (qmp_transaction, blockdev.c).
    await qmp.execute("block-dirty-bitmap-add", { node, name });
    const watch = new WriteWatch(qmp, node, name, old);
    try {
      if (old !== undefined) await qmp.execute("block-dirty-bitmap-disable", { node, name: old });
      return watch;
    } catch (error) {
      await watch.drop();
      throw error;
    }
  }

  /** From now on only the new bitmap counts. Never rejects. */
  async keep(): Promise<void> {
    if (this.previous !== undefined) await remove(this.#qmp, this.#node, this.previous);
  }

  /** All is as it was before: the previous bitmap has noted what the new one has, and notes on. Never rejects. */
  async undo(): Promise<void> {
    const [node, name, previous] = [this.#node, this.bitmap, this.previous];
    if (previous !== undefined) {
      try {
        await this.#qmp.execute("block-dirty-bitmap-enable", { node, name: previous });
        await this.#qmp.execute("block-dirty-bitmap-merge", { node, target: previous, bitmaps: [name] });
      } catch {
        await remove(this.#qmp, node, previous); // it has missed writes
      }
    }
    await remove(this.#qmp, node, name);
  }

  /** Nothing is noted any more. Never rejects. */
  async drop(): Promise<void> {
    await this.keep();
    await remove(this.#qmp, this.#node, this.bitmap);
  }
}

/** Removes a bitmap of ours, on whatever node it is. */
export async function removeBitmap(qmp: QmpClient, bitmap: string): Promise<void> {
  for (const node of await qmp.execute("query-named-block-nodes", { flat: true })) {
    const name = node["node-name"];
    const isThere = node["dirty-bitmaps"]?.some((each) => each.name === bitmap) ?? false;
    if (name !== undefined && isThere && OUR_NAME.test(bitmap)) await remove(qmp, name, bitmap);
  }
}

/** Removes those bitmaps of ours that note writes to a node. */
export async function removeBitmaps(qmp: QmpClient, node: string): Promise<void> {
  for (const { name } of await bitmapsOf(qmp, node)) if (name && OUR_NAME.test(name)) await remove(qmp, node, name);
}

async function bitmapsOf(qmp: QmpClient, node: string): Promise<readonly BlockDirtyInfo[]> {
  const nodes = await qmp.execute("query-named-block-nodes", { flat: true });
  return nodes.find((each) => each["node-name"] === node)?.["dirty-bitmaps"] ?? [];
}

/** One that is gone, with its QEMU or without, or that another program reads, is left alone. */
async function remove(qmp: QmpClient, node: string, name: string): Promise<void> {
  await qmp.execute("block-dirty-bitmap-remove", { node, name }).catch((error) => {
    if (!(error instanceof GodwitError)) throw error;
  });
}
