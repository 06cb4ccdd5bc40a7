import type { Packing } from "../compact/codec.ts";
import type { FormCounts } from "../compact/encoder.ts";
import type { Estimate, PredictedParts } from "../control/downtime.ts";
import type { Decision } from "../control/policy.ts";
import type { VmFacts } from "../qemu/facts.ts";
import type { Codec, OfferedCheckpoint } from "../wire/messages.ts";
import type { SavedBytes } from "./costs.ts";
import type { CodecCounts } from "./outgoing.ts";
import type { Predicted } from "./predictions.ts";
import type { DiskIndexSummary } from "./source-disks.ts";

/** How a migration can end. docs/commands.md says what each means for the VM, and its exit code. */
export type Status =
  /** The VM runs at the destination (or is paused there, if it was paused before). */
  | "completed"
  /** Nothing was touched: something did not match or could not be reached. */
  | "refused"
  /** It went wrong, and the VM is at the source as before. */
  | "failed"
  /** A person ended it, and the VM is at the source as before. */
  | "cancelled"
  /** The link broke between COMMIT and the destination's answer: the source stays stopped until a person has looked. */
  | "in-doubt";

/** Where the downtime went, in order; the sum is downtimeMs. docs/commands.md has the definitions. */
export interface DowntimeParts {
  /** vCPUs stopped → last byte of pages and device state read from the source QEMU. */
  residualMs: number;
  /** … → the last byte written into the destination QEMU. */
  transferMs: number;
  /** … → the destination QEMU has loaded it all. */
  loadMs: number;
  /** … → COMMIT received at the destination: the source QEMU's own end, and the round trip. */
  handoffMs: number;
  /** … → the destination's vCPUs run. */
  resumeMs: number;
}

/** Pages by the form in which they were sent. */
export type Pages = Omit<FormCounts, "rawBytes" | "deltaBytes">;

/** A view of a running migration, a few times a second. Rates are over the last second. */
export interface Progress {
  elapsedMs: number;
  /** 0 is the bulk round. */
  round: number;
  /** Sent so far. */
  pages: Pages;
  rawBytes: number;
  wireBytes: number;
  /** QEMU's estimate of the guest memory still to send. */
  remainingBytes: number;
  totalBytes: number;
  /** TCP payload, both ways. */
  linkBytesPerSecond: number;
  /** Guest memory that was dealt with, zero pages included. */
  effectiveBytesPerSecond: number;
  /** Guest memory dirtied during the last round; null before the first sync. */
  wwsBytes: number | null;
  dirtyRatePagesPerSecond: number;
  /** Until the end at these rates; null while the guest dirties memory as fast as it can be sent. */
  expectedEndMs: number | null;
}

/** The checkpoint that the source keeps of a VM that has left. */
export interface KeptCheckpoint {
  id: string;
  /** Those that are not all zero. */
  pages: number;
  /** What it takes on the disk, without what it has in common with older checkpoints. */
  bytes: number;
  /** How long it took, after the migration. */
  ms: number;
}

export interface SourceSummary extends Predicted {
  event: "summary";
  role: "source";
  status: Status;
  session: string;
  totalMs: number;
  /** Null where the guest was not stopped, or was stopped already. */
  downtimeMs: number | null;
  downtimeParts: DowntimeParts | null;
  /** Guest memory that was sent from the last sync with the guest running on; null unless it was stopped. */
  residualBytes: number | null;
  /** What has decided about the switch-over. */
  policy: string;
  wireBytes: number;
  rawBytes: number;
  /** Rounds begun, the bulk round included. */
  rounds: number;
  memoryBytes: number;
  pages: Pages;
  /** What `pages.deltaPages` were sent as, before it was packed. */
  deltaBytes: number;
  /** Of the pages of disks and checkpoints those that the destination did not find there: they were sent whole after all. */
  nackedPages: number;
  diskIndex: DiskIndexSummary;
  /** Batches sent, by codec. */
  bodies: Readonly<Partial<Record<Codec, CodecCounts>>>;
  /** How bodies were packed at the end, and why; null where nothing was sent. */
  packing: (Packing & { reason: string }) | null;
  /** Null where nothing was sent. */
  savedBytes: SavedBytes | null;
  /** CPU time of this end: all of its process; of that, parsing, looking pages up and encoding; and packing. */
  cpuSeconds: { total: number; encode: number; pack: number };
  roundTripMs: number | null;
  /** Null if none was kept. */
  checkpoint: KeptCheckpoint | null;
}

export interface DestinationSummary {
  event: "summary";
  role: "destination";
  status: Status;
  session: string | null;
  totalMs: number;
  wireBytes: number;
  rawBytes: number;
  /** Pages that came as references to disks and checkpoints, and those of them that had to be sent all the same. */
  diskPages: number;
  checkpointPages: number;
  nackedPages: number;
  /** Pages that were made from what the page cache held. */
  samePages: number;
  deltaPages: number;
  /** CPU time of this end, since it got the connection: all of its process; of that, unpacking. */
  cpuSeconds: { total: number; unpack: number };
  loadMs: number | null;
  resumeMs: number | null;
}

export type KnownCheckpoint = Pick<OfferedCheckpoint, "id" | "pages" | "createdMs">;

export type MigrationEvent =
  | { event: "listening"; host: string; port: number }
  | {
      event: "connected";
      session: string;
      peer: string;
      vm: VmFacts;
      roundTripMs: number;
      /** Of this VM, at the destination: pages that stand in it are sent as references. */
      checkpoint: KnownCheckpoint | null;
    }
  /** The connection is lost: the guest runs on, and nothing is sent, until there is another one. */
  | { event: "disconnected"; reason: string }
  /** Another one is tried. */
  | { event: "reconnecting"; attempt: number }
  | { event: "reconnected"; generation: number; peer: string; awayMs: number }
  | { event: "started"; memoryBytes: number }
  /** A round has ended: what was sent in it. */
  | {
      event: "round";
      round: number;
      ms: number;
      pages: number;
      rawBytes: number;
      wireBytes: number;
      /** Left for the next one; null where the next look came, or the guest was stopped, before QEMU had said it. */
      remainingBytes: number | null;
    }
  | ({ event: "progress" } & Progress)
  | { event: "receiving"; elapsedMs: number; rawBytes: number; wireBytes: number; linkBytesPerSecond: number }
  /** The policy has decided; `isRefined`: as before, with other figures. */
  | ({ event: "decision"; elapsedMs: number; isRefined: boolean } & Decision)
  /** What the policy now expects; `isAtBest`: if no more is left than is accepted now, as it may be. */
  | {
      event: "predicted";
      elapsedMs: number;
      isAtBest: boolean;
      downtimeMs: Estimate;
      downtimeParts: PredictedParts | null;
      totalMs: Estimate | null;
    }
  /** Bodies are packed in another way from now on, and why. */
  | { event: "codec"; codec: Codec; level: number; reason: string }
  | { event: "switchover"; elapsedMs: number }
  | { event: "loaded"; loadMs: number }
  | { event: "committed" }
  | { event: "running"; resumeMs: number; isPaused: boolean }
  /** The VM has left, and a checkpoint of it is being kept: a few times a second. */
  | { event: "keeping"; elapsedMs: number; readBytes: number; totalBytes: number }
  | ({ event: "checkpoint" } & KeptCheckpoint)
  | { event: "warning"; message: string }
  /** A person ended it; `vm` says where the VM is. */
  | { event: "cancelled"; vm: string }
  | { event: "error"; code: string; message: string; vm: string; advice: string }
  | SourceSummary
  | DestinationSummary;

export type EventListener = (event: MigrationEvent) => void;
