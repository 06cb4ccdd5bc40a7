import { AdaptivePolicy } from "../adaptive.ts";
import type { Policy } from "../policy.ts";
import { KubevirtStall } from "./kubevirt-stall.ts";
import { CloudHypervisor, KubevirtRamp, Nova, Ovirt, Proxmox, QemuDefault, Xen } from "./shipped.ts";

/** By name; each migration needs one of its own. */
export const POLICIES: Readonly<Record<string, () => Policy>> = {
  adaptive: () => new AdaptivePolicy(),
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
