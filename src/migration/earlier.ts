import type { EarlierMigration } from "../control/downtime.ts";
import { TraceReader } from "../control/trace.ts";
import type { HistoryStore, TraceEnds } from "../store/history.ts";

/** A VM is not what it was so many migrations ago. */
const MAX_EARLIER = 8;

/** What the last migrations of a VM came to, of those that were completed; the newest first. What can't be read is left out. */
export async function earlierMigrations(history: HistoryStore, identity: string): Promise<EarlierMigration[]> {
  const earlier: EarlierMigration[] = [];
  for await (const ends of history.ends(identity)) {
    const one = earlierOf(ends, identity);
    if (one !== undefined) earlier.push(one);
    if (earlier.length === MAX_EARLIER) break;
  }
  return earlier;
}

function earlierOf({ first, last }: TraceEnds, identity: string): EarlierMigration | undefined {
  try {
    const reader = new TraceReader();
    reader.push(first);
    reader.push(last);
    const { header, outcome } = reader.finish();
    const isIt = header.identity === identity && outcome?.status === "completed";
    if (!isIt || outcome.downtimeParts === null) return undefined;
    return { parts: outcome.downtimeParts, roundTripMs: outcome.roundTripMs ?? header.roundTripMs ?? 0 };
  } catch {
    return undefined;
  }
}
