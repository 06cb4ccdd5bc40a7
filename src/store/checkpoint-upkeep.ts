/** What changes the checkpoint store as a whole: deleting, giving space back, making room (docs/store-format.md). */

import { mkdir, rm, rmdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { GodwitError } from "../errors.ts";
import { codeOf, writeError } from "./checkpoint-errors.ts";
import { type CheckpointInfo, infosOf, namesIn, openVmFolder, type VmFolder } from "./checkpoint-folder.ts";
import type { KernelSource } from "./checkpoint-kernels.ts";
import { MANIFEST_SUFFIX, manifestPath } from "./checkpoint-manifest.ts";
import { sweep } from "./checkpoint-sweep.ts";
import { removeVm } from "./checkpoint-vm.ts";
import { syncFolder } from "./durable.ts";
import { type Lock, lockFolder } from "./folder-lock.ts";

const FOLDER_NAME = /^[0-9a-f]{32}$/;
const MAX_ATTEMPTS = 5;

/** The folders of all VMs in a store. */
export async function vmFolders(storePath: string): Promise<VmFolder[]> {
  const names = (await namesIn(storePath, "")).filter((name) => FOLDER_NAME.test(name));
  return Promise.all(names.map((name) => openVmFolder(storePath, name)));
}

/** What all files of a store take. */
export async function storedBytes(storePath: string): Promise<number> {
  let bytes = 0;
  for (const folder of await namesIn(storePath, "")) {
    for (const name of await namesIn(join(storePath, folder), "")) {
      bytes += (await stat(join(storePath, folder, name)).catch(() => undefined))?.size ?? 0;
    }
  }
  return bytes;
}

/** Makes a VM's folder if there is none, and takes its lock. Whoever deletes its last checkpoint may remove it in between. */
export async function lockVm(storePath: string, name: string): Promise<Lock> {
  const path = join(storePath, name);
  for (let attempt = 1; ; attempt++) {
    await mkdir(path, { mode: 0o700 }).catch((error) => {
      if (codeOf(error) !== "EEXIST") throw error;
    });
    await syncFolder(storePath);
    try {
      return await lockFolder(path);
    } catch (error) {
      if (codeOf(error) !== "ENOENT" || attempt === MAX_ATTEMPTS) throw error;
    }
  }
}

/**
 * Does something with the folder of a VM under its lock; the folder goes with its last checkpoint.
 *
 * @throws STORE_BUSY, STORE_FULL, STORE_NOT_WRITABLE
 */
export async function withLock(
  storePath: string,
  name: string,
  work: (folder: VmFolder) => Promise<void>,
): Promise<void> {
  const path = join(storePath, name);
  try {
    const lock = await lockFolder(path).catch((error) => {
      if (codeOf(error) !== "ENOENT") throw error;
      return undefined; // the folder has just gone with its last checkpoint
    });
    if (lock === undefined) return;
    try {
      // What was known of the folder before may have changed.
      await work(await openVmFolder(storePath, name));
      if ((await namesIn(path, MANIFEST_SUFFIX)).length === 0) await removeVm(path);
    } finally {
      await lock[Symbol.asyncDispose]();
    }
    await rmdir(path);
  } catch (error) {
    if (codeOf(error) !== "ENOTEMPTY" && codeOf(error) !== "ENOENT") throw writeError(path, error);
  }
}

/** As `withLock`; returns false if another process has the lock. */
export async function unlessBusy(...args: Parameters<typeof withLock>): Promise<boolean> {
  try {
    await withLock(...args);
    return true;
  } catch (error) {
    if (codeOf(error) === "STORE_BUSY") return false;
    throw error;
  }
}

/** As `withLock`; what cannot be done with this VM must not hold up what is done for another. */
async function ifPossible(...args: Parameters<typeof withLock>): Promise<void> {
  await withLock(...args).catch((error) => {
    if (!(error instanceof GodwitError)) throw error;
  });
}

/** Deletes a checkpoint of a VM whose lock is held, and what only it needed. */
export async function remove(folder: VmFolder, id: string, kernels: KernelSource): Promise<void> {
  await rm(manifestPath(folder.path, id), { force: true });
  await syncFolder(folder.path);
  await sweep(folder, kernels);
}

/**
 * Deletes what is damaged, then what was used longest ago, until the store takes no more than `maxBytes`.
 *
 * @param kept stays; the lock of its VM is held
 */
export async function makeRoom(
  storePath: string,
  maxBytes: number,
  kernels: KernelSource,
  kept?: { readonly folder: VmFolder; readonly id: string },
): Promise<void> {
  if ((await storedBytes(storePath)) <= maxBytes) return;
  for (const { name } of await vmFolders(storePath)) {
    if (name !== kept?.folder.name) await ifPossible(storePath, name, (folder) => sweep(folder, kernels));
  }
  const candidates: { name: string; info: CheckpointInfo }[] = [];
  for (const folder of await vmFolders(storePath)) {
    const infos = (await infosOf(folder)).filter(
      ({ state, id }) => (state === "whole" || state === "damaged") && id !== kept?.id,
    );
    candidates.push(...infos.map((info) => ({ name: folder.name, info })));
  }
  const turn = (info: CheckpointInfo): number => (info.state === "damaged" ? 0 : info.usedMs);
  candidates.sort((a, b) => turn(a.info) - turn(b.info));
  for (const { name, info } of candidates) {
    if ((await storedBytes(storePath)) <= maxBytes) return;
    if (name === kept?.folder.name) await remove(kept.folder, info.id, kernels);
    else await ifPossible(storePath, name, (folder) => remove(folder, info.id, kernels));
  }
}
