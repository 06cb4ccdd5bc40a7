/** What a policy is told of a running migration. docs/trace-format.md has each field's unit and where it is measured. */

export const PAGE_BYTES = 4096;

/** Forms of a page (docs/page-format.md), and `raw`: what travels as the bytes that QEMU wrote. */
export const FORMS = ["zero", "disk", "checkpoint", "same", "delta", "kept", "literal", "blank", "raw"] as const;
export type Form = (typeof FORMS)[number];
export type ByForm = Partial<Record<Form, number>>;

/** A round that has ended, told right after the sync that ended it. */
export interface RoundSample {
  /** When it ended: ms since the start of the migration, of a monotonic clock. */
  atMs: number;
  /** 0 is the bulk round. */
  round: number;
  durationMs: number;
  /** Sent in it; a page that was sent twice counts twice. */
  pages: number;
  distinctPages: number;
  /** Of the distinct ones those that had been sent in an earlier round. */
  redirtiedPages: number;
  /** Still unsent when the sync came: QEMU syncs as soon as what is left is below its threshold. */
  leftPages: number;
  /** That the sync found dirty and that were not waiting already. */
  dirtiedPages: number;
  /** To be sent after the sync, as QEMU counts. */
  remainingBytes: number;
  wireBytes: number;
  pagesByForm: ByForm;
  wireBytesByForm: ByForm;
  goodputBytesPerSecond: number;
  roundTripMs: number | null;
  /** At which the destination put pages into its QEMU; null where it was not the one that was waited for. */
  restoreBytesPerSecond: number | null;
  /** The guest's CPUs were throttled by so much during the round. */
  throttlePercent: number;
  /** How long after the sync QEMU said what remained. */
  ageMs?: number | undefined;
}

/** A look at the migration between syncs, about ten a second. */
export interface TickSample {
  atMs: number;
  round: number;
  remainingBytes: number;
  /** QEMU's dirty-pages-rate: of its last period of a second or more that ended with a sync. */
  dirtyRatePagesPerSecond: number;
  /** QEMU's own estimate, of raw bytes over its last window of 100 ms. */
  qemuBytesPerSecond: number;
  goodputBytesPerSecond: number;
  /** Since the start. */
  wireBytes: number;
  throttlePercent: number;
  /** How long ago QEMU said what remained; what was sent since is subtracted. */
  ageMs?: number | undefined;
}

/** What is known before the first page is sent. */
export interface MigrationFacts {
  memoryBytes: number;
  /** Whether QEMU can be told its switch-over bandwidth (`avail-switchover-bandwidth`, since 8.2). */
  hasSwitchoverBandwidth: boolean;
}
