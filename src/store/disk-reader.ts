/** Reading the content of a disk, wherever it comes from. */

import { type BigIntStats, readSync } from "node:fs";
import { type FileHandle, open, stat } from "node:fs/promises";
import { GodwitError } from "../errors.ts";

/** The unit of `st_blocks`, stat(2). */
const STATUS_BLOCK_BYTES = 512;

export interface Extent {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

/** Which content a file had: if all of it is as before, so most likely is the content. */
export interface FileIdentity {
  readonly dev: bigint;
  readonly inode: bigint;
  readonly sizeBytes: number;
  readonly mtimeNs: bigint;
}

/** Where a worker thread can open the same disk for itself. */
export type DiskPlace =
  | { readonly kind: "file"; readonly path: string }
  | { readonly kind: "nbd"; readonly socketPath: string; readonly exportName: string };

/** A disk that can be read. Its content may change at any time. */
export interface DiskReader extends AsyncDisposable {
  readonly sizeBytes: number;
  readonly place: DiskPlace;
  /**
   * Fills `target`, which may be a view of shared memory, with what stands at `offsetBytes`. Any number of reads may be in
   * flight. The target must be left alone until the promise has settled; after a rejection its content is undefined.
   */
  read(offsetBytes: number, target: Uint8Array): Promise<void>;
  /** As `read`, into one target after the other, of which there may be 1024 (IOV_MAX). */
  readScattered(offsetBytes: number, targets: readonly Uint8Array[]): Promise<void>;
  /** As `read`, at once; absent where that is not possible. */
  readSync?(offsetBytes: number, target: Uint8Array): void;
  /** The ranges that may hold anything but zeros, in order. */
  allocatedExtents(): AsyncIterable<Extent>;
  /** About how many bytes of it may be other than zero, told at once; absent where nothing tells. */
  allocatedBytes?(): Promise<number>;
  /** Identities of all files that the content comes from; null if no such thing is known, as for block devices. */
  identity(): Promise<readonly FileIdentity[] | null>;
}

export interface FileDiskOptions {
  /** Tells the allocated extents of a sparse file, which Node has no way to ask for; default: all of it. */
  readonly extents?: () => AsyncIterable<Extent>;
}

/** A file or block device that is the disk, byte for byte. */
export class FileDisk implements DiskReader {
  readonly sizeBytes: number;
  readonly place: { readonly kind: "file"; readonly path: string };
  readonly #file: FileHandle;
  readonly #extents: (() => AsyncIterable<Extent>) | undefined;

  private constructor(path: string, sizeBytes: number, file: FileHandle, options: FileDiskOptions) {
    this.place = { kind: "file", path };
    this.sizeBytes = sizeBytes;
    this.#file = file;
    this.#extents = options.extents;
  }

  /**
   * Opens a disk of `sizeBytes` for reading; what a file lacks of that, since QEMU counts in sectors, is not part of it.
   *
   * @throws STORE_DISK_OPEN: it is not there, may not be read, or is no file or block device
   */
  static async open(path: string, sizeBytes: number, options: FileDiskOptions = {}): Promise<FileDisk> {
    try {
      const status = await stat(path); // first, since opening a FIFO would wait
      if (!status.isFile() && !status.isBlockDevice()) throw new Error("it is no file or block device");
      const readableBytes = status.isFile() ? Math.min(status.size, sizeBytes) : sizeBytes;
      return new FileDisk(path, readableBytes, await open(path, "r"), options);
    } catch (cause) {
      const why = (cause as Error).message;
      throw new GodwitError("STORE_DISK_OPEN", `the disk ${path} cannot be read: ${why}`, { path }, { cause });
    }
  }

  /** @throws STORE_DISK_READ */
  read(offsetBytes: number, target: Uint8Array): Promise<void> {
    return this.readScattered(offsetBytes, [target]);
  }

