/** What is said at the destination of how a session has ended. */
import { GodwitError } from "../errors.ts";
import type { CpuMeter } from "./costs.ts";
import type { DestinationSummary, Status } from "./events.ts";
import type { StreamReceiver } from "./receiver.ts";

/** What a summary is made of. */
export interface SummaryParts {
  readonly session: string;
  readonly wireBytes: number;
  readonly receiver: Pick<StreamReceiver, "rawBytes" | "counts" | "nackedPages" | "unpackMs">;
  readonly cpu: CpuMeter;
  readonly loadMs: number | null;
  readonly resumeMs: number | null;
}

/** @param parts absent where there was no stream */
export function destinationSummary(status: Status, totalMs: number, parts?: SummaryParts): DestinationSummary {
  const { receiver, cpu } = parts ?? {};
  return {
    event: "summary",
    role: "destination",
    status,
    session: parts?.session ?? null,
    totalMs,
    wireBytes: parts?.wireBytes ?? 0,
    rawBytes: receiver?.rawBytes ?? 0,
    diskPages: receiver?.counts.diskPages ?? 0,
    checkpointPages: receiver?.counts.checkpointPages ?? 0,
    samePages: receiver?.counts.samePages ?? 0,
    deltaPages: receiver?.counts.deltaPages ?? 0,
    nackedPages: receiver?.nackedPages ?? 0,
    cpuSeconds: { total: cpu?.seconds ?? 0, unpack: (receiver?.unpackMs ?? 0) / 1000 },
    loadMs: parts?.loadMs ?? null,
    resumeMs: parts?.resumeMs ?? null,
  };
}

/** The error of a session whose QEMU has ended. */
export function destinationIsGone(cause: GodwitError): GodwitError {
  const message = "the destination QEMU ended: it refused the stream, or was killed";
  return new GodwitError("MIGRATION_DESTINATION_GONE", message, {}, { cause });
}
