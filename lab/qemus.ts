import { join } from "node:path";
import { cached, isCached } from "./cache.ts";
import { type Suite, UNPACKING_VERSION, unpackPackages } from "./packages.ts";

/** The QEMUs of the lab, by the version that Debian's releases hold. 7.2 loses dirty pages under TCG: idle guests only. */
export type QemuVersion = "10.0" | "7.2";

const suites: Readonly<Record<QemuVersion, Suite>> = { "10.0": "trixie", "7.2": "bookworm" };
const packages = ["qemu-system-x86", "qemu-utils"];

/** The folder of a QEMU, fetched from Debian into the cache when it is not there. */
export function qemuFolder(version: QemuVersion): Promise<string> {
  return cached(...recipe(version), (folder) => unpackPackages(suites[version], packages, folder));
}

/** Is this QEMU in the cache already? */
export function hasQemu(version: QemuVersion): boolean {
  return isCached(...recipe(version));
}

/** The system emulator itself; it is started by {@link qemuCommand}. */
export async function qemuProgram(version: QemuVersion): Promise<string> {
  return programIn(await qemuFolder(version), "qemu-system-x86_64");
}

/** The command that starts this QEMU's system emulator, with the modules and the firmware of its own tree. */
export async function qemuCommand(version: QemuVersion): Promise<string[]> {
  const folder = await qemuFolder(version);
  const modules = ["env", `QEMU_MODULE_DIR=${join(folder, "usr/lib/x86_64-linux-gnu/qemu")}`];
  const firmware = ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"].flatMap((at) => [
    "-L",
    join(folder, at),
  ]);
  return [...modules, ...commandIn(folder, "qemu-system-x86_64"), ...firmware];
}

/** The command that starts this QEMU's qemu-img. */
export async function qemuImg(version: QemuVersion = "10.0"): Promise<string[]> {
  return commandIn(await qemuFolder(version), "qemu-img");
}

/** The command that starts this QEMU's qemu-nbd. */
export async function qemuNbd(version: QemuVersion = "10.0"): Promise<string[]> {
  return commandIn(await qemuFolder(version), "qemu-nbd");
}

function recipe(version: QemuVersion): [string, unknown] {
  return [`qemu-${version}`, { unpacking: UNPACKING_VERSION, packages, suite: suites[version] }];
}

/** A program of a tree that is not the system's: started by that tree's own loader, with its own libraries. */
function commandIn(folder: string, program: string): string[] {
  const libraries = join(folder, "usr/lib/x86_64-linux-gnu");
  const loader = [join(libraries, "ld-linux-x86-64.so.2"), "--inhibit-cache", "--library-path", libraries];
  return [...loader, "--argv0", program, programIn(folder, program)];
}

function programIn(folder: string, program: string): string {
  return join(folder, "usr/bin", program);
}
