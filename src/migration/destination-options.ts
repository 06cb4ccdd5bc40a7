import type { Address } from "../wire/address.ts";
import type { Security } from "../wire/transport.ts";
import type { HeldCheckpoints } from "./agreed-checkpoints.ts";
import type { DiskOpener } from "./agreed-disks.ts";
import type { DiskPaths } from "./disk-paths.ts";
import type { EventListener } from "./events.ts";

/** What a destination is asked for with. */
export interface DestinationOptions {
  qmpPath: string;
  listen: Address;
  security: Security;
  /** Ends with the first session, however it ends. Else it goes on listening while its QEMU can still take a VM. */
  once?: boolean;
  /** Name or UUID of the only VM that is taken; absent: any that fits our QEMU. */
  vm?: string | undefined;
  /** Lets a VM come from a QEMU newer than ours. */
  allowOlderQemu?: boolean;
  /** Where disks are to be read instead of where QEMU says. */
  diskPaths?: DiskPaths | undefined;
  /** Worker threads; default: the cores to spare. */
  threads?: number;
  /** For how long a sender whose connection was lost is waited for, in milliseconds; 0: not at all. Default: RECONNECT_FOR_MS. */
  reconnectForMs?: number | undefined;
  /** What this host keeps; undefined: no journal. */
  stateDir?: string | undefined;
  /** Memory for the page cache for deltas; default: cachePagesOf. */
  deltaCacheBytes?: number | undefined;
  /** How disks are opened that pages may be read from; default: openDestinationDisks. */
  openDisks?: DiskOpener;
  /** The checkpoints of this host; without, pages are not read from any. */
  openCheckpoints?: (() => Promise<HeldCheckpoints>) | undefined;
  signal?: AbortSignal;
  onEvent: EventListener;
}
