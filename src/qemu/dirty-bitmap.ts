/**
 * What a guest writes to a disk, noted by its QEMU in dirty bitmaps: so that a disk that was read once need not be read whole
 * again. A bitmap lives as long as its QEMU, and its name is drawn at random: if it is there, it has seen every write since.
 */

import { randomUUID } from "node:crypto";
import { GodwitError } from "../errors.ts";
import type { QmpClient } from "./qmp.ts";

/**
 * Begins to note writes to a node; to be called before the disk is read. Returns the bitmap's name.
 *
 * @throws what `execute` throws
 */
export async function addBitmap(qmp: QmpClient, node: string): Promise<string> {
  const name = newName();
  await qmp.execute("block-dirty-bitmap-add", { node, name });
  return name;
}

/**
 * Ends what a bitmap notes, so that it can be read, and begins another without missing a write in between. Returns the name
 * of the new one, or undefined if the old one is not there: then all of the disk may have changed.
 *
 * @throws what `execute` throws
 */
export async function succeedBitmap(qmp: QmpClient, node: string, old: string): Promise<string | undefined> {
  const nodes = await qmp.execute("query-named-block-nodes", { flat: true });
  const bitmaps = nodes.find((each) => each["node-name"] === node)?.["dirty-bitmaps"] ?? [];
  if (!bitmaps.some(({ name }) => name === old)) return undefined;
  const name = newName();
  await qmp.execute("transaction", {
    actions: [
      { type: "block-dirty-bitmap-add", data: { node, name } },
      { type: "block-dirty-bitmap-disable", data: { node, name: old } },
    ],
  });
  return name;
}

/** Removes a bitmap, if it is there. */
export async function removeBitmap(qmp: QmpClient, node: string, name: string): Promise<void> {
  await qmp.execute("block-dirty-bitmap-remove", { node, name }).catch((error) => {
    if (!(error instanceof GodwitError && error.code === "QMP_COMMAND_FAILED")) throw error;
  });
}

function newName(): string {
  return `godwit-${randomUUID()}`;
}
