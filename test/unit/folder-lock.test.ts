import { execFileSync, fork } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { readdir, rename, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, onTestFinished, test } from "vitest";
import { openCheckpoints } from "../../src/migration/open-checkpoints.ts";
import { lockFolder } from "../../src/store/folder-lock.ts";
import {
  codeOf,
  contentOf,
  filesOf,
  keep,
  newStore,
  pagesOf,
  stateDirOf,
  stateFolder,
  VM,
} from "./support/checkpoint-stores.ts";

test("one writer of a VM at a time; those of others go on", async () => {
  const store = await newStore();
  const old = await keep(store, 3);
  const other = await keep(store, 3, "", { identity: "name:b" });
  {
    await using writer = await store.create(VM);
    expect(await codeOf(store.create(VM))).toBe("STORE_BUSY");
    expect(await codeOf(store.delete(old.id))).toBe("STORE_BUSY");
    expect(await store.gc()).toMatchObject({ busyVms: 1 });
    await store.delete(other.id);
    await keep(store, 3, "", { identity: "name:c" });
    expect((await contentOf(store, old.id)).equals(pagesOf(0, 3))).toBe(true);
    writer.add(0, pagesOf(0, 9));
    await writer.finish();
  }
  await store.delete(old.id);
});

test("a lock is let go", async () => {
  const folder = await stateFolder();
  for (let turn = 0; turn < 3; turn++) {
    await using _lock = await lockFolder(folder);
    expect(await readdir(folder)).toHaveLength(1);
    expect(await codeOf(lockFolder(folder))).toBe("STORE_BUSY");
  }
  expect(await readdir(folder)).toEqual([]);
});

test("the lock of a process that is gone holds up nobody, that of one that lives does", async () => {
  const folder = await stateFolder();
  const own = await lockFolder(folder);
  const name = (await readdir(folder))[0]!;
  await own[Symbol.asyncDispose]();
  const [prefix, boot, namespace, pid, start] = name.split(".");
  const gone = [
    [prefix, boot, namespace, pid, `${start}1`], // another process has its number now
    [prefix, boot, namespace, "4194305", start], // beyond the highest number there is (PID_MAX_LIMIT)
    [prefix, "0".repeat(36), namespace, pid, start], // before the last boot
    ["lock", "what"],
  ];
  for (const parts of gone) await writeFile(join(folder, parts.join(".")), "");
  await using _lock = await lockFolder(folder);
  expect(await readdir(folder)).toEqual([name]);
  await _lock[Symbol.asyncDispose]();
  await writeFile(join(folder, [prefix, boot, "1", "1", "1"].join(".")), ""); // what is in another container is not known
  expect(await codeOf(lockFolder(folder))).toBe("STORE_BUSY");
});

test("a process that is killed while it writes leaves the store consistent, and its lock to the next", async () => {
  const store = await newStore();
  const old = await keep(store, 50);
  const script = fileURLToPath(new URL("support/checkpoint-writer.ts", import.meta.url));
  const child = fork(script, [stateDirOf(store)], { stdio: ["ignore", "ignore", "inherit", "ipc"] });
  onTestFinished(() => void child.kill("SIGKILL"));
  await once(child, "message");
  expect(await codeOf(store.create(VM))).toBe("STORE_BUSY");
  child.kill("SIGKILL");
  await once(child, "exit");
  expect(await store.list()).toHaveLength(1);
  const next = await keep(store, 60);
  expect((await contentOf(store, next.id)).equals(pagesOf(0, 60))).toBe(true);
  expect(await store.check(old.id)).toMatchObject({ problems: [] });
  expect((await filesOf(store)).filter((path) => /\.tmp$|lock\./.test(path))).toEqual([]);
});

test("a folder that cannot be made, and a state folder of which a part is a file", async () => {
  const store = await newStore();
  const { id } = await keep(store, 3);
  const folder = dirname((await filesOf(store, `${id}.checkpoint`))[0]!);
  await rename(folder, `${folder}.aside`);
  await writeFile(folder, "");
  expect(await codeOf(store.create(VM))).toBe("STORE_NOT_WRITABLE");
  expect(await store.list()).toEqual([]);
});

const canMount = process.getuid?.() === 0;

test.runIf(canMount)("a file system that is full, or read-only", async () => {
  const folder = await stateFolder();
  const mounted = join(folder, "small");
  try {
    execFileSync("mkdir", [mounted]);
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", mounted], { stdio: "ignore" });
  } catch {
    return; // not every root may mount
  }
  onTestFinished(() => void execFileSync("umount", [mounted]));
  const store = await openCheckpoints(mounted, { maxBytes: 2 ** 30 });
  const small = await keep(store, 20);
  const writer = await store.create(VM);
  writer.add(0, randomBytes(2 ** 21));
  expect(await codeOf(writer.finish())).toBe("STORE_FULL");
  expect(await filesOf(store)).toHaveLength(3);
  expect(await store.check(small.id)).toMatchObject({ problems: [] });
  expect((await keep(store, 30)).state).toBe("whole");
  execFileSync("mount", ["-o", "remount,ro", mounted]);
  expect(await codeOf(store.create(VM))).toBe("STORE_NOT_WRITABLE");
  expect(await codeOf(store.delete(small.id))).toBe("STORE_NOT_WRITABLE");
  expect(await codeOf(store.gc())).toBe("STORE_NOT_WRITABLE");
  const readOnly = await openCheckpoints(mounted);
  expect(await readOnly.list()).toHaveLength(2);
  expect((await contentOf(readOnly, small.id)).equals(pagesOf(0, 20))).toBe(true);
});
