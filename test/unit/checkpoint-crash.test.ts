/** What a crash at any point leaves, and what a failure at any point does: docs/store-format.md, "Order of writes". */

import { cp, readdir, rename, rm, truncate } from "node:fs/promises";
import { join } from "node:path";
import { beforeEach, expect, onTestFinished, test, vi } from "vitest";
import { openCheckpoints } from "../../src/migration/open-checkpoints.ts";
import type { CheckpointStore } from "../../src/store/checkpoint-store.ts";
import {
  codeOf,
  contentOf,
  filesOf,
  keep,
  newStore,
  pagesOf,
  stateDirOf,
  temporaryFolder,
  VM,
} from "./support/checkpoint-stores.ts";

/** Called before everything that changes a file or a folder. */
const hooks = vi.hoisted(() => ({ before: async (_call: string): Promise<void> => {}, unsynced: new Set<string>() }));

vi.mock("node:fs/promises", async (importOriginal) => {
  const fs = await importOriginal<typeof import("node:fs/promises")>();
  const rename: typeof fs.rename = async (from, to) => {
    await hooks.before("rename");
    await fs.rename(from, to);
    if (hooks.unsynced.delete(String(from))) hooks.unsynced.add(String(to));
  };
  const open: typeof fs.open = async (path, flags, mode) => {
    if (flags !== "r") await hooks.before("create");
    const file = await fs.open(path, flags, mode);
    const { write, sync } = file;
    file.write = (async (...args: Parameters<typeof write>) => {
      await hooks.before("write");
      hooks.unsynced.add(String(path));
      return write.apply(file, args);
    }) as typeof file.write;
    file.sync = async () => {
      await hooks.before("sync");
      await sync.apply(file);
      hooks.unsynced.delete(String(path));
    };
    return file;
  };
  const hooked = <A extends unknown[], R>(call: string, work: (...args: A) => Promise<R>) => {
    return async (...args: A): Promise<R> => {
      await hooks.before(call);
      return work(...args);
    };
  };
  const [mkdir, remove, rmdir] = [hooked("mkdir", fs.mkdir), hooked("rm", fs.rm), hooked("rmdir", fs.rmdir)];
  return { ...fs, rename, open, mkdir, rm: remove, rmdir, writeFile: hooked("writeFile", fs.writeFile) };
});

beforeEach(() => {
  hooks.before = async () => {};
  hooks.unsynced.clear();
});

/** Two checkpoints of a VM, of which the first shares few pages with the next. */
async function storeWithTwo(): Promise<{ store: CheckpointStore; old: string; shared: string }> {
  const store = await newStore();
  const { id: old } = await keep(store, 60, "old");
  const { id: shared } = await keep(store, 20);
  return { store, old, shared };
}

/** What is done while a crash or a failure may come: a new checkpoint, and the deletion of an old one. */
async function changeStore(store: CheckpointStore, old: string): Promise<void> {
  await using writer = await store.create(VM);
  writer.add(0, pagesOf(0, 60));
  await writer.drained();
  await writer.finish();
  await store.delete(old);
}

/** The process that held the locks of a copy is gone. */
async function killOwners(folder: string): Promise<void> {
  for (const name of await readdir(folder, { recursive: true })) {
    const path = join(folder, name);
    if (name.includes("/lock.")) await rename(path, path.replace(/\d+$/, "1"));
  }
}

test("a crash at any point leaves whole checkpoints, and garbage that is removed", async () => {
  const { store, old, shared } = await storeWithTwo();
  const snapshots: { folder: string; call: string }[] = [];
  onTestFinished(async () => {
    for (const { folder } of snapshots) await rm(folder, { recursive: true });
  });
  const snapshot = async (call: string) => {
    const before = hooks.before;
    hooks.before = async () => {};
    const folder = await temporaryFolder();
    await cp(stateDirOf(store), folder, { recursive: true });
    // What was not synced may be lost.
    for (const path of hooks.unsynced) {
      await truncate(join(folder, path.slice(stateDirOf(store).length)), 0).catch(() => {});
    }
    snapshots.push({ folder, call });
    hooks.before = before;
  };
  hooks.before = snapshot;
  await changeStore(store, old);
  hooks.before = async () => {};
  expect(snapshots.length).toBeGreaterThan(20);
  const seen = new Set<string>();
  for (const { folder } of snapshots) {
    await killOwners(folder);
    const copy = await openCheckpoints(folder, { maxBytes: 2 ** 30 });
    const list = await copy.list();
    expect(list.every(({ state }) => state === "whole")).toBe(true);
    for (const { id } of list) expect(await copy.check(id)).toMatchObject({ problems: [], damagedPages: 0 });
    const ids = list.map(({ id }) => id);
    const fresh = ids.find((id) => id !== old && id !== shared);
    seen.add(`${ids.includes(old)} ${fresh !== undefined}`);
    expect(ids).toContain(shared);
    if (fresh) expect((await contentOf(copy, fresh)).equals(pagesOf(0, 60))).toBe(true);
    await copy.gc();
    expect((await filesOf(copy)).filter((path) => /\.tmp$|lock\./.test(path))).toEqual([]);
    const next = await keep(copy, 60);
    expect((await contentOf(copy, next.id)).equals(pagesOf(0, 60))).toBe(true);
    for (const { id } of await copy.list()) await copy.delete(id);
    expect(await filesOf(copy)).toEqual([]);
  }
  expect(seen).toEqual(new Set(["true false", "true true", "false true"]));
}, 120_000);

test.each([
  ["ENOSPC", "STORE_FULL"],
  ["EROFS", "STORE_NOT_WRITABLE"],
])(
  "%s at any point is told, and costs nothing that was there",
  async (errno, code) => {
    const template = await storeWithTwo();
    const codes = new Set<string>();
    let calls = 0;
    for (let failing = 1; calls >= failing - 1; failing++) {
      const folder = await temporaryFolder();
      onTestFinished(() => rm(folder, { recursive: true }));
      await cp(stateDirOf(template.store), folder, { recursive: true });
      const store = await openCheckpoints(folder, { maxBytes: 2 ** 30 });
      calls = 0;
      hooks.before = async () => {
        if (++calls === failing) throw Object.assign(new Error(`${errno}: injected`), { code: errno });
      };
      codes.add(await codeOf(changeStore(store, template.old)));
      hooks.before = async () => {};
      const list = await store.list();
      expect(list.map(({ id }) => id)).toContain(template.shared);
      expect(list.every(({ state }) => state === "whole")).toBe(true);
      for (const { id } of list) expect((await store.check(id)).problems).toEqual([]);
      expect((await keep(store, 60)).state).toBe("whole");
      await store.gc();
      expect((await filesOf(store)).filter((path) => /\.tmp$/.test(path))).toEqual([]);
    }
    expect(codes).toEqual(new Set([code, "none"]));
  },
  120_000,
);
