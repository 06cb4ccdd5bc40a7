/** The checkpoints that a host keeps of its VMs (docs/store-format.md). */

import { randomBytes } from "node:crypto";
import { rm, statfs, utimes } from "node:fs/promises";
import { join } from "node:path";
import { GodwitError } from "../errors.ts";
import { type CheckpointCheck, CheckpointChecker } from "./checkpoint-check.ts";
import { Contents } from "./checkpoint-contents.ts";
import { checkpointError, isLost, tooBig, writeError } from "./checkpoint-errors.ts";
import {
  type CheckpointInfo,
  infoOf,
  infosOf,
  type ListedCheckpoint,
  listingOf,
  namesIn,
  openManifest,
  openVmFolder,
  type VmFolder,
} from "./checkpoint-folder.ts";
import { type KernelSource, PAGE_BYTES } from "./checkpoint-kernels.ts";
import { type CheckpointOrigin, MANIFEST_SUFFIX, manifestPath } from "./checkpoint-manifest.ts";
import { CheckpointReader } from "./checkpoint-reader.ts";
import { sweep } from "./checkpoint-sweep.ts";
import { lockVm, makeRoom, remove, storedBytes, unlessBusy, vmFolders, withLock } from "./checkpoint-upkeep.ts";
import { createVm, folderNameOf, type VmRecord } from "./checkpoint-vm.ts";
import { CheckpointWriter } from "./checkpoint-writer.ts";
import type { Lock } from "./folder-lock.ts";
import { openStateFolder } from "./state-dir.ts";

const ID_BYTES = 6;
/** The part of its file system that the store may take. */
const DEFAULT_SHARE = 0.1;

export interface CheckpointStoreOptions {
  readonly kernels: KernelSource;
  /** What all files of the store may take; default: a tenth of the file system. */
  readonly maxBytes?: number | undefined;
}

/** The VM that a checkpoint is to be taken of. */
export interface NewCheckpoint {
  readonly identity: string;
  readonly vmName: string | null;
  readonly memoryBytes: number;
  readonly origin: CheckpointOrigin;
}

/** What was given back. */
export interface Freed {
  readonly freedBytes: number;
  /** VMs that were passed over, since a process is writing their checkpoints. */
  readonly busyVms: number;
}

/**
 * Opens the checkpoint store of a host, which is made if there is none.
 *
 * @throws STORE_STATE_DIR
 */
export async function openCheckpointStore(stateDir: string, options: CheckpointStoreOptions): Promise<CheckpointStore> {
  const path = await openStateFolder(stateDir, "checkpoints");
  const maxBytes = options.maxBytes ?? (await defaultMaxBytes(path));
  return new CheckpointStore(path, options.kernels, maxBytes);
}

async function defaultMaxBytes(path: string): Promise<number> {
  const { blocks, bsize } = await statfs(path);
  return Math.floor(blocks * bsize * DEFAULT_SHARE);
}

/** Reading never waits for anybody; one process at a time changes the checkpoints of a VM. */
export class CheckpointStore {
  readonly path: string;
  readonly maxBytes: number;
  readonly #kernels: KernelSource;

  constructor(path: string, kernels: KernelSource, maxBytes: number) {
    this.path = path;
    this.maxBytes = maxBytes;
    this.#kernels = kernels;
  }

