/** What it costs to go on after a lost connection, over links of several round trips: both ends in this process, no QEMU. */
import { once } from "node:events";
import { connectionsOverTls } from "../test/unit/support/relayed.ts";
import { type Resume, Session } from "../test/unit/support/session.ts";
import { median, pageRecords, streamHead, table } from "./support.ts";

const ROUND_TRIPS_MS = [0, 10, 40, 100];
/** Times that the connection is reset, for each round trip. */
const RESETS = 9;
/** Goes over the link between two resets. */
const BYTES_BETWEEN = 4_000_000;

/** One resume. */
interface Figures {
  /** From the sender's notice of the loss until it was welcomed again, and until the destination QEMU got the next byte. */
  readonly welcomedMs: number;
  readonly restoredMs: number;
  /** Of the stream: sent and not acknowledged when the connection was lost; of that, what the receiver had not got; sent again. */
  readonly unacknowledgedBytes: number;
  readonly missingBytes: number;
  readonly againBytes: number;
}

/** Resets the connection of a session that streams, again and again. */
async function measure(roundTripMs: number): Promise<Figures[]> {
  await using link = await connectionsOverTls();
  link.relay.setUsualDelay(roundTripMs / 2);
  await using session = await Session.start({ connect: link.connect });
  const stream = new AbortController();
  const writing = write(session, stream.signal);
  let arrivedBytes = 0;
  let arrived = () => {};
  session.destination.on("data", ({ length }: Buffer) => {
    arrivedBytes += length;
    arrived();
  });
  /** When the byte behind `rawOffset` has come out. */
  const restored = (rawOffset: number) =>
    new Promise<number>((resolve) => {
      arrived = () => arrivedBytes > rawOffset && resolve(performance.now());
      arrived();
    });
  const figures: Figures[] = [];
  for (let reset = 0; reset < RESETS; reset++) {
    await restored(arrivedBytes + BYTES_BETWEEN);
    const up = nextResume(session);
    await link.relay.set({ kind: "reset" });
    const resume = await up;
    const restoredAtMs = await restored(resume.rawOffset);
    await restored(arrivedBytes + BYTES_BETWEEN / 2); // all that was lost is sent again by then
    figures.push({ ...bytesOf(session, resume), ...timesOf(resume, restoredAtMs) });
  }
  stream.abort();
  await writing;
  return figures;
}

/** The stream of a guest whose pages are all literal. */
async function write({ source }: Session, signal: AbortSignal): Promise<void> {
  source.write(streamHead());
  const records = pageRecords(256);
  while (!signal.aborted) if (!source.write(records)) await once(source, "drain", { signal }).catch(() => {});
}

async function nextResume(session: Session): Promise<Resume> {
  const before = session.resumes.length;
  while (session.resumes.length === before) await new Promise((resolve) => setImmediate(resolve));
  return session.resumes[before]!;
}

function timesOf({ downAtMs, upAtMs }: Resume, restoredAtMs: number) {
  return { welcomedMs: upAtMs - downAtMs, restoredMs: restoredAtMs - downAtMs };
}

function bytesOf({ sent, resumes }: Session, { rawOffset }: Resume) {
  const generation = resumes.length; // of the lost connection, as the first is 1
  const lost = sent.findLast((range) => range.generation === generation)!;
  const sentTo = lost.rawOffset + lost.rawBytes;
  const again = sent.filter((range) => range.generation === generation + 1 && range.rawOffset < sentTo);
  return {
    unacknowledgedBytes: sentTo - lost.ackedBytes,
    missingBytes: sentTo - rawOffset,
    againBytes: again.reduce((sum, range) => sum + Math.min(range.rawBytes, sentTo - range.rawOffset), 0),
  };
}

export async function bench(): Promise<string> {
  const head = ["round trip", "welcomed again", "first page", "unacknowledged MB", "not arrived MB", "sent again MB"];
  const rows = [head];
  for (const roundTripMs of ROUND_TRIPS_MS) {
    const figures = await measure(roundTripMs);
    const of = (pick: (figures: Figures) => number) => median(figures.map(pick));
    const time = (ms: number) =>
      `${ms.toFixed(0)} ms${roundTripMs > 0 ? ` = ${(ms / roundTripMs).toFixed(2)} round trips` : ""}`;
    const megabytes = (bytes: number) => (bytes / 1e6).toFixed(2);
    rows.push([
      `${roundTripMs} ms`,
      time(of(({ welcomedMs }) => welcomedMs)),
      time(of(({ restoredMs }) => restoredMs)),
      megabytes(of(({ unacknowledgedBytes }) => unacknowledgedBytes)),
      megabytes(of(({ missingBytes }) => missingBytes)),
      megabytes(of(({ againBytes }) => againBytes)),
    ]);
  }
  return table(rows);
}

if (import.meta.main) console.log(await bench());
