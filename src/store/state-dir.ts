import { mkdir, stat } from "node:fs/promises";
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
 * The mode of a folder that is there already is left as it is: it may be another program's, named by mistake.
 *
 * @throws GodwitError STORE_STATE_DIR when it can't be made, or others could reach what is in it
 */
export async function openStateFolder(stateDir: string, name: string): Promise<string> {
  const path = join(stateDir, name);
  try {
    await openPrivately(stateDir, 0o022, "others can write to it");
    await openPrivately(path, 0o077, "others can enter it; chmod 700 it if it is godwit's");
  } catch (cause) {
    const why = (cause as Error).message;
    throw new GodwitError("STORE_STATE_DIR", `the state folder ${path} can't be used: ${why}`, { path }, { cause });
  }
  return path;
}

async function openPrivately(folder: string, forbiddenMode: number, complaint: string): Promise<void> {
  await makeFolder(folder);
  const { uid, mode } = await stat(folder);
  if (uid !== process.getuid?.()) throw new Error(`${folder} belongs to another user`);
  if ((mode & forbiddenMode) !== 0) throw new Error(`${folder}: ${complaint}`);
}

/**
 * Makes a folder, and those that it stands in; one that is there already is left as it is.
 *
 * Not mkdir's own `recursive`: where a file system makes no folders, such as /proc, that tries for ever (Node 24).
 *
 * @param mode of what is made; nobody but its owner enters it, if not told
 * @throws what `mkdir` throws
 */
export async function makeFolder(folder: string, mode = 0o700): Promise<void> {
  try {
    await mkdir(folder, { mode });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "EEXIST") return;
    if (code !== "ENOENT" || folder === dirname(folder)) throw error;
    await makeFolder(dirname(folder), mode);
    await mkdir(folder, { mode });
  }
}
