import { temporaryFoldersOfRun } from "../lab/leftovers.ts";

/** Vitest's global set-up: nothing of a run stays in the folders for temporary files, however it ends. */
export default function setUp(): () => void {
  const folders = temporaryFoldersOfRun();
  return () => folders[Symbol.dispose]();
}
