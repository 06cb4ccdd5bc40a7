import type { Packing } from "../compact/codec.ts";
import type { Address } from "../wire/address.ts";
import type { Security } from "../wire/transport.ts";
import type { CheckpointPlace } from "./checkpoint-take.ts";
import type { EventListener } from "./events.ts";
import type { OfferOptions } from "./source-offers.ts";
import type { ControlOptions } from "./source-rounds.ts";

/** What a migration is asked for with, at the source. */
export interface SourceOptions extends OfferOptions, ControlOptions {
  qmpPath: string;
  to: Address;
  security: Security;
  /** Wire bytes per second at most, while the guest runs. */
  maxBytesPerSecond?: number | undefined;
  /** How bodies are packed; "auto", the default: by what is the bottleneck. */
  packing?: "auto" | Packing;
  /** Worker threads; default: the cores to spare. */
  threads?: number;
  /** Lets a VM go to a QEMU older than its own. */
  allowOlderQemu?: boolean;
  /** Where a checkpoint is kept of the VM once it has left; absent: none is kept. */
  keepCheckpoint?: CheckpointPlace | undefined;
  /** For how long a connection that was lost is tried to be made again, in milliseconds; 0: never. Default: RECONNECT_FOR_MS. */
  reconnectForMs?: number | undefined;
  /** Ends the source QEMU once the VM runs at the destination. */
  quit?: boolean;
  /** Aborted by a person who wants the migration to end. */
  signal?: AbortSignal;
  onEvent: EventListener;
}
