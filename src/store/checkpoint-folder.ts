/** What stands in the folder of a VM. */

import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { GodwitError, messageOf } from "../errors.ts";
import { codeOf, gone, isLost, readError } from "./checkpoint-errors.ts";
import { type CheckpointOrigin, MANIFEST_SUFFIX, Manifest, manifestPath } from "./checkpoint-manifest.ts";
import { PACK_SUFFIX, packPath } from "./checkpoint-pack.ts";
import { Usage } from "./checkpoint-usage.ts";
import { readVm, type VmRecord } from "./checkpoint-vm.ts";

/** "unreadable" where the system says so: what stands in it is not known. */
export type CheckpointState = "whole" | "damaged" | "newer" | "unreadable";

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
  const opened = await openKnown(folder, id);
  await opened?.manifest?.close();
  return opened?.info;
}

/** All checkpoints of a VM with the room they take. */
export async function listingOf(folder: VmFolder): Promise<ListedCheckpoint[]> {
  const known: Known[] = [];
  try {
    for (const id of await namesIn(folder.path, MANIFEST_SUFFIX)) {
      const opened = await openKnown(folder, id);
      if (opened) known.push(opened);
    }
    const manifests = known.flatMap(({ manifest }) => manifest ?? []);
    const usage = await Usage.of(manifests);
    const sizes = await packSizes(folder.path);
    return known.map(({ info, manifest }) => {
      const index = manifest === undefined ? -1 : manifests.indexOf(manifest);
      const room = manifest === undefined ? NO_ROOM : roomOf(manifest, index, usage, sizes);
      return { ...info, ...room };
    });
  } finally {
    for (const { manifest } of known) await manifest?.close();
  }
}

interface Known {
  readonly info: CheckpointInfo;
  /** Open; undefined if the checkpoint is not whole. */
  readonly manifest: Manifest | undefined;
}

/** Opens a checkpoint and says what is known of it; undefined if it has just been deleted. */
async function openKnown(folder: VmFolder, id: string): Promise<Known | undefined> {
  try {
    const manifest = await openManifest(folder, id);
    const { packs, ...record } = manifest.record;
    return { info: { id, ...record, usedMs: manifest.usedMs, state: "whole", problem: null }, manifest };
  } catch (error) {
    const status = await stat(manifestPath(folder.path, id)).catch(() => undefined);
    if (status === undefined) return undefined;
    const nothing = { identity: folder.vm?.identity ?? null, vmName: null, memoryBytes: 0, pages: 0, origin: null };
    const modifiedMs = Math.round(status.mtimeMs);
    const times = { createdMs: modifiedMs, usedMs: modifiedMs };
    return {
      info: { id, ...nothing, ...times, state: stateAfter(error), problem: messageOf(error) },
      manifest: undefined,
    };
  }
}

function stateAfter(error: unknown): CheckpointState {
  if (codeOf(error) === "STORE_CHECKPOINT_NEWER") return "newer";
  return isLost(error) ? "damaged" : "unreadable";
}

const NO_ROOM = { storedBytes: 0, sharedBytes: 0 };

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
