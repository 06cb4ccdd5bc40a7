/** What stands in the folder of a VM. */

import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { GodwitError, messageOf } from "../errors.ts";
import { codeOf, gone, readError } from "./checkpoint-errors.ts";
import {
  type CheckpointOrigin,
  MANIFEST_SUFFIX,
  Manifest,
  type ManifestRecord,
  manifestPath,
} from "./checkpoint-manifest.ts";
import { PACK_SUFFIX, packPath } from "./checkpoint-pack.ts";
import { Usage } from "./checkpoint-usage.ts";
import { readVm, type VmRecord } from "./checkpoint-vm.ts";

export type CheckpointState = "whole" | "damaged" | "newer";

/** What is known of a checkpoint without reading its pages. */
export interface CheckpointInfo {
  /** 12 hex digits. */
  readonly id: string;
  /** Of its VM; null if that cannot be read. */
  readonly identity: string | null;
  readonly vmName: string | null;
  readonly createdMs: number;
  readonly usedMs: number;
  readonly memoryBytes: number;
  /** Those that are not all zero. */
  readonly pages: number;
  readonly origin: CheckpointOrigin | null;
  /** What can't be seen without reading the pages is not in it. */
  readonly state: CheckpointState;
  /** Why it is not whole, in one clause. */
  readonly problem: string | null;
}

/** A checkpoint and the room it takes. */
export interface ListedCheckpoint extends CheckpointInfo {
  /** What it would give back if it were deleted. */
  readonly storedBytes: number;
  /** What it has in common with other checkpoints of the VM. */
  readonly sharedBytes: number;
}

/** The folder of a VM in the store. */
export interface VmFolder {
  readonly name: string;
  readonly path: string;
  readonly vm: VmRecord | undefined;
  /** Why `vm` is not known. */
  readonly error: GodwitError | undefined;
}

/** Reads who the VM of a folder is; what fails at that is in the result. */
export async function openVmFolder(storePath: string, name: string): Promise<VmFolder> {
  const path = join(storePath, name);
  try {
    return { name, path, vm: await readVm(path, name), error: undefined };
  } catch (error) {
    if (!(error instanceof GodwitError)) throw error;
    return { name, path, vm: undefined, error };
  }
}

/** The names in a folder that end so, without that; none if there is no such folder. */
export async function namesIn(path: string, suffix: string): Promise<string[]> {
  try {
    const names = await readdir(path);
    return names.filter((name) => name.endsWith(suffix)).map((name) => name.slice(0, name.length - suffix.length));
  } catch (error) {
    if (codeOf(error) === "ENOENT" || codeOf(error) === "ENOTDIR") return [];
    throw readError(path, error);
  }
}

/** Opens the manifest of a checkpoint, whose packs must all be there. */
export async function openManifest({ path, vm, error }: VmFolder, id: string): Promise<Manifest> {
  if (vm === undefined) throw error!;
  const manifest = await Manifest.open(path, id, vm);
  try {
    for (const pack of manifest.record.packs) {
      await stat(packPath(path, pack)).catch(() => {
        throw gone(packPath(path, pack));
      });
    }
    return manifest;
  } catch (error) {
    await manifest.close();
    throw error;
  }
}

/** All checkpoints of a VM. */
export async function infosOf(folder: VmFolder): Promise<CheckpointInfo[]> {
  const infos: CheckpointInfo[] = [];
  for (const id of await namesIn(folder.path, MANIFEST_SUFFIX)) {
    const info = await infoOf(folder, id);
    if (info) infos.push(info);
  }
  return infos;
}

/** What is known of a checkpoint; undefined if it has just been deleted. */
export async function infoOf(folder: VmFolder, id: string): Promise<CheckpointInfo | undefined> {
  try {
    const manifest = await openManifest(folder, id);
    await manifest.close();
    return describe(id, manifest.record, manifest.usedMs);
  } catch (error) {
    const status = await stat(manifestPath(folder.path, id)).catch(() => undefined);
    if (status === undefined) return undefined;
    const nothing = { identity: folder.vm?.identity ?? null, vmName: null, memoryBytes: 0, pages: 0, origin: null };
    const state = codeOf(error) === "STORE_CHECKPOINT_NEWER" ? "newer" : "damaged";
    return { id, ...nothing, createdMs: status.mtimeMs, usedMs: status.mtimeMs, state, problem: messageOf(error) };
  }
}

function describe(id: string, record: ManifestRecord, usedMs: number): CheckpointInfo {
  const { packs, ...rest } = record;
  return { id, ...rest, usedMs, state: "whole", problem: null };
}

/** All checkpoints of a VM with the room they take. */
export async function listingOf(folder: VmFolder): Promise<ListedCheckpoint[]> {
  const infos = await infosOf(folder);
  const manifests: Manifest[] = [];
  try {
    const whole = infos.filter(({ state }) => state === "whole");
    for (const { id } of whole) manifests.push(await openManifest(folder, id));
    const usage = await Usage.of(manifests);
    const sizes = await packSizes(folder.path);
    return infos.map((info) => {
      const index = whole.indexOf(info);
      const room = index < 0 ? { storedBytes: 0, sharedBytes: 0 } : roomOf(manifests[index]!, index, usage, sizes);
      return { ...info, ...room };
    });
  } finally {
    for (const manifest of manifests) await manifest.close();
  }
}

/** A pack's bytes are divided among what is alive in it. */
function roomOf(manifest: Manifest, index: number, usage: Usage, sizes: ReadonlyMap<string, number>) {
  let storedBytes = manifest.sizeBytes;
  let sharedBytes = 0;
  for (const pack of manifest.record.packs) {
    const { own, shared } = usage.namedBy(index, pack);
    const bytesEach = (sizes.get(pack) ?? 0) / Math.max(1, usage.aliveIn(pack));
    storedBytes += own * bytesEach;
    sharedBytes += shared * bytesEach;
  }
  return { storedBytes: Math.round(storedBytes), sharedBytes: Math.round(sharedBytes) };
}

async function packSizes(path: string): Promise<Map<string, number>> {
  const sizes = new Map<string, number>();
  for (const id of await namesIn(path, PACK_SUFFIX)) {
    const status = await stat(packPath(path, id)).catch(() => undefined);
    if (status) sizes.set(id, status.size);
  }
  return sizes;
}
