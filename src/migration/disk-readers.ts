/** Opens the disks of a VM for reading, each in the way that suits it, at the source or at the destination. */

import { join } from "node:path";
import { messageOf } from "../errors.ts";
import { exportDisks } from "../qemu/disk-export.ts";
import type { Disk } from "../qemu/disks.ts";
import { type ImageServerOptions, openImage } from "../qemu/image-server.ts";
import { ALLOCATION_CONTEXT, bitmapContext, NbdClient } from "../qemu/nbd.ts";
import type { QmpClient } from "../qemu/qmp.ts";
import { bytesOf, type DiskReader, type Extent, FileDisk, identityOf, storedBytesOf } from "../store/disk-reader.ts";
import { makeSocketFolder } from "./socket-folder.ts";

/** The disks that can be read, and why the others cannot. */
export interface OpenDisks extends AsyncDisposable {
  readonly readers: ReadonlyMap<string, DiskReader>;
  /** One clause for people, by the disk's id. */
  readonly unreadable: ReadonlyMap<string, string>;
  /** The ranges that a disk's bitmap has marked, for those disks whose bitmaps were given and can be read. */
  readonly changes: ReadonlyMap<string, () => AsyncIterable<Extent>>;
}

export interface DiskOptions {
  /** What starts qemu-nbd; default: `qemu-nbd` on the PATH. */
  readonly qemuNbd?: readonly string[];
}

const contexts = [ALLOCATION_CONTEXT];

export interface SourceDiskOptions extends DiskOptions {
  /** Dirty bitmaps that no longer note, by the disk's id. */
  readonly bitmaps?: ReadonlyMap<string, string>;
}

/** Opens the disks of a running VM: raw ones as they are, those that are elsewhere through a qemu-nbd, all others, and all bitmaps, through its QEMU. */
export async function openSourceDisks(
  qmp: QmpClient,
  disks: readonly Disk[],
  options: SourceDiskOptions = {},
): Promise<OpenDisks> {
  const { bitmaps = new Map<string, string>() } = options;
  await using opening = await Opening.start(qmp, options);
  const others = new Set(await opening.openRaw(disks));
  await opening.openImages([...others].filter(({ isElsewhere }) => isElsewhere));
  const exported = disks.filter((disk) => (others.has(disk) && !disk.isElsewhere) || bitmaps.has(disk.id));
  if (exported.length > 0) await opening.openThroughQemu(qmp, exported, bitmaps);
  return opening.finish();
}

/**
 * Opens the disks of a VM that has not arrived yet: raw ones as they are, all others through a qemu-nbd. The names are those
 * that the destination's own QEMU tells.
 */
export async function openDestinationDisks(
  qmp: QmpClient,
  disks: readonly Disk[],
  options: DiskOptions = {},
): Promise<OpenDisks> {
  await using opening = await Opening.start(qmp, options);
  await opening.openImages(await opening.openRaw(disks));
  return opening.finish();
}

class Opening implements AsyncDisposable {
  readonly #resources = new AsyncDisposableStack();
  readonly #readers = new Map<string, DiskReader>();
  readonly #unreadable = new Map<string, string>();
  readonly #changes = new Map<string, () => AsyncIterable<Extent>>();
  readonly #serverOptions: ImageServerOptions;
  readonly #folder: string;
  #sockets = 0;

  private constructor(folder: string, options: DiskOptions) {
    this.#folder = folder;
    this.#serverOptions = { contexts, ...(options.qemuNbd && { command: options.qemuNbd }) };
  }

  static async start(qmp: QmpClient, options: DiskOptions): Promise<Opening> {
    const folder = await makeSocketFolder(qmp.path);
    const opening = new Opening(folder.path, options);
    opening.#resources.use(folder);
    return opening;
  }

