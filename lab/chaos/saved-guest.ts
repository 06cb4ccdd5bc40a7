import { join } from "node:path";
import { waitForMigrationStatus } from "../../src/qemu/migrate.ts";
import { accelerator } from "../accelerator.ts";
import { cached } from "../cache.ts";
import { copyDisk, guest } from "../guest.ts";
import type { Host } from "../hosts.ts";
import { qemuFolder } from "../qemus.ts";
import { startVm, type Vm, type VmOptions } from "../vm.ts";
import { cleanWalks } from "../walks.ts";

/** A guest that has booted and works: a VM goes on from it in a second, where booting takes ten. */
export interface SavedGuest {
  /** As QEMU's `migrate` wrote it. */
  readonly state: string;
  readonly disk: string;
}

/** What the VM is; the QEMUs that take it have the same. */
export const VM = {
  uuid: "6f0d3f4e-6f77-4974-8000-676f64776977",
  memoryMiB: 256,
  machine: "q35",
  load: { mib: 32, pagesPerSecond: 1500, pattern: "word" },
} as const satisfies VmOptions;

const SAVE_TIMEOUT_MS = 60_000;

/** The guest, booted and saved when the cache does not hold it. */
export async function savedGuest(): Promise<SavedGuest> {
  const recipe = { qemu: await qemuFolder("10.0"), guest: await guest(), accelerator: await accelerator(), VM };
  const folder = await cached("saved-guest", recipe, save);
  return { state: join(folder, "state"), disk: join(folder, "disk.raw") };
}

async function save(folder: string): Promise<void> {
  await using vm = await startVm({ ...VM, name: "saved" });
  await cleanWalks(vm, 1);
  await vm.qmp.execute("stop");
  await vm.qmp.execute("migrate-set-capabilities", { capabilities: [{ capability: "events", state: true }] });
  await vm.qmp.execute("migrate-set-parameters", { "max-bandwidth": 0 });
  await vm.qmp.execute("migrate", { uri: `exec:cat >'${join(folder, "state")}'` });
  await waitForMigrationStatus(vm.qmp, ["completed"], { timeoutMs: SAVE_TIMEOUT_MS });
  await copyDisk(vm.disk, join(folder, "disk.raw"));
}

/** A QEMU that has taken in the saved guest and holds it; `cont` lets it go on. It writes to a disk of its own. */
export async function startSaved({ state, disk }: SavedGuest, host: Host, ownDisk: string): Promise<Vm> {
  await using stack = new AsyncDisposableStack();
  await copyDisk(disk, ownDisk);
  const vm = stack.use(await startVm({ ...VM, name: "source", host, disk: ownDisk, incoming: true }));
  await vm.qmp.execute("migrate-set-capabilities", { capabilities: [{ capability: "events", state: true }] });
  await vm.qmp.execute("migrate-incoming", { uri: `exec:cat '${state}'` });
  await waitForMigrationStatus(vm.qmp, ["completed"], { timeoutMs: SAVE_TIMEOUT_MS });
  stack.move();
  return vm;
}
