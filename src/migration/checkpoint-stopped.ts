import { open } from "node:fs/promises";
import { join } from "node:path";
import { GodwitError, messageOf } from "../errors.ts";
import { type MemoryRange, readMemoryMap } from "../qemu/guest-memory.ts";
import type { QmpClient } from "../qemu/qmp.ts";
import { PAGE_BYTES } from "../stream/format.ts";
import type { Capture } from "./checkpoint-take.ts";
import { makeSocketFolder } from "./socket-folder.ts";

/** Memory that QEMU writes at once, 16 MiB: its main loop, and with it the monitor, stands still for that long, some 20 ms. */
const PIECE_PAGES = 4096;
/** Read back at once. */
const READ_BYTES = 1024 * 1024;

/**
 * Takes the memory of a VM whose guest is stopped, in whatever run state; nothing of the VM changes.
 *
 * QEMU writes it with `pmemsave`, as it refuses a second migration in `postmigrate` (migrate_prepare, migration/migration.c): into two
 * small files by turns, so that the one is read while it writes the other. A page's number is its guest-physical address / 4096.
 *
 * @throws GodwitError QMP_MEMORY_MAP; QMP_COMMAND_FAILED when QEMU can't write there; MIGRATION_MEMORY_UNREAD when we can't read it; what
 * the checkpoint's writer throws; or the signal's reason
 */
export async function captureStopped(qmp: QmpClient, { writer, signal, onProgress }: Capture): Promise<void> {
  const pieces = piecesOf(await readMemoryMap(qmp));
  const totalBytes = pieces.reduce((sum, { pages }) => sum + pages * PAGE_BYTES, 0);
  const buffer = Buffer.allocUnsafeSlow(READ_BYTES);
  let readBytes = 0;
  await using folder = await makeSocketFolder(qmp.path);
  const pathOf = (piece: number) => join(folder.path, `memory-${piece % 2}`);
  let saved = save(qmp, pieces[0]!, pathOf(0));
  try {
    for (const [i, piece] of pieces.entries()) {
      await saved;
      const next = pieces[i + 1];
      if (next !== undefined) saved = save(qmp, next, pathOf(i + 1));
      await readPiece(pathOf(i), piece, buffer, async (firstPage, pages) => {
        signal?.throwIfAborted();
        writer.add(firstPage, pages);
        await writer.drained();
        readBytes += pages.length;
        onProgress(readBytes, totalBytes);
      });
    }
  } finally {
    await saved.catch(() => {}); // QEMU must be done with the folder before it goes
  }
}

function piecesOf(ranges: readonly MemoryRange[]): MemoryRange[] {
  return ranges.flatMap(({ firstPage, pages }) =>
    Array.from({ length: Math.ceil(pages / PIECE_PAGES) }, (_, i) => ({
      firstPage: firstPage + i * PIECE_PAGES,
      pages: Math.min(PIECE_PAGES, pages - i * PIECE_PAGES),
    })),
  );
}

/** Makes QEMU write a piece. The promise may be left alone for a while. */
function save(qmp: QmpClient, { firstPage, pages }: MemoryRange, path: string): Promise<unknown> {
  const saved = qmp.execute("pmemsave", { val: firstPage * PAGE_BYTES, size: pages * PAGE_BYTES, filename: path });
  saved.catch(() => {});
  return saved;
}

/** Hands on a piece that QEMU has written, through `buffer`. */
async function readPiece(
  path: string,
  { firstPage, pages }: MemoryRange,
  buffer: Buffer,
  onPages: (firstPage: number, pages: Uint8Array) => Promise<void>,
): Promise<void> {
  await using file = await open(path).catch((cause) => {
    throw new GodwitError("MIGRATION_MEMORY_UNREAD", `QEMU's file can't be read: ${messageOf(cause)}`, {}, { cause });
  });
  for (let done = 0; done < pages; ) {
    const wanted = Math.min(buffer.length, (pages - done) * PAGE_BYTES);
    const { bytesRead } = await file.read(buffer, 0, wanted, done * PAGE_BYTES);
    // QEMU does not notice what is lost when it closes the file (qmp_pmemsave, system/cpus.c).
    if (bytesRead < wanted) throw new GodwitError("MIGRATION_MEMORY_UNREAD", `QEMU's file ${path} is too short`);
    await onPages(firstPage + done, buffer.subarray(0, wanted));
    done += wanted / PAGE_BYTES;
  }
}
