/** The disks of a VM as its QEMU names them, and how others than that QEMU can read them. */

import { isAbsolute, resolve } from "node:path";
import type { BlockDeviceInfo, ImageInfo } from "./commands.ts";
import { blockDeviceId } from "./facts.ts";
import type { QmpClient } from "./qmp.ts";

/** A disk with a medium. */
export interface Disk {
  /** The id of the device, as in the facts of the VM: the same at both ends. */
  readonly id: string;
  /** The node that the device reads; null in a QEMU too old to name it. */
  readonly nodeName: string | null;
  /** The driver of that node, or of the one under it that it filters: `raw`, `qcow2`, … */
  readonly driver: string;
  readonly virtualSizeBytes: number;
  readonly readOnly: boolean;
  /** QEMU's name for the image. */
  readonly image: string;
  /** Whether it is to be read where a user says, and not as its QEMU does. */
  readonly isElsewhere: boolean;
  /** The file or block device that is the disk, byte for byte; null if there is none. */
  readonly rawPath: string | null;
  /** A file name with which any program of QEMU opens the image beside this one; null if none can. */
  readonly sharedName: string | null;
  /** All files that hold content of the disk; null if that is not known. */
  readonly files: readonly string[] | null;
}

/** Drivers that add nothing to the bytes of the file under them. */
const PLAIN_DRIVERS: ReadonlySet<string> = new Set(["raw", "file", "host_device"]);
/** Drivers of images that are not the bytes of the disk, docs/system/images.rst. A content is never asked: a guest may have written it. */
const IMAGE_FORMATS: ReadonlySet<string> = new Set("qcow2 qcow qed vmdk vdi vhdx vpc parallels".split(" "));
/** Drivers of nodes that pass on what the node under them reads, and that no other program needs: management puts a limit of speed there. */
const FILTERS: ReadonlySet<unknown> = new Set(["throttle", "copy-on-read"]);
/** Protocols whose node is named by a path alone. */
const PATH_PROTOCOLS: ReadonlySet<unknown> = new Set(["file", "host_device"]);
const JSON_PREFIX = "json:";

type JsonObject = Record<string, unknown>;

/**
 * Asks a QEMU for the disks of its VM.
 *
 * @throws what `execute` throws
 */
export async function listDisks(qmp: QmpClient): Promise<Disk[]> {
  const disks: Disk[] = [];
  for (const info of await qmp.execute("query-block")) {
    if (info.qdev !== undefined && info.inserted) disks.push(diskOf(blockDeviceId(info), info.inserted));
  }
  return disks;
}

/** The disk with its image at another path: in the same format if it is of an image format, else raw. */
export function diskAt(disk: Disk, path: string): Disk {
  const absolute = resolve(path);
  const driver = IMAGE_FORMATS.has(disk.driver) ? disk.driver : "raw";
  return { ...disk, ...placeOf(driver, absolute), driver, image: absolute, files: [absolute], isElsewhere: true };
}

/** A file name with which any program of QEMU opens the image at a path, of a format as `-blockdev` calls it. */
export function sharedNameOf(format: string, path: string): string {
  return placeOf(format, resolve(path)).sharedName!;
}

/** Whether this is a format of images that QEMU has, raw included. */
export function isImageFormat(format: string): boolean {
  return format === "raw" || IMAGE_FORMATS.has(format);
}

function diskOf(id: string, { "node-name": nodeName, drv, ro: readOnly, image }: BlockDeviceInfo): Disk {
  const { driver, filename } = unfiltered(drv, image.filename);
  return {
    id,
    nodeName: nodeName ?? null,
    driver,
    virtualSizeBytes: image["virtual-size"],
    readOnly,
    image: image.filename,
    isElsewhere: false,
    ...placeOf(driver, filename),
    files: filesOf(image),
  };
}

/**
 * QEMU shows a plain file name only where that, with the driver, opens the very same thing: no offset, no other backing
 * file than the image says itself (bdrv_refresh_filename, block.c).
 */
function placeOf(driver: string, filename: string): Pick<Disk, "rawPath" | "sharedName"> {
  const options = optionsOf(driver, filename);
  const isPlain = PLAIN_DRIVERS.has(driver) && !filename.startsWith(JSON_PREFIX) && options !== undefined;
  return {
    rawPath: isPlain ? filename : null,
    // The image is in use by a QEMU that locks it; force-share takes no lock, and so allows only reading.
    sharedName: options ? JSON_PREFIX + JSON.stringify({ ...options, "read-only": true, "force-share": true }) : null,
  };
}

/** The image under filters: by its path alone where that says it all, as QEMU itself shows images. */
function unfiltered(driver: string, filename: string): { readonly driver: string; readonly filename: string } {
  if (!FILTERS.has(driver) || !filename.startsWith(JSON_PREFIX)) return { driver, filename };
  let options = parsed(filename);
  while (options !== undefined && FILTERS.has(options.driver)) options = objectOf(options.file);
  if (typeof options?.driver !== "string") return { driver, filename };
  const file = objectOf(options.file);
  const isByPath = hasOnly(options, "driver", "file") && file !== undefined && hasOnly(file, "driver", "filename");
  return {
    driver: options.driver,
    filename:
      isByPath && PATH_PROTOCOLS.has(file.driver) && typeof file.filename === "string"
        ? file.filename
        : JSON_PREFIX + JSON.stringify(options),
  };
}

function objectOf(value: unknown): JsonObject | undefined {
  return typeof value === "object" && value !== null ? (value as JsonObject) : undefined;
}

function hasOnly(options: JsonObject, ...names: readonly string[]): boolean {
  return Object.keys(options).every((name) => names.includes(name));
}

/** The image as the options of `-blockdev`; undefined if it cannot be opened by them elsewhere. */
function optionsOf(driver: string, filename: string): JsonObject | undefined {
  if (filename.startsWith(JSON_PREFIX)) {
    const options = parsed(filename);
    return options && fileNames(options).every(isElsewhereToo) ? options : undefined;
  }
  if (!isElsewhereToo(filename)) return undefined;
  return PLAIN_DRIVERS.has(driver) ? { driver: "raw", file: { filename } } : { driver, file: { filename } };
}

/** A relative name means something else in another folder, /dev/fdset/N something else in another process. */
function isElsewhereToo(filename: string): boolean {
  return isAbsolute(filename) && !filename.startsWith("/dev/fdset/");
}

function filesOf(image: ImageInfo): string[] | null {
  const files: string[] = [];
  for (let each: ImageInfo | undefined = image; each; each = each["backing-image"]) {
    const { filename } = each;
    const dataFile = each["format-specific"]?.data?.["data-file"];
    const names = filename.startsWith(JSON_PREFIX) ? fileNames(parsed(filename) ?? {}) : [filename];
    if (names.length === 0) return null;
    files.push(...names, ...(dataFile === undefined ? [] : [dataFile]));
  }
  return files.every(isElsewhereToo) ? [...new Set(files)] : null;
}

/** Undefined for a name that QEMU has cut because it was too long (PATH_MAX, BlockDriverState.filename). */
function parsed(filename: string): JsonObject | undefined {
  try {
    return JSON.parse(filename.slice(JSON_PREFIX.length));
  } catch {
    return undefined;
  }
}

/** Every `filename` in a tree of options. */
function fileNames(options: JsonObject): string[] {
  return Object.entries(options).flatMap(([key, value]) => {
    if (key === "filename" && typeof value === "string") return [value];
    return typeof value === "object" && value !== null ? fileNames(value as JsonObject) : [];
  });
}
