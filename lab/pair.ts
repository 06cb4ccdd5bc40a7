import { randomUUID } from "node:crypto";
import { createHosts, type Hosts, type HostsOptions } from "./hosts.ts";
import type { QemuVersion } from "./qemus.ts";
import { startVm, type Vm, type VmOptions } from "./vm.ts";

/** Options of {@link startPair}: those of the source, and where the destination differs. */
export interface PairOptions
  extends Omit<VmOptions, "host" | "incoming" | "paused" | "disk" | "name" | "uuid">,
    HostsOptions {
  /** Default: the source's. */
  readonly destinationQemu?: QemuVersion;
  /** Does the destination run by itself when the migration is complete (no `-S`)? Default: false. */
  readonly destinationAutostart?: boolean;
}

/** Two hosts, a VM whose guest is ready on the one, and a QEMU that waits for it on the other. */
export interface Pair extends AsyncDisposable {
  readonly hosts: Hosts;
  readonly source: Vm;
  readonly destination: Vm;
}

/** Starts the hosts, the source and the destination; all end when the pair is disposed. */
export async function startPair(options: PairOptions = {}): Promise<Pair> {
  await using stack = new AsyncDisposableStack();
  const { destinationQemu = options.qemu ?? "10.0", destinationAutostart = false, rateBitsPerSecond, ...vm } = options;
  const hosts = stack.use(await createHosts({ rateBitsPerSecond }));
  const uuid = randomUUID();
  const source = stack.use(await startVm({ ...vm, uuid, name: "source", host: hosts.source }));
  const place = { name: "destination", host: hosts.destination, qemu: destinationQemu };
  const role = { uuid, incoming: true, paused: !destinationAutostart, disk: source.disk };
  const destination = stack.use(await startVm({ ...vm, ...place, ...role }));
  const resources = stack.move();
  return { hosts, source, destination, [Symbol.asyncDispose]: () => resources.disposeAsync() };
}
