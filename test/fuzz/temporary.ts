import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const folders: string[] = [];

export function newFolder(): string {
  const path = mkdtempSync(join(process.env.GODWIT_TEST_MEMORY ?? tmpdir(), "godwit-fuzz-"));
  folders.push(path);
  return path;
}

export function removeFolders(): void {
  for (const path of folders.splice(0)) rmSync(path, { recursive: true, force: true });
}