  /** Returns those disks that are to be read in another way. */
  async openRaw(disks: readonly Disk[]): Promise<Disk[]> {
    const others: Disk[] = [];
    for (const disk of disks) {
      const { id, rawPath, virtualSizeBytes } = disk;
      if (rawPath === null) {
        others.push(disk);
        continue;
      }
      const extents = () => this.#extentsOf(disk);
      await this.#open(id, () => FileDisk.open(rawPath, virtualSizeBytes, { extents }));
      if (!this.#readers.has(id)) others.push(disk);
    }
    return others;
  }

  /** Opens those disks that are not open yet, and their bitmaps. */
  async openThroughQemu(qmp: QmpClient, disks: readonly Disk[], bitmaps: ReadonlyMap<string, string>): Promise<void> {
    const wanted = disks.map((disk) => ({ ...disk, bitmap: bitmaps.get(disk.id) }));
    try {
      const exports = this.#resources.use(await exportDisks(qmp, wanted, this.#socketPath()));
      for (const disk of wanted) {
        const { id, bitmap } = disk;
        const exportName = exports.names.get(id);
        await this.#open(id, async () => {
          if (exportName === undefined) throw new Error(exports.refusals.get(id));
          const marked = bitmap === undefined ? [] : [bitmapContext(bitmap)];
          const wantedContexts = [...contexts, ...marked];
          const client = await NbdClient.connect(exports.socketPath, { exportName, contexts: wantedContexts });
          for (const context of marked) this.#changes.set(id, () => client.dirtyExtents(context));
          return new NbdDisk(client, exportName, disk);
        });
      }
    } catch (error) {
      for (const { id } of disks) this.#fail(id, error);
    }
  }

  async openImages(disks: readonly Disk[]): Promise<void> {
    for (const disk of disks) {
      const { id, sharedName } = disk;
      if (sharedName === null) {
        if (!this.#unreadable.has(id)) this.#unreadable.set(id, `only its QEMU can open the ${disk.driver} image`);
        continue;
      }
      await this.#open(id, async () => {
        const image = this.#resources.use(await openImage(sharedName, this.#socketPath(), this.#serverOptions));
        return new NbdDisk(image.client, "", disk);
      });
    }
  }

  finish(): OpenDisks {
    const resources = this.#resources.move();
    return {
      readers: this.#readers,
      unreadable: this.#unreadable,
      changes: this.#changes,
      [Symbol.asyncDispose]: () => resources.disposeAsync(),
    };
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#resources.disposeAsync();
  }

  /** A reader that is there already stays: it is the better one. */
  async #open(id: string, open: () => Promise<DiskReader>): Promise<void> {
    try {
      const reader = this.#resources.use(await open());
      if (!this.#readers.has(id)) this.#readers.set(id, reader);
      this.#unreadable.delete(id);
    } catch (error) {
      this.#fail(id, error);
    }
  }

  #fail(id: string, error: unknown): void {
    if (!this.#readers.has(id)) this.#unreadable.set(id, messageOf(error));
  }

  /** Of a sparse raw file: a qemu-nbd can ask for its holes. Without one, all of the file may hold something. */
  async *#extentsOf({ sharedName, virtualSizeBytes }: Disk): AsyncGenerator<Extent> {
    const image = await openImage(sharedName!, this.#socketPath(), this.#serverOptions).catch(() => undefined);
    if (!image) {
      yield { offsetBytes: 0, lengthBytes: virtualSizeBytes };
      return;
    }
    await using _image = image;
    yield* image.client.allocatedExtents();
  }

  #socketPath(): string {
    return join(this.#folder, `nbd-${this.#sockets++}`);
  }
}

class NbdDisk implements DiskReader {
  readonly sizeBytes: number;
  readonly place: { readonly kind: "nbd"; readonly socketPath: string; readonly exportName: string };
  readonly #client: NbdClient;
  readonly #files: readonly string[] | null;

  constructor(client: NbdClient, exportName: string, disk: Disk) {
    this.sizeBytes = client.sizeBytes;
    this.place = { kind: "nbd", socketPath: client.path, exportName };
    this.#client = client;
    this.#files = disk.files;
  }

  read(offsetBytes: number, target: Uint8Array): Promise<void> {
    return this.#client.read(offsetBytes, target);
  }

  async readScattered(offsetBytes: number, targets: readonly Uint8Array[]): Promise<void> {
    if (targets.length === 1) return this.read(offsetBytes, targets[0]!);
    const bytes = new Uint8Array(bytesOf(targets));
    await this.#client.read(offsetBytes, bytes);
    let at = 0;
    for (const target of targets) {
      target.set(bytes.subarray(at, at + target.length));
      at += target.length;
    }
  }

  allocatedExtents(): AsyncIterable<Extent> {
    return this.#client.allocatedExtents();
  }

  /** An image may be compressed, to a half on average or so. */
  async allocatedBytes(): Promise<number> {
    const storedBytes = this.#files && (await storedBytesOf(this.#files).catch(() => null));
    return storedBytes === null ? this.sizeBytes : Math.min(2 * storedBytes, this.sizeBytes);
  }

  async identity() {
    return this.#files && identityOf(this.#files);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#client[Symbol.asyncDispose]();
  }
}
