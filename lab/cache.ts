import { createHash, randomUUID } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { link, mkdir, readdir, rename, rm, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { isAlive, processStamp } from "./processes.ts";

/** The folder of all that the lab builds; it may be deleted at any time when no lab runs. */
export function cacheFolder(env: NodeJS.ProcessEnv = process.env): string {
  if (env.GODWIT_LAB_CACHE) return resolve(env.GODWIT_LAB_CACHE);
  return join(env.XDG_CACHE_HOME || join(homedir(), ".cache"), "godwit-lab");
}

/** The name of an artifact in the cache: another recipe is another artifact. */
export function artifactName(name: string, recipe: unknown): string {
  return `${name}-${createHash("sha256").update(JSON.stringify(recipe)).digest("hex").slice(0, 12)}`;
}

/**
 * The path of an artifact, built first when the cache does not hold it.
 *
 * It is built into a folder beside its place and renamed when complete, so what the cache holds is whole; of several
 * processes that want the same artifact one builds and the others wait. What builders that were killed have left goes then.
 *
 * @param recipe all that the result depends on, as JSON
 * @param build fills the (existing, empty) folder it is given
 */
export async function cached(name: string, recipe: unknown, build: (folder: string) => Promise<void>): Promise<string> {
  const root = cacheFolder();
  const path = join(root, artifactName(name, recipe));
  if (existsSync(path)) return path;
  await mkdir(root, { recursive: true });
  await using _lock = await lock(`${path}.lock`);
  if (existsSync(path)) return path;
  await removeLeftovers(root);
  const draft = draftPath(path);
  try {
    await mkdir(draft);
    await build(draft);
    await rename(draft, path).catch((error) => {
      if (!existsSync(path)) throw error; // another process was first after all
    });
  } finally {
    await rm(draft, { recursive: true, force: true });
  }
  return path;
}

/** Is the artifact there? (What {@link cached} would not have to build.) */
export function isCached(name: string, recipe: unknown): boolean {
  return existsSync(join(cacheFolder(), artifactName(name, recipe)));
}

/** A new path beside another that says whose it is: {@link removeLeftovers} knows it. */
function draftPath(path: string): string {
  return `${path}.${processStamp()}.${randomUUID()}.draft`;
}

/** What is built there, and beside it, has a name that begins so. */
const DRAFT = /\.(\d+-\d+)\.[0-9a-f-]{36}\.draft/;

/** Removes the drafts of dead processes. */
async function removeLeftovers(root: string): Promise<void> {
  for (const name of await readdir(root)) {
    const owner = DRAFT.exec(name)?.[1];
    if (owner !== undefined && !isAlive(owner)) await rm(join(root, name), { recursive: true, force: true });
  }
}

/** Holds the lock file until disposed; a lock whose owner is dead is taken over. */
async function lock(path: string): Promise<AsyncDisposable> {
  const mine = processStamp();
  const draft = draftPath(path);
  await writeFile(draft, mine);
  try {
    for (;;) {
      try {
        await link(draft, path); // with its owner in it, or not at all
        break;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
      }
      const owner = readOwner(path);
      // A waiter that is late may take a living lock away here: then two build the same, which only costs time.
      if (owner !== undefined && !isAlive(owner)) await rm(path, { force: true });
      else await delay(100);
    }
  } finally {
    await rm(draft);
  }
  return {
    [Symbol.asyncDispose]: async () => {
      if (readOwner(path) === mine) await rm(path, { force: true });
    },
  };
}

function readOwner(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}
