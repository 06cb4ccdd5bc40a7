import { chown, mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** A folder of our own for the unix socket between a QEMU and us, gone when disposed. */
export interface SocketFolder extends AsyncDisposable {
  path: string;
}

/**
 * Makes the folder. Only the user that the QEMU runs as can enter it, as whoever connects first to the socket in it is
 * taken for that QEMU; that user is the owner of QEMU's QMP socket, which QEMU made.
 *
 * The path is short, since a unix socket's path has at most 107 bytes (unix(7)).
 */
export async function makeSocketFolder(qmpPath: string): Promise<SocketFolder> {
  const isRoot = process.getuid?.() === 0;
  const parent = isRoot ? "/run" : (process.env.XDG_RUNTIME_DIR ?? tmpdir());
  const path = await mkdtemp(join(parent, "godwit-"));
  if (isRoot) {
    const { uid, gid } = await stat(qmpPath);
    if (uid !== 0) await chown(path, uid, gid);
  }
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) };
}
