/** Writing so that it is known what is on the disk. */
import { type FileHandle, open } from "node:fs/promises";
import { codeOf } from "./checkpoint-errors.ts";

/** Writes all of it: a file system that is nearly full takes a part first, and says so only by the count. */
export async function writeFully(file: FileHandle, bytes: Uint8Array, at: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    done += (await file.write(bytes, done, bytes.length - done, at + done)).bytesWritten;
  }
}

/** Waits until names that were made or removed in a folder are on the disk. */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, "r");
  try {
    await folder.sync();
  } catch (error) {
    if (codeOf(error) !== "EINVAL") throw error; // a file system that has no such thing
  } finally {
    await folder.close();
  }
}
