import { join } from "node:path";
import { waitForMigrationStatus } from "../src/qemu/migrate.ts";
import { accelerator } from "./accelerator.ts";
import { cached } from "./cache.ts";
import { copyDisk, guest, overlayDisk } from "./guest.ts";
import { temporaryFolder } from "./leftovers.ts";
import { qemuFolder } from "./qemus.ts";
import { startVm, type Vm, type VmOptions } from "./vm.ts";

const TIMEOUT_MS = 60_000;

/** What of the options makes another guest; the others say where and in what it runs. */
type GuestOptions = Omit<
  VmOptions,
  "name" | "host" | "uuid" | "disk" | "diskFormat" | "incoming" | "paused" | "booting"
>;

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
  const { qemu = "10.0", machine, memoryMiB, preallocated, cpus, load, cached: isCached, extraArgs } = options;
  const guestOptions = { qemu, machine, memoryMiB, preallocated, cpus, load, cached: isCached, extraArgs };
  // JSON leaves out what is undefined, and so does the type.
  const wanted = JSON.parse(JSON.stringify(guestOptions)) as GuestOptions;
  const from = { qemu: await qemuFolder(qemu), guest: await guest(), accelerator: await accelerator() };
  const folder = await cached("saved", { ...from, wanted }, (folder) => save(wanted, folder));
  return { state: join(folder, "state"), disk: join(folder, "disk.raw") };
}

async function save(options: GuestOptions, folder: string): Promise<void> {
  await using vm = await startVm({ ...options, name: "saved" });
  await vm.qmp.execute("stop");
  await vm.qmp.execute("migrate-set-parameters", { "max-bandwidth": 0 });
  await vm.qmp.execute("migrate", { uri: `exec:cat >'${join(folder, "state")}'` });
  await waitForMigrationStatus(vm.qmp, ["completed"], { timeoutMs: TIMEOUT_MS });
  await copyDisk(vm.disk, join(folder, "disk.raw"));
}
