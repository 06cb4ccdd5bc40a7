/** One writer at a time in a folder; a lock whose process is gone holds up nobody (docs/store-format.md). */

import { readdir, readFile, readlink, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { checkpointError, codeOf } from "./checkpoint-errors.ts";

const PREFIX = "lock.";
/** Locks of ours that we let go of, but whose files could not be removed. */
const leftovers = new Set<string>();

export interface Lock {
  /** Lets go of it. */
  [Symbol.asyncDispose](): Promise<void>;
}

/**
 * Takes the lock of a folder, at once or not at all.
 *
 * Every taker has a file name of its own, and looks for those of others after it has made its own: of two at once, each sees the
 * other. Nobody ever removes the file of a process that lives, so no takeover of a stale lock can hit a live one.
 *
 * @param what a process that holds it does, for people
 * @throws STORE_BUSY, or what the file system says
 */
export async function lockFolder(folder: string, what = "is writing checkpoints of this VM"): Promise<Lock> {
  const name = await lockName();
  const path = join(folder, name);
  if (leftovers.has(path)) await rm(path, { force: true });
  await writeFile(path, "", { flag: "wx", mode: 0o600 }).catch((error) => {
    throw codeOf(error) === "EEXIST" ? busy(folder, process.pid, what) : error;
  });
  leftovers.delete(path);
  const lock = { [Symbol.asyncDispose]: () => letGo(path) };
  try {
    for (const other of (await readdir(folder)).filter((entry) => entry.startsWith(PREFIX) && entry !== name)) {
      if (await isHeld(other)) throw busy(folder, pidOf(other), what);
      await rm(join(folder, other), { force: true });
    }
  } catch (error) {
    await lock[Symbol.asyncDispose]();
    throw error;
  }
  return lock;
}

async function letGo(path: string): Promise<void> {
  await rm(path, { force: true }).catch((error) => {
    leftovers.add(path);
    throw error;
  });
}

/** The process that holds the lock of a folder, if one does. */
export async function holderOf(folder: string): Promise<number | null> {
  for (const name of await readdir(folder)) if (name.startsWith(PREFIX) && (await isHeld(name))) return pidOf(name);
  return null;
}

function pidOf(name: string): number {
  return Number(name.split(".")[3]);
}

function busy(folder: string, pid: number, what: string): Error {
  return checkpointError("STORE_BUSY", `process ${pid} ${what}`, folder);
}

async function lockName(): Promise<string> {
  const [boot, namespace] = await here();
  return `${PREFIX}${boot}.${namespace}.${process.pid}.${await startOf(process.pid)}`;
}

/** This boot, and this PID namespace. */
async function here(): Promise<[string, string]> {
  const boot = await readFile("/proc/sys/kernel/random/boot_id", "latin1");
  const namespace = await readlink("/proc/self/ns/pid");
  return [boot.trim(), namespace.replaceAll(/\D/g, "")];
}

/** When a process began, in ticks since boot: field 22 of /proc/PID/stat, whose second one may hold spaces (proc(5)). */
async function startOf(pid: number): Promise<string> {
  const status = await readFile(`/proc/${pid}/stat`, "latin1");
  return status.slice(status.lastIndexOf(")") + 2).split(" ")[19]!;
}

/** Whether the process that made a lock's file may live. */
async function isHeld(name: string): Promise<boolean> {
  const [, boot, namespace, pid, start] = name.split(".");
  const [ourBoot, ourNamespace] = await here();
  if (boot !== ourBoot) return false;
  if (namespace !== ourNamespace) return true; // nothing can be known of it from here
  return (await startOf(Number(pid)).catch(() => undefined)) === start;
}
