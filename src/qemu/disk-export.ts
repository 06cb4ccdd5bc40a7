/** Lets godwit read the disks of a running VM through its own QEMU, in whatever format they are. */

import { GodwitError, messageOf } from "../errors.ts";
import type { QmpClient } from "./qmp.ts";

/** Ours are `godwit-PID-NUMBER`, so that what a dead godwit left can be told from what others use. */
const OUR_ID = /^godwit-(\d+)-\d+$/;

export interface ExportedDisk {
  readonly id: string;
  readonly nodeName: string | null;
  /** A dirty bitmap of the node, no longer noting, to be readable by its `bitmapContext`. */
  readonly bitmap?: string | undefined;
}

/** Disks that a QEMU exports; disposing it takes the exports and the server away again. */
export interface DiskExports extends AsyncDisposable {
  readonly socketPath: string;
  /** The name of the export of each disk, by the disk's id. */
  readonly names: ReadonlyMap<string, string>;
  /** Why QEMU does not export a disk, by the disk's id. */
  readonly refusals: ReadonlyMap<string, string>;
}

/**
 * Makes a QEMU export nodes, read-only, on a unix socket of ours; its guest goes on undisturbed. QEMU has one NBD server: if
 * it runs already, somebody else uses it, and it is left alone. `qmp` must stay connected until the exports are disposed.
 *
 * @throws QMP_NBD_BUSY: its NBD server is in use
 * @throws QMP_COMMAND_FAILED: QEMU cannot start it, and what else `execute` throws
 */
export async function exportDisks(
  qmp: QmpClient,
  disks: readonly ExportedDisk[],
  socketPath: string,
): Promise<DiskExports> {
  await startServer(qmp, socketPath);
  await using undo = new AsyncDisposableStack();
  undo.defer(() => quietly(qmp.execute("nbd-server-stop")));

  const names = new Map<string, string>();
  const refusals = new Map<string, string>();
  for (const [index, { id, nodeName, bitmap }] of disks.entries()) {
    const name = `godwit-${process.pid}-${index}`;
    try {
      if (nodeName === null) throw new Error("this QEMU does not name the disk's node");
      const target = { type: "nbd", id: name, "node-name": nodeName, name, writable: false } as const;
      await qmp.execute("block-export-add", bitmap === undefined ? target : { ...target, bitmaps: [bitmap] });
      undo.defer(() => quietly(qmp.execute("block-export-del", { id: name, mode: "hard" })));
      names.set(id, name);
    } catch (error) {
      if (error instanceof GodwitError && error.code !== "QMP_COMMAND_FAILED") throw error;
      refusals.set(id, messageOf(error));
    }
  }
  const resources = undo.move();
  return { socketPath, names, refusals, [Symbol.asyncDispose]: () => resources.disposeAsync() };
}

async function startServer(qmp: QmpClient, path: string): Promise<void> {
  const start = () => qmp.execute("nbd-server-start", { addr: { type: "unix", data: { path } } });
  try {
    await start();
  } catch (cause) {
    if (!isAlreadyRunning(cause)) throw cause;
    const exports = await qmp.execute("query-block-exports");
    if (exports.length === 0 || !exports.every(({ id }) => isLeftOver(id))) {
      const text = "the NBD server of this QEMU is in use by another program";
      throw new GodwitError("QMP_NBD_BUSY", text, { path: qmp.path, exports: exports.map(({ id }) => id) }, { cause });
    }
    await qmp.execute("nbd-server-stop");
    await start();
  }
}

/** QEMU has no class for it: nbd_server_start, blockdev-nbd.c. */
function isAlreadyRunning(error: unknown): boolean {
  return error instanceof GodwitError && /already running/.test(String(error.details.desc));
}

/** Is this an export of a godwit that is gone? */
function isLeftOver(id: string): boolean {
  const pid = OUR_ID.exec(id)?.[1];
  if (pid === undefined) return false;
  try {
    process.kill(Number(pid), 0);
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "ESRCH";
  }
}

/** For undoing: if QEMU is gone, so is the export. */
async function quietly(command: Promise<unknown>): Promise<void> {
  await command.catch(() => {});
}
