import { chmod, mkdir, stat } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { GodwitError } from "../errors.ts";

/** The folder of what a host keeps (indexes, checkpoints): the one asked for, else the environment's, else the system's. */
export function stateDirOf(asked?: string, environment: NodeJS.ProcessEnv = process.env): string {
  const given = asked ?? environment.GODWIT_STATE_DIR;
  if (given) return resolve(given);
  if (process.getuid?.() === 0) return "/var/lib/godwit";
  return join(environment.XDG_STATE_HOME || join(homedir(), ".local/state"), "godwit");
}

/**
 * A folder within the state folder, both made if need be, and readable by their owner only: they hold guest memory.
 *
 * @throws GodwitError STORE_STATE_DIR when it can't be made, or belongs to someone else
 */
export async function openStateFolder(stateDir: string, name: string): Promise<string> {
  const path = join(stateDir, name);
  try {
    for (const folder of [stateDir, path]) await openPrivately(folder);
  } catch (cause) {
    const why = (cause as Error).message;
    throw new GodwitError("STORE_STATE_DIR", `the state folder ${path} can't be used: ${why}`, { path }, { cause });
  }
  return path;
}

async function openPrivately(folder: string): Promise<void> {
  await makeFolder(folder);
  const { uid, mode } = await stat(folder);
  if (uid !== process.getuid?.()) throw new Error("it belongs to another user");
  if ((mode & 0o077) !== 0) await chmod(folder, 0o700);
}

/** Not mkdir's own `recursive`: where a file system makes no folders, such as /proc, that tries for ever (Node 24). */
async function makeFolder(folder: string): Promise<void> {
  try {
    await mkdir(folder, { mode: 0o700 });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "EEXIST") return;
    if (code !== "ENOENT" || folder === dirname(folder)) throw error;
    await makeFolder(dirname(folder));
    await mkdir(folder, { mode: 0o700 });
  }
}
