import { messageOf } from "../errors.ts";
import type { VmFacts } from "../qemu/facts.ts";
import type { QmpClient } from "../qemu/qmp.ts";
import type { Hello } from "../wire/messages.ts";
import { AgreedCheckpoints } from "./agreed-checkpoints.ts";
import { AgreedDisks } from "./agreed-disks.ts";
import type { DestinationOptions } from "./destination-options.ts";
import { disksAt } from "./disk-paths.ts";
import { openDestinationDisks } from "./disk-readers.ts";
import type { Peer } from "./peer.ts";

type PlacesOptions = Pick<DestinationOptions, "openDisks" | "openCheckpoints" | "diskPaths">;

/** Where pages can be read here without their being sent: what of the source's offers is agreed to. */
export class DestinationPlaces {
  readonly #options: PlacesOptions;
  readonly #warn: (message: string) => void;
  #disks: Promise<AgreedDisks> | undefined;
  #checkpoints: Promise<AgreedCheckpoints> | undefined;

  /** @param warn is told what costs bytes, and no more */
  constructor(options: PlacesOptions, warn: (message: string) => void) {
    this.#options = options;
    this.#warn = warn;
  }

  /** Opens what the source may refer to and stands here. What is opened must be closed, also if nobody waits for this any more. */
  async open(qmp: QmpClient, { disks: wanted, checkpointPages }: Hello, source: VmFacts, own: VmFacts) {
    const { openDisks = openDestinationDisks, openCheckpoints, diskPaths = new Map() } = this.#options;
    this.#disks = AgreedDisks.open(qmp, wanted, (qmp, disks) => openDisks(qmp, disksAt(disks, diskPaths)));
    if (openCheckpoints !== undefined)
      this.#checkpoints = AgreedCheckpoints.open(openCheckpoints, source, own, checkpointPages, this.#warn);
    const { disks, missing } = await this.#disks;
    const { checkpoints, offers } = (await this.#checkpoints) ?? AgreedCheckpoints.none();
    if (missing !== null)
      this.#warn(`pages that stand on a disk are sent all the same, as it can't be read here: ${missing}`);
    return { disks, checkpoints, offers };
  }

  /** Begins to tell the source what stands in the checkpoints, from the `knownHashes`th page on. */
  tell(peer: Peer, knownHashes = 0): void {
    void this.#checkpoints?.then((checkpoints) => checkpoints.tell(peer, knownHashes));
  }

  /** The source needs no more. */
  stopTelling(): void {
    void this.#checkpoints?.then((checkpoints) => checkpoints.stopTelling());
  }

  /** Never rejects. */
  async close(): Promise<void> {
    for (const places of [await this.#disks, await this.#checkpoints])
      await places?.close().catch((error) => this.#warn(messageOf(error)));
  }
}
