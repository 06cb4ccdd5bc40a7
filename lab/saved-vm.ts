import { stat } from "node:fs/promises";
import { cpus } from "node:os";
import { join } from "node:path";
import { waitForMigrationStatus } from "../src/qemu/migrate.ts";
import { accelerator } from "./accelerator.ts";
import { cached } from "./cache.ts";
import { copyDisk, guest, overlayDisk } from "./guest.ts";
import { temporaryFolder } from "./leftovers.ts";
import { qemuProgram } from "./qemus.ts";
import { qemuArguments, startVm, type Vm, type VmOptions } from "./vm.ts";

const TIMEOUT_MS = 60_000;

/** Part of the recipe; counts the changes of how a guest is saved. */
const SAVING_VERSION = 1;

/**
 * As startVm, but the guest goes on from where one of the same options stood when it was ready: it was booted and saved once, and
 * is in the cache from then on. A boot keeps a core busy for five seconds, and reading the root file system for ten more.
 *
 * @throws as startVm
 */
export async function startSavedVm(options: VmOptions): Promise<Vm> {
  await using stack = new AsyncDisposableStack();
  const saved = await savedGuest(options);
  const diskFormat = options.diskFormat ?? "raw";
  const folder = stack.use(temporaryFolder()).path;
  const disk = join(folder, `disk.${diskFormat}`);
  await (diskFormat === "raw" ? copyDisk : overlayDisk)(saved.disk, disk);
  const vm = stack.use(await startVm({ ...options, disk, incoming: true }));
  await vm.qmp.execute("migrate-incoming", { uri: `exec:cat '${saved.state}'` });
  await waitForMigrationStatus(vm.qmp, ["completed"], { timeoutMs: TIMEOUT_MS });
  if (!options.paused) await vm.qmp.execute("cont");
  const resources = stack.move();
  return { ...vm, [Symbol.asyncDispose]: () => resources.disposeAsync() };
}

/** As QEMU's `migrate` wrote it, and the disk that goes with it. */
async function savedGuest(options: VmOptions): Promise<{ readonly state: string; readonly disk: string }> {
  const wanted = guestOptions(options);
  const folder = await cached("saved", await recipe(wanted), (folder) => save(wanted, folder));
  return { state: join(folder, "state"), disk: join(folder, "disk.raw") };
}

/** The options without those that say where and in what the guest runs: others make another guest. */
function guestOptions(options: VmOptions): VmOptions {
  const { host, uuid, disk, diskFormat, incoming, paused, booting, ...rest } = options;
  return { ...rest, name: "saved" };
}

/** All that a saved guest depends on: the programs and images as they were built, and what QEMU and the guest's kernel are told. */
async function recipe(options: VmOptions): Promise<unknown> {
  const [program, files, accelerated] = [await qemuProgram(options.qemu ?? "10.0"), await guest(), await accelerator()];
  const builds = await Promise.all([program, files.kernel, files.initrd, files.disk].map(buildOf));
  const names = { kernel: "kernel", initrd: "initrd", disk: "disk" };
  const args = qemuArguments({ ...options, disk: "disk" }, names, accelerated, {
    ...{ qmp: "qmp", lab: "lab", console: "console", ticks: "ticks" },
  });
  // With KVM, "-cpu max" is the host's.
  const cpu = accelerated === "kvm" ? cpus()[0]?.model : undefined;
  return { version: SAVING_VERSION, builds, args, cpu };
}

/** Tells two builds of a file apart, also where both had the same recipe: Debian has got newer packages since. */
async function buildOf(path: string): Promise<unknown> {
  const { size, mtimeMs } = await stat(path);
  return { path, size, seconds: Math.floor(mtimeMs / 1000) };
}

async function save(options: VmOptions, folder: string): Promise<void> {
  await using vm = await startVm(options);
  await vm.qmp.execute("stop");
  await vm.qmp.execute("migrate-set-parameters", { "max-bandwidth": 0 });
  await vm.qmp.execute("migrate", { uri: `exec:cat >'${join(folder, "state")}'` });
  await waitForMigrationStatus(vm.qmp, ["completed"], { timeoutMs: TIMEOUT_MS });
  await copyDisk(vm.disk, join(folder, "disk.raw"));
}
