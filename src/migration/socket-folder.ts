import { readdirSync } from "node:fs";
import { chown, mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isAlive } from "../processes.ts";

/** A folder of our own for the unix socket between a QEMU and us, gone when disposed. */
export interface SocketFolder extends AsyncDisposable {
  path: string;
}

const PREFIX = "godwit-";

/**
 * Makes the folder. Only the user that the QEMU runs as can enter it, as whoever connects first to the socket in it is
 * taken for that QEMU; that user is the owner of QEMU's QMP socket, which QEMU made.
 *
 * The path is short, since a unix socket's path has at most 107 bytes (unix(7)). Folders of processes that were killed are
 * removed.
 */
export async function makeSocketFolder(qmpPath: string): Promise<SocketFolder> {
  const { uid, gid } = await stat(qmpPath);
  const isForeign = uid !== process.getuid?.();
  // Another user's QEMU can't reach into our own runtime folder.
  const parent = isForeign ? "/run" : (process.env.XDG_RUNTIME_DIR ?? (uid === 0 ? "/run" : tmpdir()));
  await removeLeftovers(parent);
  const path = await mkdtemp(join(parent, `${PREFIX}${process.pid}-`));
  if (isForeign) await chown(path, uid, gid);
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) };
}

async function removeLeftovers(parent: string): Promise<void> {
  for (const name of readdirSync(parent)) {
    const pid = /^godwit-(\d+)-/.exec(name)?.[1];
    if (pid === undefined || isAlive(Number(pid))) continue;
    // Another user's is not ours to remove, and does no harm.
    await rm(join(parent, name), { recursive: true, force: true }).catch(() => {});
  }
}
