import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isAlive, processStamp } from "./processes.ts";

/** The length of a unix socket's path is limited (unix(7), sun_path), so folders that hold sockets have short names. */
const PREFIX = "godwit-lab-";
const NETNS_FOLDER = "/run/netns";

const folders = new Set<string>();
const namespaces = new Set<string>();
let prepared = false;

/** A new folder for sockets and disks; it is gone when disposed, at the latest when this process ends. */
export function temporaryFolder(): { readonly path: string } & Disposable {
  prepare();
  const path = mkdtempSync(join(tmpdir(), `${PREFIX}${processStamp()}-`));
  folders.add(path);
  const remove = () => {
    rmSync(path, { recursive: true, force: true });
    folders.delete(path);
  };
  return { path, [Symbol.dispose]: remove };
}

/** A name for a network namespace of this process; it is removed by {@link removeNamespace}, at the latest at our end. */
export function namespaceName(label: string): string {
  prepare();
  const name = `${PREFIX}${processStamp()}-${namespaces.size}-${label}`;
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
  for (const name of listed(tmpdir()).filter(isOrphan)) rmSync(join(tmpdir(), name), { recursive: true, force: true });
  for (const name of listed(NETNS_FOLDER).filter(isOrphan)) removeNamespace(name);
  process.on("exit", () => {
    for (const path of folders) rmSync(path, { recursive: true, force: true });
    for (const name of namespaces) if (listed(NETNS_FOLDER).includes(name)) removeNamespace(name);
  });
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
  const stamp = new RegExp(`^${PREFIX}(\\d+-\\d+)-`).exec(name)?.[1];
  return stamp !== undefined && !isAlive(stamp);
}
