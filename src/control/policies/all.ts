import { AdaptivePolicy } from "../adaptive.ts";
import type { EarlierMigration } from "../downtime.ts";
import type { Policy } from "../policy.ts";
import type { Promises } from "../promises.ts";
import { KubevirtStall } from "./kubevirt-stall.ts";
import { CloudHypervisor, KubevirtRamp, Nova, Ovirt, Proxmox, QemuDefault, Xen } from "./shipped.ts";

/** Makes a policy for one migration. Those that others ship know no promises, and learn nothing from earlier migrations. */
export type MakePolicy = (promises?: Promises, earlier?: readonly EarlierMigration[]) => Policy;

/** By name. */
export const POLICIES: Readonly<Record<string, MakePolicy>> = {
  adaptive: (promises, earlier) => new AdaptivePolicy(promises, earlier),
  qemu: () => new QemuDefault(),
  nova: () => new Nova({ isForced: false }),
  "nova-force": () => new Nova({ isForced: true }),
  ovirt: () => new Ovirt(),
  proxmox: () => new Proxmox(),
  "kubevirt-ramp": () => new KubevirtRamp(),
  "kubevirt-stall": () => new KubevirtStall(),
  "cloud-hypervisor": () => new CloudHypervisor(),
  xen: () => new Xen(),
};
