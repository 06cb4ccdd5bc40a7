import type { FormCounts } from "../../../src/compact/encoder.ts";
import { PAGE_BYTES } from "../../../src/control/samples.ts";
import type { MigrationProgress } from "../../../src/qemu/migrate.ts";

/** What a sampler reads, to be changed as a migration would change it. */
export function sampled() {
  const none = () => ({ bodies: 0, bodyBytes: 0, wireBytes: 0 });
  return {
    sender: {
      counts: noForms(),
      nackedPages: 0,
      tokenBytes: 0,
      rawBytes: 0,
      bodies: { none: none(), lz4: none(), zstd: none() },
      restoring: { bytesPerSecond: 0, heldMs: 0 },
    },
    sentPages: { distinctPages: 0, redirtiedPages: 0, nextRound: () => {} },
    peer: { wireBytes: 0, backlog: { goodputBytesPerSecond: 2e7, minRttMs: 0.5 } },
  };
}

export function noForms(): FormCounts {
  return {
    zeroPages: 0,
    diskPages: 0,
    checkpointPages: 0,
    samePages: 0,
    deltaPages: 0,
    deltaBytes: 0,
    literalPages: 0,
    blankPages: 0,
    rawPages: 0,
    rawBytes: 0,
  };
}

/** QEMU's answer about a guest of 1000 pages, but for what is given. */
export function aProgress(given: Partial<MigrationProgress>): MigrationProgress {
  return {
    status: "active",
    ramRemainingBytes: 0,
    ramTransferredBytes: 0,
    ramTotalBytes: 1000 * PAGE_BYTES,
    dirtySyncCount: 1,
    dirtyPagesRatePagesPerSecond: 0,
    pageSizeBytes: PAGE_BYTES,
    normalPages: 0,
    zeroPages: 0,
    sentPages: 0,
    throttlePercent: 0,
    bytesPerSecond: 2e7,
    expectedDowntimeMs: null,
    downtimeMs: null,
    totalTimeMs: null,
    setupTimeMs: null,
    errorDesc: null,
    ...given,
  };
}
