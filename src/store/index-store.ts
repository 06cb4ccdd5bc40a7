/** The folder of a host's disk indexes, docs/index-format.md. */

import { createHash, randomBytes } from "node:crypto";
import { link, open, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { GodwitError } from "../errors.ts";
import { isAlive } from "../processes.ts";
import { IndexWriter, StoredIndex } from "./index-file.ts";
import type { IndexAbout } from "./index-format.ts";
import { openStateFolder } from "./state-dir.ts";

const FOLDER = "indexes";
const SEED_FILE = "seed";
const SEED_BYTES = 8;
const INDEX_FILE = /^([0-9a-f]{32})\.index$/;
const TEMPORARY_FILE = /\.(\d+)\.tmp$/;
const ID_DIGITS = 32;

/** Which disk an index is of. */
export type IndexSubject = Pick<IndexAbout, "vm" | "disk" | "vmName" | "image">;

/** What `list` says of an index; `about` is undefined where it can't be read, and `why` says why. */
export interface IndexInfo {
  readonly id: string;
  readonly about: IndexAbout | undefined;
  readonly sizeBytes: number;
  readonly hashes: number;
  readonly storedBytes: number;
  readonly why: string | null;
}

/** The indexes of this host. */
export class IndexStore {
  /** Of the hashes of all of them. */
  readonly seed: bigint;
  readonly #folder: string;

  private constructor(folder: string, seed: bigint) {
    this.#folder = folder;
    this.seed = seed;
  }

  /**
   * Opens the folder, and makes it if need be.
   *
   * @throws GodwitError STORE_STATE_DIR when it can't be used
   */
  static async open(stateDir: string): Promise<IndexStore> {
    const folder = await openStateFolder(stateDir, FOLDER);
    try {
      await removeLeftovers(folder);
      return new IndexStore(folder, await seedOf(folder));
    } catch (cause) {
      const why = (cause as Error).message;
      throw new GodwitError("STORE_STATE_DIR", `the folder ${folder} can't be used: ${why}`, { folder }, { cause });
    }
  }

  /**
   * The index of a disk, undefined if there is none.
   *
   * @throws GodwitError STORE_INDEX_DAMAGED, STORE_INDEX_NEWER; STORE_INDEX_FOREIGN when it is of another disk or host
   */
  async find(subject: IndexSubject): Promise<StoredIndex | undefined> {
    const stored = await StoredIndex.open(this.#pathOf(idOf(subject)));
    if (stored === undefined) return undefined;
    const { about, seed } = stored.header;
    if (about.vm === subject.vm && about.disk === subject.disk && seed === this.seed) return stored;
    await stored[Symbol.asyncDispose]();
    throw new GodwitError("STORE_INDEX_FOREIGN", "it is of another disk or another host", { vm: about.vm });
  }

  /** @throws GodwitError STORE_INDEX_NOT_WRITABLE */
  create(subject: IndexSubject, sizeBytes: number): Promise<IndexWriter> {
    const path = this.#pathOf(idOf(subject));
    const temporaryPath = path.replace(/\.index$/, `.${process.pid}.tmp`);
    return IndexWriter.create(path, temporaryPath, sizeBytes, this.seed);
  }

  /** All indexes, those that can't be read too. */
  async list(): Promise<IndexInfo[]> {
    const infos: IndexInfo[] = [];
    for (const name of (await readdir(this.#folder)).sort()) {
      const id = INDEX_FILE.exec(name)?.[1];
      if (id !== undefined) infos.push(await this.#infoOf(id));
    }
    return infos;
  }

  /**
   * The indexes whose ids begin so, one for each prefix; each once.
   *
   * @throws GodwitError STORE_INDEX_NONE, STORE_INDEX_AMBIGUOUS
   */
  async locate(prefixes: readonly string[]): Promise<IndexInfo[]> {
    const infos = await this.list();
    return [...new Set(prefixes.map((prefix) => onlyOne(infos, prefix)))];
  }

  /** Deletes an index that `list` or `locate` has told of. */
  async delete({ id }: IndexInfo): Promise<void> {
    await rm(this.#pathOf(id), { force: true });
  }

  async #infoOf(id: string): Promise<IndexInfo> {
    const unknown = { id, about: undefined, sizeBytes: 0, hashes: 0, storedBytes: 0 };
    try {
      await using stored = await StoredIndex.open(this.#pathOf(id));
      if (stored === undefined) return { ...unknown, why: "it is gone" };
      const { header, hashes, storedBytes } = stored;
      return { id, about: header.about, sizeBytes: header.sizeBytes, hashes, storedBytes, why: null };
    } catch (error) {
      return { ...unknown, why: (error as Error).message };
    }
  }

  #pathOf(id: string): string {
    return join(this.#folder, `${id}.index`);
  }
}

/** No prefix is none: what was meant to stand there may be empty by mistake. */
function onlyOne(infos: readonly IndexInfo[], prefix: string): IndexInfo {
  const [found, ...others] = prefix === "" ? [] : infos.filter(({ id }) => id.startsWith(prefix));
  if (found === undefined) throw new GodwitError("STORE_INDEX_NONE", `there is no index ${prefix}`, { prefix });
  if (others.length === 0) return found;
  const message = `${others.length + 1} indexes begin with ${prefix}`;
  throw new GodwitError("STORE_INDEX_AMBIGUOUS", message, { prefix });
}

function idOf({ vm, disk }: IndexSubject): string {
  const text = JSON.stringify([vm, disk]);
  return createHash("sha256").update(text).digest("hex").slice(0, ID_DIGITS);
}

/** The seed of this host; drawn when there is none yet, or what is there is none. */
async function seedOf(folder: string): Promise<bigint> {
  const path = join(folder, SEED_FILE);
  const known = await readFile(path).catch(() => undefined);
  if (known?.length === SEED_BYTES) return known.readBigUInt64LE();
  // What is there only by its whole content can be seen by others only whole.
  const draft = join(folder, `${SEED_FILE}.${process.pid}.tmp`);
  await writeFile(draft, randomBytes(SEED_BYTES), { mode: 0o600 });
  try {
    if (known !== undefined) await rm(path, { force: true });
    await link(draft, path).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "EEXIST") throw error; // another process was first
    });
    await using file = await open(path);
    const seed = Buffer.alloc(SEED_BYTES);
    await file.read(seed, 0, SEED_BYTES, 0);
    return seed.readBigUInt64LE();
  } finally {
    await rm(draft, { force: true });
  }
}

/** What processes that are gone were writing. */
async function removeLeftovers(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    const pid = TEMPORARY_FILE.exec(name)?.[1];
    if (pid !== undefined && !isAlive(Number(pid))) await rm(join(folder, name), { force: true });
  }
}
