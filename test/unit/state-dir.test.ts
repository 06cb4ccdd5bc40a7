import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { identityOf } from "../../src/qemu/facts.ts";
import { openStateFolder, stateDirOf } from "../../src/store/state-dir.ts";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "godwit-state-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test("the state folder is the one asked for, else the environment's, else the system's", () => {
  expect(stateDirOf("/a", { GODWIT_STATE_DIR: "/b" })).toBe("/a");
  expect(stateDirOf(undefined, { GODWIT_STATE_DIR: "/b" })).toBe("/b");
  const system = stateDirOf(undefined, { XDG_STATE_HOME: "/x" });
  expect(system).toBe(process.getuid?.() === 0 ? "/var/lib/godwit" : "/x/godwit");
});

test("only the owner can enter it", async () => {
  const path = await openStateFolder(join(folder, "state"), "indexes");
  for (const each of [path, join(folder, "state")]) expect(statSync(each).mode & 0o777).toBe(0o700);
});

/** A folder that was there before, and has that mode whatever the umask. */
function folderOf(mode: number, ...names: string[]): string {
  const path = join(folder, ...names);
  mkdirSync(path, { recursive: true });
  chmodSync(path, mode);
  return path;
}

test("a folder that was there before keeps its mode: it may be another program's", async () => {
  const stateDir = folderOf(0o755, "found");
  await openStateFolder(stateDir, "sessions");
  expect(statSync(stateDir).mode & 0o7777).toBe(0o755);
  const theirs = folderOf(0o1733, "found", "indexes");
  await expect(openStateFolder(stateDir, "indexes")).rejects.toMatchObject({ code: "STORE_STATE_DIR" });
  expect(statSync(theirs).mode & 0o7777).toBe(0o1733);
});

test("a state folder that others can write to is refused", async () => {
  const stateDir = folderOf(0o1777, "public");
  await expect(openStateFolder(stateDir, "sessions")).rejects.toThrow(/others can write to it/);
  expect(statSync(stateDir).mode & 0o7777).toBe(0o1777);
  expect(readdirSync(stateDir)).toEqual([]);
});

test.each(["/dev/null/godwit", "/proc/godwit/state"])(
  "a state folder that can't be made is said to be one: %s",
  async (path) => {
    await expect(openStateFolder(path, "indexes")).rejects.toMatchObject({ code: "STORE_STATE_DIR" });
  },
);

test("a VM is known by its UUID, else by its name", () => {
  const none = "00000000-0000-0000-0000-000000000000";
  expect(identityOf({ uuid: "0A000000-0000-0000-0000-000000000000", name: "vm" })).toBe(
    "uuid:0a000000-0000-0000-0000-000000000000",
  );
  expect(identityOf({ uuid: none, name: "vm" })).toBe("name:vm");
  expect(identityOf({ uuid: none, name: null })).toBeNull();
});