  /**
   * Begins a checkpoint.
   *
   * @throws STORE_BUSY, STORE_NOT_WRITABLE, STORE_FULL
   */
  async create({ identity, ...about }: NewCheckpoint): Promise<CheckpointWriter> {
    const name = folderNameOf(identity);
    const path = join(this.path, name);
    let lock: Lock | undefined;
    try {
      lock = await lockVm(this.path, name);
      const vm = await this.#prepare(name, identity);
      const contents = await Contents.open(this.#kernels, path, vm, Math.ceil(about.memoryBytes / PAGE_BYTES));
      const id = await this.#newId();
      const held = lock;
      return await CheckpointWriter.create({
        id,
        folder: path,
        vm,
        contents,
        record: { identity, ...about, createdMs: Date.now() },
        maxBytes: this.maxBytes,
        published: () => this.#published(name, id),
        release: () => held[Symbol.asyncDispose](),
      });
    } catch (error) {
      await lock?.[Symbol.asyncDispose]();
      throw writeError(path, error);
    }
  }

  /** All checkpoints, those of each VM together, the newest first. */
  async list(): Promise<ListedCheckpoint[]> {
    const listings: ListedCheckpoint[][] = [];
    for (const folder of await vmFolders(this.path)) listings.push((await listingOf(folder)).sort(newestFirst));
    return listings.flat();
  }

  /** The newest whole checkpoint of a VM. */
  async latest(identity: string): Promise<CheckpointInfo | undefined> {
    const infos = await infosOf(await openVmFolder(this.path, folderNameOf(identity)));
    return infos.filter(({ state }) => state === "whole").sort(newestFirst)[0];
  }

  /**
   * The checkpoint whose id begins so.
   *
   * @throws STORE_CHECKPOINT_NONE, STORE_CHECKPOINT_AMBIGUOUS
   */
  async find(prefix: string): Promise<CheckpointInfo> {
    const { folder, id } = await this.#locate(prefix);
    const info = await infoOf(folder, id);
    if (info === undefined) throw noCheckpoint(prefix);
    return info;
  }

  /**
   * Opens a checkpoint for reading.
   *
   * @throws STORE_CHECKPOINT_NONE, STORE_CHECKPOINT_DAMAGED, STORE_CHECKPOINT_FOREIGN, STORE_CHECKPOINT_NEWER,
   *   STORE_CHECKPOINT_GONE, STORE_CHECKPOINT_READ
   */
  async open(prefix: string): Promise<CheckpointReader> {
    const { folder, id } = await this.#locate(prefix);
    const manifest = await openManifest(folder, id);
    return CheckpointReader.open(this.#kernels, folder.path, id, folder.vm!, manifest);
  }

  /** Says that a checkpoint was used, so that it is not the next to go. */
  async touch(prefix: string): Promise<void> {
    const { folder, id } = await this.#locate(prefix);
    const now = new Date();
    const path = manifestPath(folder.path, id);
    await utimes(path, now, now).catch((error) => {
      throw writeError(path, error);
    });
  }

  /**
   * Reads all of a checkpoint and says what of it is damaged. Later checkpoints will not count on that.
   *
   * @param onProgress is told how many pages were checked, of how many
   */
  async check(prefix: string, onProgress: (pages: number, of: number) => void = () => {}): Promise<CheckpointCheck> {
    const { folder, id } = await this.#locate(prefix);
    const { pages, problem } = await this.find(id);
    if (problem !== null) return { id, pages, damagedPages: pages, problems: [problem] };
    await using reader = await this.open(id);
    const checker = new CheckpointChecker(this.#kernels, reader);
    const found = await checker.check((checked) => onProgress(checked, pages));
    const { damagedPacks } = checker;
    if (damagedPacks.size > 0) {
      await unlessBusy(this.path, folder.name, (locked) => sweep(locked, this.#kernels, damagedPacks));
    }
    return found;
  }

  /**
   * Deletes a checkpoint, whatever its state.
   *
   * @throws STORE_CHECKPOINT_NONE, STORE_CHECKPOINT_AMBIGUOUS, STORE_BUSY, STORE_NOT_WRITABLE
   */
  async delete(prefix: string): Promise<Freed> {
    const { folder, id } = await this.#locate(prefix);
    const before = await this.storedBytes();
    await withLock(this.path, folder.name, (locked) => remove(locked, id, this.#kernels));
    return { freedBytes: before - (await this.storedBytes()), busyVms: 0 };
  }

  /**
   * Removes what no checkpoint needs, and the checkpoints used longest ago for as long as the store is above its size.
   *
   * @throws STORE_NOT_WRITABLE, STORE_CHECKPOINT_READ
   */
  async gc(): Promise<Freed> {
    const before = await this.storedBytes();
    let busyVms = 0;
    for (const { name } of await vmFolders(this.path)) {
      if (!(await unlessBusy(this.path, name, (folder) => sweep(folder, this.#kernels)))) busyVms++;
    }
    await makeRoom(this.path, this.maxBytes, this.#kernels);
    return { freedBytes: before - (await this.storedBytes()), busyVms };
  }

  /** What all files of the store take. */
  storedBytes(): Promise<number> {
    return storedBytes(this.path);
  }

  /** Sweeps the folder of a VM whose lock is held. One that nothing can be known of any more is emptied. */
  async #prepare(name: string, identity: string): Promise<VmRecord> {
    const folder = await openVmFolder(this.path, name);
    if (folder.error) {
      if (!isLost(folder.error)) throw folder.error;
      for (const id of await namesIn(folder.path, MANIFEST_SUFFIX)) await rm(manifestPath(folder.path, id));
    }
    await sweep(folder, this.#kernels);
    return folder.vm ?? (await createVm(folder.path, identity));
  }

  async #newId(): Promise<string> {
    for (;;) {
      const id = randomBytes(ID_BYTES).toString("hex");
      if ((await this.#matches(id)).length === 0) return id;
    }
  }

  /** Makes room for a checkpoint that has appeared; the lock of its VM is held. */
  async #published(name: string, id: string): Promise<ListedCheckpoint> {
    const folder = await openVmFolder(this.path, name);
    const own = async () => (await listingOf(folder)).find((checkpoint) => checkpoint.id === id)!;
    await sweep(folder, this.#kernels);
    const { storedBytes, sharedBytes } = await own();
    if (storedBytes + sharedBytes > this.maxBytes) {
      await remove(folder, id, this.#kernels);
      throw tooBig(this.path, this.maxBytes);
    }
    await makeRoom(this.path, this.maxBytes, this.#kernels, { folder, id });
    return own();
  }

  async #matches(prefix: string): Promise<{ folder: VmFolder; id: string }[]> {
    const matches: { folder: VmFolder; id: string }[] = [];
    for (const folder of await vmFolders(this.path)) {
      for (const id of await namesIn(folder.path, MANIFEST_SUFFIX)) {
        if (id.startsWith(prefix)) matches.push({ folder, id });
      }
    }
    return matches;
  }

  async #locate(prefix: string): Promise<{ folder: VmFolder; id: string }> {
    // No prefix is none: what was meant to stand there may be empty by mistake.
    const [match, ...others] = prefix === "" ? [] : await this.#matches(prefix);
    if (match === undefined) throw noCheckpoint(prefix);
    if (others.length === 0) return match;
    const text = `${others.length + 1} checkpoints begin with ${prefix}`;
    throw checkpointError("STORE_CHECKPOINT_AMBIGUOUS", text, this.path);
  }
}

function newestFirst(a: CheckpointInfo, b: CheckpointInfo): number {
  return b.createdMs - a.createdMs;
}

function noCheckpoint(id: string): GodwitError {
  return new GodwitError("STORE_CHECKPOINT_NONE", `there is no checkpoint ${id}`, { id });
}
