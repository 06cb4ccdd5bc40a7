import type { FuzzTarget } from "./target.ts";
import { BODY_TARGETS } from "./targets/bodies.ts";
import { PACKING_TARGETS } from "./targets/packing.ts";
import { PEER_TARGETS } from "./targets/peers.ts";
import { QEMU_TARGETS } from "./targets/qemu.ts";
import { RECEIVER_TARGETS } from "./targets/receivers.ts";
import { RECORD_TARGETS } from "./targets/records.ts";
import { STORE_TARGETS } from "./targets/store.ts";
import { STREAM_TARGETS } from "./targets/stream.ts";
import { TEXT_TARGETS } from "./targets/texts.ts";
import { WIRE_TARGETS } from "./targets/wire.ts";

/** Everything that reads what came from elsewhere. */
export const TARGETS: readonly FuzzTarget[] = [
  ...WIRE_TARGETS,
  ...PEER_TARGETS,
  ...RECEIVER_TARGETS,
  ...BODY_TARGETS,
  ...PACKING_TARGETS,
  ...STREAM_TARGETS,
  ...QEMU_TARGETS,
  ...STORE_TARGETS,
  ...RECORD_TARGETS,
  ...TEXT_TARGETS,
];

/** How many of all bytes a target is fed. */
export function bytesFor({ share }: FuzzTarget, bytes: number): number {
  return Math.ceil((bytes * share) / TARGETS.reduce((sum, target) => sum + target.share, 0));
}
