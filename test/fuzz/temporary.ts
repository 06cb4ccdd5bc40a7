import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Where files cost least. */
const ROOM = existsSync("/dev/shm") ? "/dev/shm" : tmpdir();
const folders: string[] = [];

export function newFolder(): string {
  const path = mkdtempSync(join(ROOM, "godwit-fuzz-"));
  folders.push(path);
  return path;
}

export function removeFolders(): void {
  for (const path of folders.splice(0)) rmSync(path, { recursive: true, force: true });
}
