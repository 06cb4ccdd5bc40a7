import { randomUUID } from "node:crypto";
import { createHosts, type Hosts, type HostsOptions } from "./hosts.ts";
import type { QemuVersion } from "./qemus.ts";
import { startSavedVm } from "./saved-vm.ts";
import { startVm, type Vm, type VmOptions } from "./vm.ts";

/** Options of {@link startPair}: those of the source, and where the destination differs. */
export interface PairOptions
  extends Omit<VmOptions, "host" | "incoming" | "paused" | "disk" | "name" | "uuid">,
    HostsOptions {
  /** Default: the source's. */
  readonly destinationQemu?: QemuVersion;
  /** Does the destination run by itself when the migration is complete (no `-S`)? Default: false. */
  readonly destinationAutostart?: boolean;
  /** Does the guest go on from where one like it was saved, instead of booting? Default: false. See saved-vm.ts. */
  readonly saved?: boolean;
}

/** Two hosts, a VM whose guest is ready on the one, and a QEMU that waits for it on the other. */
export interface Pair extends AsyncDisposable {
  readonly hosts: Hosts;
  readonly source: Vm;
  readonly destination: Vm;
}

/** A pair whose VM can come back. */
export interface StartedPair extends Pair {
  /**
   * The pair for the way back, once this one's VM has moved: ends what is left of the source's QEMU and starts a fresh
   * one in its place that waits. The hosts have changed roles and keep their state folders. It ends with this pair.
   */
  back(): Promise<StartedPair>;
}

/** Starts the hosts, the source and the destination; all end when the pair is disposed. */
export async function startPair(options: PairOptions = {}): Promise<StartedPair> {
  await using stack = new AsyncDisposableStack();
  const hosts = stack.use(await createHosts(options));
  const uuid = randomUUID();
  const start = options.saved ? startSavedVm : startVm;
  const source = stack.use(await start({ ...options, uuid, name: "source", host: hosts.source }));
  const { disk } = source;
  const destination = stack.use(await startDestination(options, uuid, hosts, disk));
  return pairOf({ options, uuid, disk, resources: stack.move() }, hosts, source, destination);
}

/** What stays the same, however often a VM goes there and back. */
interface Journey {
  readonly options: PairOptions;
  readonly uuid: string;
  /** The VM's, shared by both hosts; it lives as long as the first source. */
  readonly disk: string;
  readonly resources: AsyncDisposableStack;
}

function pairOf(journey: Journey, hosts: Hosts, source: Vm, destination: Vm): StartedPair {
  const { options, uuid, disk, resources } = journey;
  const back = async () => {
    await source.quit();
    const { qemu = "10.0", destinationQemu = qemu } = options;
    const returning = { ...journey, options: { ...options, qemu: destinationQemu, destinationQemu: qemu } };
    const swapped = { ...hosts, source: hosts.destination, destination: hosts.source };
    const returned = resources.use(await startDestination(returning.options, uuid, swapped, disk));
    return pairOf(returning, swapped, { ...destination, name: "source" }, returned);
  };
  return { hosts, source, destination, back, [Symbol.asyncDispose]: () => resources.disposeAsync() };
}

/** Starts the QEMU that waits at the destination. */
function startDestination(options: PairOptions, uuid: string, hosts: Hosts, disk: string): Promise<Vm> {
  const { destinationQemu = options.qemu ?? "10.0", destinationAutostart = false } = options;
  const place = { name: "destination", host: hosts.destination, qemu: destinationQemu };
  return startVm({ ...options, ...place, uuid, disk, incoming: true, paused: !destinationAutostart });
}
