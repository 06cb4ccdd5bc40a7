import { readFileSync } from "node:fs";
import { copyFile, mkdir, readdir, rename, rm, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { cached, isCached } from "./cache.ts";
import { UNPACKING_VERSION, unpackPackages } from "./packages.ts";
import { qemuImg } from "./qemus.ts";
import { run } from "./run.ts";

/** The files a guest is started from. The disk is a master: each VM gets a copy of it ({@link copyDisk}). */
export interface Guest {
  readonly kernel: string;
  readonly initrd: string;
  readonly disk: string;
}

const suite = "bookworm";
/** A small Debian as one meets it, and the programs of workloads.ts. */
const packages = [
  ...["linux-image-cloud-amd64", "busybox-static", "stress-ng", "redis-server"],
  ...["apt", "base-files", "base-passwd", "bash", "coreutils", "dash", "debianutils", "diffutils", "dpkg", "findutils"],
  ...["grep", "gzip", "hostname", "init-system-helpers", "iproute2", "libc-bin", "login", "mount", "ncurses-base"],
  ...["passwd", "perl-base", "procps", "python3-minimal", "sed", "tar", "util-linux"],
];
const modules = ["virtio_pci", "virtio_blk", "virtio-rng"];
const sources = ["init", "initramfs-init", "load.c", "tick.c"];
const mkfsOptions = [
  ...["-b", "4096", "-L", "godwit", "-U", "6f0d3f4e-6f77-4974-8000-676f64776974"],
  ...["-E", "hash_seed=6f0d3f4e-6f77-4974-8000-676f64776975,root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0"],
];
const DISK_BYTES = 1024 ** 3;

/** The guest's files, built from Debian packages into the cache when they are not there. */
export async function guest(): Promise<Guest> {
  const folder = await cached(...recipe(), build);
  return { kernel: join(folder, "vmlinuz"), initrd: join(folder, "initrd"), disk: join(folder, "disk.raw") };
}

/** Is the guest in the cache already? */
export function hasGuest(): boolean {
  return isCached(...recipe());
}

/** Copies a disk, keeping its holes, to a path that does not exist yet. */
export async function copyDisk(from: string, to: string): Promise<void> {
  await run(["cp", "--sparse=always", "--reflink=auto", from, to]);
}

/** Makes a qcow2 image, at a path that does not exist yet, that holds only what will differ from a raw disk. */
export async function overlayDisk(backing: string, to: string): Promise<void> {
  await run([...(await qemuImg()), "create", "-q", "-f", "qcow2", "-b", backing, "-F", "raw", to]);
}

function recipe(): [string, unknown] {
  const texts = sources.map((name) => readFileSync(source(name), "utf8"));
  return ["guest", { unpacking: UNPACKING_VERSION, suite, packages, modules, mkfsOptions, DISK_BYTES, texts }];
}

function source(name: string): string {
  return join(import.meta.dirname, "guest", name);
}

async function build(folder: string): Promise<void> {
  const root = join(folder, "root");
  await mkdir(root);
  await unpackPackages(suite, packages, root);
  const boot = await readdir(join(root, "boot"));
  const kernel = boot.find((name) => name.startsWith("vmlinuz-"))!;
  await copyFile(join(root, "boot", kernel), join(folder, "vmlinuz"));
  await rm(join(root, "boot"), { recursive: true });
  await buildInitramfs(root, kernel.slice("vmlinuz-".length), folder);
  await finishRoot(root);
  const disk = join(folder, "disk.raw");
  await writeFile(disk, "");
  await truncate(disk, DISK_BYTES);
  await run(["mkfs.ext4", "-q", "-F", ...mkfsOptions, "-d", root, disk], { env: pathWithSbin() });
  await rm(root, { recursive: true });
}

/** An initramfs of busybox, the virtio drivers with what they need, and our first program. */
async function buildInitramfs(root: string, version: string, folder: string): Promise<void> {
  const busybox = join(root, "usr/bin/busybox");
  await run([busybox, "depmod", "-b", root, version]);
  const tree = join(folder, "initramfs");
  const moduleFolder = join("lib/modules", version);
  const dependencies = readFileSync(join(root, moduleFolder, "modules.dep"), "utf8");
  for (const path of ["bin", "dev", "proc", "sys", "root"]) await mkdir(join(tree, path), { recursive: true });
  await copyFile(busybox, join(tree, "bin/busybox"));
  await copyFile(source("initramfs-init"), join(tree, "init"));
  for (const path of modulesWithDependencies(dependencies, modules)) {
    await mkdir(join(tree, moduleFolder, path, ".."), { recursive: true });
    await copyFile(join(root, moduleFolder, path), join(tree, moduleFolder, path));
  }
  await writeFile(join(tree, moduleFolder, "modules.dep"), dependencies);
  const archive = 'find . | "$0" cpio -o -H newc 2>/dev/null | gzip -1 >"$1"';
  await run(["bash", "-o", "pipefail", "-c", archive, busybox, join(folder, "draft")], { cwd: tree });
  await rename(join(folder, "draft"), join(folder, "initrd"));
  await rm(tree, { recursive: true });
}

/** The paths of the modules and of all that they depend on, from the text of modules.dep. */
export function modulesWithDependencies(modulesDep: string, names: readonly string[]): string[] {
  const needs = new Map<string, string[]>();
  for (const line of modulesDep.split("\n")) {
    const colon = line.indexOf(":");
    if (colon > 0)
      needs.set(
        line.slice(0, colon),
        line
          .slice(colon + 1)
          .split(" ")
          .filter(Boolean),
      );
  }
  const found = new Set<string>();
  const add = (path: string) => {
    if (found.has(path)) return;
    found.add(path);
    for (const need of needs.get(path) ?? []) add(need);
  };
  for (const name of names) {
    const path = [...needs.keys()].find((path) => path.endsWith(`/${name}.ko`));
    if (path === undefined) throw new Error(`the kernel has no module ${name}`);
    add(path);
  }
  return [...found];
}

/** Does what maintainer scripts would do, as far as the guest needs it, and adds our programs. */
async function finishRoot(root: string): Promise<void> {
  for (const path of ["dev", "proc", "sys", "run", "tmp", "root", "lab", "var/lib/redis"])
    await mkdir(join(root, path), { recursive: true });
  for (const name of ["passwd", "group"])
    await copyFile(join(root, "usr/share/base-passwd", `${name}.master`), join(root, "etc", name));
  await copyFile(source("init"), join(root, "lab/init"));
  for (const program of ["load", "tick"])
    await run(["gcc", "-O2", "-Wall", "-Werror", "-static", "-o", join(root, "lab", program), source(`${program}.c`)]);
}

/** mkfs.ext4 stands in /usr/sbin, which is not on every user's PATH. */
function pathWithSbin(): NodeJS.ProcessEnv {
  return { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` };
}
