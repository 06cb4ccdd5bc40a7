import type { CpuMeter } from "./costs.ts";
import type { Downtime } from "./downtime.ts";
import type { Pages, SourceSummary, Status } from "./events.ts";
import { NOTHING_PREDICTED } from "./predictions.ts";
import { pagesOf } from "./progress.ts";
import type { StreamSender } from "./sender.ts";
import type { SourceLink } from "./source-link.ts";
import type { SourceOffers } from "./source-offers.ts";
import type { SourceRounds } from "./source-rounds.ts";

const NO_PAGES: Pages = {
  zeroPages: 0,
  diskPages: 0,
  checkpointPages: 0,
  samePages: 0,
  deltaPages: 0,
  literalPages: 0,
  blankPages: 0,
  rawPages: 0,
};

/** What a summary is made of; what was not reached is undefined. */
export interface SummaryParts {
  readonly session: string;
  readonly policy: string | undefined;
  readonly totalMs: number;
  readonly guestRuns: boolean;
  readonly memoryBytes: number;
  readonly downtime: Downtime;
  readonly link: SourceLink | undefined;
  readonly sender: StreamSender | undefined;
  readonly rounds: SourceRounds | undefined;
  readonly offers: SourceOffers;
  readonly cpu: CpuMeter;
}

/** The summary of a migration, but for the checkpoint that may be kept behind it. */
export function sourceSummary(status: Status, parts: SummaryParts): SourceSummary {
  const { session, policy = "adaptive", totalMs, memoryBytes, link, sender, rounds, offers, cpu } = parts;
  const downtimeParts = parts.guestRuns ? parts.downtime.parts : null;
  return {
    event: "summary",
    role: "source",
    status,
    session,
    totalMs,
    downtimeMs: downtimeParts === null ? null : Object.values(downtimeParts).reduce((sum, ms) => sum + ms, 0),
    downtimeParts,
    ...(rounds?.predicted ?? NOTHING_PREDICTED),
    residualBytes: rounds?.residualBytes ?? null,
    policy,
    wireBytes: link?.wireBytes ?? 0,
    rawBytes: sender?.rawBytes ?? 0,
    rounds: rounds?.begun ?? 0,
    memoryBytes,
    pages: pagesOf(sender?.counts ?? NO_PAGES),
    deltaBytes: sender?.counts.deltaBytes ?? 0,
    nackedPages: sender?.nackedPages ?? 0,
    diskIndex: offers.diskIndex,
    bodies: sender?.bodies ?? {},
    packing: sender?.packing ?? null,
    savedBytes: sender?.savedBytes ?? null,
    cpuSeconds: {
      total: cpu.seconds,
      encode: (sender?.work.encodeMs ?? 0) / 1000,
      pack: (sender?.work.packMs ?? 0) / 1000,
    },
    roundTripMs: link?.minRttMs ?? null,
    checkpoint: null,
  };
}
