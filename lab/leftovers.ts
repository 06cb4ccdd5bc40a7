import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isAlive, processStamp } from "./processes.ts";

/** The length of a unix socket's path is limited (unix(7), sun_path), so folders that hold sockets have short names. */
const PREFIX = "godwit-lab-";
const RUN_PREFIX = "godwit-test-";
const NETNS_FOLDER = "/run/netns";
/** Where files cost least and syncing costs nothing, if there is such a place. */
const MEMORY_FOLDER = "/dev/shm";

const folders = new Set<string>();
const namespaces = new Set<string>();
let prepared = false;

/** A new folder for sockets and disks; it is gone when disposed, at the latest when this process ends. */
export function temporaryFolder(): { readonly path: string } & Disposable {
  prepare();
  const path = mkdtempSync(join(tmpdir(), `${PREFIX}${processStamp()}-`));
  folders.add(path);
  return { path, [Symbol.dispose]: () => remove(path) };
}

function remove(path: string): void {
  rmSync(path, { recursive: true, force: true, maxRetries: 5 }); // programs that are about to end may still write there
  folders.delete(path);
}

/**
 * Makes a folder for all that the programs of a run of tests put into temporary folders, and one in memory, and sets TMPDIR and
 * GODWIT_TEST_MEMORY to them. They are gone when disposed, at the latest when this process ends, and so are the network namespaces of
 * its workers; if this process is killed, the next run removes them.
 */
export function temporaryFoldersOfRun(): Disposable {
  prepare();
  const roots = [tmpdir(), existsSync(MEMORY_FOLDER) ? MEMORY_FOLDER : tmpdir()];
  const paths = roots.map((root, i) => join(root, `${RUN_PREFIX}${processStamp()}${i === 0 ? "" : "-memory"}`));
  for (const path of paths) {
    mkdirSync(path, { mode: 0o700 });
    folders.add(path);
  }
  [process.env.TMPDIR, process.env.GODWIT_TEST_MEMORY] = paths;
  process.env.GODWIT_TEST_RUN = processStamp();
  return { [Symbol.dispose]: () => paths.forEach(remove) };
}

/** A name for a network namespace of this process; it is removed by {@link removeNamespace}, at the latest at our end. */
export function namespaceName(label: string): string {
  prepare();
  const name = `${PREFIX}${process.env.GODWIT_TEST_RUN ?? processStamp()}-${process.pid}-${namespaces.size}-${label}`;
  namespaces.add(name);
  return name;
}

/** Removes a network namespace, if it is there. */
export function removeNamespace(name: string): void {
  spawnSync("ip", ["netns", "del", name], { stdio: "ignore" });
}

/** Removes what labs of dead processes left, and sees to it that nothing of ours stays. */
function prepare(): void {
  if (prepared) return;
  prepared = true;
  removeOrphans();
  process.on("exit", () => {
    for (const path of folders) remove(path);
    const ofWorkers = `${PREFIX}${processStamp()}-`;
    for (const name of listed(NETNS_FOLDER))
      if (namespaces.has(name) || name.startsWith(ofWorkers)) removeNamespace(name);
  });
}

function removeOrphans(): void {
  for (const root of new Set([tmpdir(), MEMORY_FOLDER])) {
    for (const name of listed(root).filter(isOrphan)) rmSync(join(root, name), { recursive: true, force: true });
  }
  for (const name of listed(NETNS_FOLDER).filter(isOrphan)) removeNamespace(name);
}

function listed(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

/** Is this the name of something that a lab of a process now dead has made? */
export function isOrphan(name: string): boolean {
  const stamp = new RegExp(`^(?:${PREFIX}|${RUN_PREFIX})(\\d+-\\d+)(?:-|$)`).exec(name)?.[1];
  return stamp !== undefined && !isAlive(stamp);
}
