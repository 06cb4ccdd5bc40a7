/** The checkpoints that a host keeps of its VMs (docs/store-format.md). */

import { randomBytes } from "node:crypto";
import { mkdir, rm, rmdir, stat, statfs, utimes } from "node:fs/promises";
import { join } from "node:path";
import { type CheckpointCheck, CheckpointChecker } from "./checkpoint-check.ts";
import { Contents } from "./checkpoint-contents.ts";
import { checkpointError, codeOf, writeError } from "./checkpoint-errors.ts";
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
import { type Lock, lockFolder } from "./checkpoint-lock.ts";
import { type CheckpointOrigin, MANIFEST_SUFFIX, manifestPath } from "./checkpoint-manifest.ts";
import { CheckpointReader } from "./checkpoint-reader.ts";
import { syncFolder } from "./checkpoint-sealed-file.ts";
import { sweep } from "./checkpoint-sweep.ts";
import { createVm, folderNameOf, type VmRecord } from "./checkpoint-vm.ts";
import { CheckpointWriter } from "./checkpoint-writer.ts";
import { openStateFolder } from "./state-dir.ts";

const ID_BYTES = 6;
/** The part of its file system that the store may take. */
const DEFAULT_SHARE = 0.1;
const MAX_ATTEMPTS = 5;

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
      lock = await this.#lockMade(path);
      const vm = await this.#vmOf(name, identity);
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
    for (const folder of await this.#folders()) listings.push((await listingOf(folder)).sort(newestFirst));
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
    if (info === undefined) throw none(prefix);
    return info;
  }

  /**
   * Opens a checkpoint for reading.
   *
   * @throws STORE_CHECKPOINT_NONE, STORE_CHECKPOINT_DAMAGED, STORE_CHECKPOINT_FOREIGN, STORE_CHECKPOINT_NEWER,
   *   STORE_CHECKPOINT_GONE, STORE_CHECKPOINT_READ
   */
  async open(id: string): Promise<CheckpointReader> {
    const { folder } = await this.#locate(id);
    const manifest = await openManifest(folder, id);
    return new CheckpointReader(this.#kernels, folder.path, id, folder.vm!, manifest);
  }

  /** Says that a checkpoint was used, so that it is not the next to go. */
  async touch(id: string): Promise<void> {
    const { folder } = await this.#locate(id);
    const now = new Date();
    await utimes(manifestPath(folder.path, id), now, now);
  }

  /**
   * Reads all of a checkpoint and says what of it is damaged.
   *
   * @param onProgress is told how many pages were checked, of how many
   */
  async check(id: string, onProgress: (pages: number, of: number) => void = () => {}): Promise<CheckpointCheck> {
    const { folder } = await this.#locate(id);
    const info = await infoOf(folder, id);
    if (info === undefined) throw none(id);
    if (info.problem !== null) return { id, pages: info.pages, damagedPages: info.pages, problems: [info.problem] };
    await using reader = await this.open(id);
    const checker = new CheckpointChecker(this.#kernels, folder.path, folder.vm!, reader);
    return await checker.check((pages) => onProgress(pages, reader.pages));
  }

  /**
   * Deletes a checkpoint, whatever its state.
   *
   * @throws STORE_CHECKPOINT_NONE, STORE_BUSY, STORE_NOT_WRITABLE
   */
  async delete(id: string): Promise<Freed> {
    const { folder } = await this.#locate(id);
    const before = await this.storedBytes();
    try {
      await this.#withLock(folder, () => this.#deleteLocked(folder, id));
    } catch (error) {
      throw writeError(folder.path, error);
    }
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
    for (const folder of await this.#folders()) {
      const isDone = await this.#unlessBusy(folder, () => this.#sweep(folder));
      if (!isDone) busyVms++;
    }
    await this.#makeRoom();
    return { freedBytes: before - (await this.storedBytes()), busyVms };
  }

  /** What all files of the store take. */
  async storedBytes(): Promise<number> {
    let bytes = 0;
    for (const folder of await namesIn(this.path, "")) {
      for (const name of await namesIn(join(this.path, folder), "")) {
        bytes += (await stat(join(this.path, folder, name)).catch(() => undefined))?.size ?? 0;
      }
    }
    return bytes;
  }

  /** The record of a VM whose lock is held; a folder that cannot be used is emptied. */
  async #vmOf(name: string, identity: string): Promise<VmRecord> {
    const folder = await openVmFolder(this.path, name);
    if (folder.vm) {
      await sweep(folder, this.#kernels);
      return folder.vm;
    }
    if (folder.error && !isLost(folder.error.code)) throw folder.error;
    for (const id of await namesIn(folder.path, MANIFEST_SUFFIX)) await rm(manifestPath(folder.path, id));
    await sweep(folder, this.#kernels);
    return createVm(folder.path, identity);
  }

  async #newId(): Promise<string> {
    for (;;) {
      const id = randomBytes(ID_BYTES).toString("hex");
      if ((await this.#matches(id)).length === 0) return id;
    }
  }

  async #published(name: string, id: string): Promise<ListedCheckpoint> {
    const folder = await openVmFolder(this.path, name);
    await sweep(folder, this.#kernels);
    await this.#makeRoom({ folder, id });
    return (await listingOf(folder)).find((checkpoint) => checkpoint.id === id)!;
  }

  /** Deletes what is damaged, then what was used longest ago, until the store is not above its size. */
  async #makeRoom(kept?: { readonly folder: VmFolder; readonly id: string }): Promise<void> {
    if ((await this.storedBytes()) <= this.maxBytes) return;
    const candidates: { folder: VmFolder; info: CheckpointInfo }[] = [];
    for (const folder of await this.#folders()) {
      for (const info of await infosOf(folder)) {
        if (info.state !== "newer" && info.id !== kept?.id) candidates.push({ folder, info });
      }
    }
    const turn = (info: CheckpointInfo): number => (info.state === "damaged" ? 0 : info.usedMs);
    candidates.sort((a, b) => turn(a.info) - turn(b.info));
    for (const { folder, info } of candidates) {
      if ((await this.storedBytes()) <= this.maxBytes) return;
      const remove = () => this.#deleteLocked(folder, info.id);
      if (folder.name === kept?.folder.name) await remove();
      else await this.#unlessBusy(folder, remove);
    }
  }

  /** Does something under the lock of a VM; returns whether it was to be had. */
  async #unlessBusy(folder: VmFolder, work: () => Promise<void>): Promise<boolean> {
    try {
      await this.#withLock(folder, work);
      return true;
    } catch (error) {
      if (codeOf(error) === "STORE_BUSY") return false;
      if (codeOf(error) === "ENOENT") return true; // its last checkpoint has just gone
      throw writeError(folder.path, error);
    }
  }

  /** Does something under the lock of a VM, whose folder goes with its last file. */
  async #withLock(folder: VmFolder, work: () => Promise<void>): Promise<void> {
    {
      await using _lock = await lockFolder(folder.path);
      await work();
    }
    await rmdir(folder.path).catch((error) => {
      if (codeOf(error) !== "ENOTEMPTY" && codeOf(error) !== "ENOENT") throw error;
    });
  }

  /** Makes a VM's folder if there is none, and takes its lock. Whoever deletes its last checkpoint may remove it in between. */
  async #lockMade(path: string): Promise<Lock> {
    for (let attempt = 1; ; attempt++) {
      await mkdir(path, { mode: 0o700 }).catch((error) => {
        if (codeOf(error) !== "EEXIST") throw error;
      });
      await syncFolder(this.path);
      try {
        return await lockFolder(path);
      } catch (error) {
        if (codeOf(error) !== "ENOENT" || attempt === MAX_ATTEMPTS) throw error;
      }
    }
  }

  async #deleteLocked(folder: VmFolder, id: string): Promise<void> {
    await rm(manifestPath(folder.path, id), { force: true });
    await syncFolder(folder.path);
    await this.#sweep(folder);
  }

  /** Sweeps the folder of a VM; one without checkpoints is removed. */
  async #sweep(folder: VmFolder): Promise<void> {
    await sweep(folder, this.#kernels);
    if ((await namesIn(folder.path, MANIFEST_SUFFIX)).length > 0) return;
    await rm(join(folder.path, "vm"), { force: true });
  }

  async #folders(): Promise<VmFolder[]> {
    const names = await namesIn(this.path, "");
    return Promise.all(names.filter((name) => FOLDER_NAME.test(name)).map((name) => openVmFolder(this.path, name)));
  }

  async #matches(prefix: string): Promise<{ folder: VmFolder; id: string }[]> {
    const matches: { folder: VmFolder; id: string }[] = [];
    for (const folder of await this.#folders()) {
      for (const id of await namesIn(folder.path, MANIFEST_SUFFIX)) {
        if (id.startsWith(prefix)) matches.push({ folder, id });
      }
    }
    return matches;
  }

  async #locate(prefix: string): Promise<{ folder: VmFolder; id: string }> {
    const matches = await this.#matches(prefix);
    if (matches.length > 1) {
      const text = `${matches.length} checkpoints begin with ${prefix}`;
      throw checkpointError("STORE_CHECKPOINT_AMBIGUOUS", text, this.path);
    }
    if (matches.length === 0) throw none(prefix);
    return matches[0]!;
  }
}

const FOLDER_NAME = /^[0-9a-f]{32}$/;

function newestFirst(a: CheckpointInfo, b: CheckpointInfo): number {
  return b.createdMs - a.createdMs;
}

function none(id: string): Error {
  return checkpointError("STORE_CHECKPOINT_NONE", `there is no checkpoint ${id}`, id);
}

/** Whether a VM's record cannot be had any more, so that nothing in its folder can be used. */
function isLost(code: string): boolean {
  return ["STORE_CHECKPOINT_DAMAGED", "STORE_CHECKPOINT_FOREIGN", "STORE_CHECKPOINT_GONE"].includes(code);
}
