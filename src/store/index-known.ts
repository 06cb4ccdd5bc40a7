import type { Known } from "./disk-index.ts";
import type { Extent, FileIdentity } from "./disk-reader.ts";
import type { StoredIndex } from "./index-file.ts";

/** A disk that was written to in more places than this is read anew. */
const MAX_CHANGES = 1_000_000;

/**
 * What an index tells of a disk as it is now; undefined if it is of another content. docs/index-format.md has the rules.
 *
 * @param files the files that the disk's content comes from
 * @param image QEMU's name for the image
 * @param changes what the index's dirty bitmap has marked, if that is there
 */
export async function knownBy(
  stored: StoredIndex,
  files: readonly FileIdentity[] | null,
  image: string,
  changes: (() => AsyncIterable<Extent>) | undefined,
): Promise<Known | undefined> {
  const noted = changes && (await collect(changes()).catch(() => null));
  if (noted) return { stored, changes: noted };
  const { about } = stored.header;
  if (files === null || about.files === null) {
    return files === about.files && image === about.image ? { stored, changes: null } : undefined;
  }
  if (files.length === about.files.length && files.every((file, i) => isSameContent(file, about.files![i]!))) {
    return { stored, changes: [] };
  }
  const hasOneInCommon = files.some((file) => about.files!.some((other) => isSameFile(file, other)));
  return hasOneInCommon ? { stored, changes: null } : undefined;
}

function isSameFile(a: FileIdentity, b: FileIdentity): boolean {
  return a.dev === b.dev && a.inode === b.inode;
}

function isSameContent(a: FileIdentity, b: FileIdentity): boolean {
  return isSameFile(a, b) && a.sizeBytes === b.sizeBytes && a.mtimeNs === b.mtimeNs;
}

/** Null if there are too many. */
async function collect(extents: AsyncIterable<Extent>): Promise<Extent[] | null> {
  const all: Extent[] = [];
  for await (const extent of extents) if (all.push(extent) > MAX_CHANGES) return null;
  return all;
}