  /** @throws STORE_DISK_READ */
  async readScattered(offsetBytes: number, targets: readonly Uint8Array[]): Promise<void> {
    const lengthBytes = bytesOf(targets);
    this.#checkRange(offsetBytes, lengthBytes);
    let rest = targets;
    for (let done = 0; done < lengthBytes; ) {
      // Through the FileHandle, which is not closed before all its reads have ended.
      const { bytesRead } = await this.#file.readv(rest, offsetBytes + done).catch((cause) => {
        throw this.#error(cause.message, offsetBytes, cause);
      });
      if (bytesRead === 0) throw this.#error("it ends before its size", offsetBytes);
      done += bytesRead;
      if (done < lengthBytes) rest = after(rest, bytesRead);
    }
  }

  /** @throws STORE_DISK_READ */
  readSync(offsetBytes: number, target: Uint8Array): void {
    this.#checkRange(offsetBytes, target.length);
    for (let done = 0; done < target.length; ) {
      const bytesRead = this.#readOnce(offsetBytes + done, done === 0 ? target : target.subarray(done));
      if (bytesRead === 0) throw this.#error("it ends before its size", offsetBytes);
      done += bytesRead;
    }
  }

  async *allocatedExtents(): AsyncGenerator<Extent> {
    const { blocks, size } = await this.#file.stat();
    const isSparse = blocks * STATUS_BLOCK_BYTES < size;
    if (isSparse && this.#extents) yield* this.#extents();
    else yield { offsetBytes: 0, lengthBytes: this.sizeBytes };
  }

  async allocatedBytes(): Promise<number> {
    const status = await this.#file.stat();
    return status.isFile() ? Math.min(status.blocks * STATUS_BLOCK_BYTES, this.sizeBytes) : this.sizeBytes;
  }

  /** Of the file that is open, whatever stands at its path by now. */
  async identity(): Promise<readonly FileIdentity[] | null> {
    const identity = identityFrom(await this.#file.stat({ bigint: true }));
    return identity && [identity];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file.close();
  }

  #readOnce(offsetBytes: number, target: Uint8Array): number {
    try {
      return readSync(this.#file.fd, target, 0, target.length, offsetBytes);
    } catch (cause) {
      throw this.#error((cause as Error).message, offsetBytes, cause);
    }
  }

  #checkRange(offsetBytes: number, lengthBytes: number): void {
    if (offsetBytes >= 0 && offsetBytes + lengthBytes <= this.sizeBytes) return;
    throw this.#error(`the range ${offsetBytes}+${lengthBytes} is not on it`, offsetBytes);
  }

  #error(why: string, offsetBytes: number, cause?: unknown): GodwitError {
    const { path } = this.place;
    const details = { path, offsetBytes };
    return new GodwitError("STORE_DISK_READ", `cannot read the disk ${path}: ${why}`, details, cause ? { cause } : {});
  }
}

/** The bytes of all parts. */
export function bytesOf(parts: readonly Uint8Array[]): number {
  return parts.reduce((sum, part) => sum + part.length, 0);
}

/** What of the targets is behind the first `bytes`. */
function after(targets: readonly Uint8Array[], bytes: number): Uint8Array[] {
  const rest: Uint8Array[] = [];
  for (const target of targets) {
    if (bytes < target.length) rest.push(target.subarray(bytes));
    bytes = Math.max(0, bytes - target.length);
  }
  return rest;
}

/** The identities of files; null if one is no regular file or is not there: only of those the time says anything. */
export async function identityOf(paths: readonly string[]): Promise<readonly FileIdentity[] | null> {
  const identities: FileIdentity[] = [];
  for (const path of paths) {
    const status = await stat(path, { bigint: true }).catch(() => undefined);
    const identity = status && identityFrom(status);
    if (!identity) return null;
    identities.push(identity);
  }
  return identities;
}

/** What files take on their disks. */
export async function storedBytesOf(paths: readonly string[]): Promise<number> {
  let bytes = 0;
  for (const path of paths) bytes += (await stat(path)).blocks * STATUS_BLOCK_BYTES;
  return bytes;
}

function identityFrom(status: BigIntStats): FileIdentity | null {
  if (!status.isFile()) return null;
  const { dev, ino, size, mtimeNs } = status;
  return { dev, inode: ino, sizeBytes: Number(size), mtimeNs };
}
