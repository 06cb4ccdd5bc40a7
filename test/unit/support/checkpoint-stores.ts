import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { onTestFinished } from "vitest";
import { openCheckpoints } from "../../../src/migration/open-checkpoints.ts";
import type { ListedCheckpoint } from "../../../src/store/checkpoint-folder.ts";
import type { CheckpointStore, NewCheckpoint } from "../../../src/store/checkpoint-store.ts";

export const PAGE_BYTES = 4096;
export const VM: NewCheckpoint = { identity: "name:a", vmName: "a", memoryBytes: 2 ** 24, origin: "saved" };

/** A folder that the caller removes, where syncing costs nothing. */
export function temporaryFolder(): Promise<string> {
  return mkdtemp(join(process.env.GODWIT_TEST_MEMORY ?? tmpdir(), "godwit-store-"));
}

/** A state folder that is gone after the test. */
export async function stateFolder(): Promise<string> {
  const path = await temporaryFolder();
  onTestFinished(() => rm(path, { recursive: true, force: true }));
  return path;
}

export async function newStore(maxBytes?: number): Promise<CheckpointStore> {
  return openCheckpoints(await stateFolder(), maxBytes === undefined ? {} : { maxBytes });
}

/** A page of text, like no other page of another number; `salt` makes it compress less. */
export function pageOf(number: number, salt = ""): Uint8Array {
  const page = Buffer.alloc(PAGE_BYTES, `${salt} page ${number} `);
  for (let at = 0; at < 256; at += 4) page.writeUInt32LE(Math.imul(number * 64 + at + 1, 2654435761) >>> 0, at);
  return page;
}

/** Consecutive pages. */
export function pagesOf(first: number, count: number, salt?: string): Uint8Array {
  return Buffer.concat(Array.from({ length: count }, (_, index) => pageOf(first + index, salt)));
}

/** Keeps a checkpoint of pages [0, count) of a VM. */
export async function keep(
  store: CheckpointStore,
  count: number,
  salt?: string,
  about: Partial<NewCheckpoint> = {},
): Promise<ListedCheckpoint> {
  await using writer = await store.create({ ...VM, ...about });
  writer.add(0, pagesOf(0, count, salt));
  return await writer.finish();
}

/** All of a checkpoint, by positions. */
export async function contentOf(store: CheckpointStore, id: string): Promise<Buffer> {
  await using reader = await store.open(id);
  const content = Buffer.alloc(reader.sizeBytes);
  await reader.read(0, content);
  return content;
}

/** The files of a store, as paths below its folder. */
export async function filesOf(store: CheckpointStore, suffix = ""): Promise<string[]> {
  const names = await readdir(store.path, { recursive: true, withFileTypes: true });
  const files = names.filter((entry) => entry.isFile()).map(({ parentPath, name }) => join(parentPath, name));
  return files.filter((path) => path.endsWith(suffix)).sort();
}

export async function codeOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => "none",
    (error) => error.code ?? error.message,
  );
}

/** All that an iterable gives, put together. */
export async function joined(parts: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const list: Uint8Array[] = [];
  for await (const part of parts) list.push(part);
  return Buffer.concat(list);
}

/** The state folder of a store. */
export function stateDirOf(store: CheckpointStore): string {
  return dirname(store.path);
}
