import { stat } from "node:fs/promises";
import { GodwitError, messageOf } from "../errors.ts";
import { type Disk, diskAt, listDisks } from "../qemu/disks.ts";
import type { QmpClient } from "../qemu/qmp.ts";

/** Where disks are to be read instead of where their QEMU says, by a disk's id or its node's name. */
export type DiskPaths = ReadonlyMap<string, string>;

/**
 * The disks of a VM, each where it is to be read.
 *
 * @throws GodwitError MIGRATION_NO_DISK when there is no such disk, STORE_DISK_OPEN when there is nothing at its path, and what
 * `listDisks` throws
 */
export async function listDisksAt(qmp: QmpClient, paths: DiskPaths): Promise<Disk[]> {
  const disks = await listDisks(qmp);
  for (const [name, path] of paths) {
    if (!disks.some((disk) => isCalled(disk, name))) {
      const there = disks.map(({ id }) => id).join(", ");
      const text = `this VM has no disk ${name}; it has ${there || "none"}`;
      throw new GodwitError("MIGRATION_NO_DISK", text, { name, disks: there });
    }
    await stat(path).catch((cause) => {
      const text = `disk ${name} can't be read at ${path}: ${messageOf(cause)}`;
      throw new GodwitError("STORE_DISK_OPEN", text, { path }, { cause });
    });
  }
  return disksAt(disks, paths);
}

/** Disks, each where it is to be read. */
export function disksAt(disks: readonly Disk[], paths: DiskPaths): Disk[] {
  return disks.map((disk) => {
    const [, path] = [...paths].find(([name]) => isCalled(disk, name)) ?? [];
    return path === undefined ? disk : diskAt(disk, path);
  });
}

function isCalled({ id, nodeName }: Disk, name: string): boolean {
  return id === name || nodeName === name;
}
