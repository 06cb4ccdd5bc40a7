/** The lines that stay: what has happened, in words. Pure. */
import { nameOf } from "../compact/codec.ts";
import type { Estimate } from "../control/downtime.ts";
import type {
  DestinationSummary,
  DowntimeParts,
  KeptCheckpoint,
  KnownCheckpoint,
  MigrationEvent,
  SourceSummary,
} from "../migration/events.ts";
import type { VmFacts } from "../qemu/facts.ts";
import { formatAddress } from "../wire/address.ts";
import { formatBytes, formatCount, formatDuration, formatLinkRate, oneLine } from "./format.ts";

export type Role = "source" | "destination";

/** The line on stderr for people: what happened, what it means for the VM, what to do. */
export function errorLine(message: string, vm: string, advice: string): string {
  return oneLine(`godwit: ${[message, vm, advice].filter((clause) => clause !== "").join("; ")}`);
}

/** What an event says to a reader of a log; undefined where a log is better off without it. */
export function logLine(event: MigrationEvent, role: Role): string | undefined {
  switch (event.event) {
    case "listening":
      return `listening on ${formatAddress(event)}`;
    case "connected": {
      const checkpoint = checkpointText(event.checkpoint, role);
      return role === "source"
        ? `connected to ${event.peer}, ${vmText(event.vm)}, round trip ${formatDuration(event.roundTripMs)}${checkpoint}`
        : `connected by ${event.peer}, ${vmText(event.vm)}${checkpoint}`;
    }
    case "disconnected":
      return `the connection is lost: ${event.reason}`;
    case "reconnecting":
      return event.attempt === 1 ? "connecting again" : undefined;
    case "reconnected":
      return `connected again with ${event.peer} after ${formatDuration(event.awayMs)}, connection ${event.generation}`;
    case "started":
      return `started, ${formatBytes(event.memoryBytes)} of guest memory`;
    case "round":
      return roundLine(event);
    case "decision":
      return event.isRefined ? undefined : oneLine(event.reason);
    case "predicted":
      return predictedText(event);
    case "codec":
      return `compression is now ${nameOf(event)}: ${event.reason}`;
    case "switchover":
      return `switchover after ${formatDuration(event.elapsedMs)}: the guest is stopped at the source`;
    case "loaded":
      return `loaded at the destination, ${formatDuration(event.loadMs)} after its last byte`;
    case "committed":
      return role === "source" ? "handed over: the destination may run the VM" : "taken over: the VM is ours";
    case "running":
      return event.isPaused
        ? "the VM is paused at the destination, as it was at the source"
        : `the VM runs at the destination, ${formatDuration(event.resumeMs)} after it was handed over`;
    case "keeping":
      return event.readBytes === 0 ? "keeping a checkpoint of the VM here" : undefined;
    case "checkpoint":
      return checkpointLine(event);
    case "summary":
      return event.role === "source" ? sourceSummary(event).join("\n") : destinationSummary(event).join("\n");
    default:
      return undefined;
  }
}

function checkpointLine({ id, pages, bytes, ms }: KeptCheckpoint): string {
  const size = `${formatCount(pages)} pages, ${formatBytes(bytes)} on the disk`;
  return `checkpoint ${id} is kept here for when the VM comes back: ${size}, in ${formatDuration(ms)}`;
}

function vmText({ qemuVersion: { major, minor, micro }, machineType, memoryBytes, name }: VmFacts): string {
  const named = name === null ? "" : `${name}, `;
  return oneLine(`${named}QEMU ${major}.${minor}.${micro}, ${machineType}, ${formatBytes(memoryBytes)}`);
}

function checkpointText(checkpoint: KnownCheckpoint | null, role: Role): string {
  if (checkpoint === null) return "";
  return `; a checkpoint of it ${role === "source" ? "there" : "here"} has ${formatCount(checkpoint.pages)} pages`;
}

function roundLine(event: Extract<MigrationEvent, { event: "round" }>): string {
  const { round, ms, pages, rawBytes, wireBytes, remainingBytes } = event;
  const rate = ms > 0 ? ` (${formatLinkRate((wireBytes * 1000) / ms)})` : "";
  const traffic = `${formatBytes(rawBytes)} as ${formatBytes(wireBytes)} on the wire${rate}`;
  const what = `${formatCount(pages)} pages in ${formatDuration(ms)}, ${traffic}`;
  return `${roundName(round)}: ${what}${remainingBytes === null ? "" : `, ${formatBytes(remainingBytes)} left`}`;
}

/** `expected: downtime 690 ms (550 ms to 810 ms), total 12.3 s (11.9 s to 13.0 s)`. */
export function predictedText(event: Extract<MigrationEvent, { event: "predicted" }>): string {
  const { downtimeMs, totalMs, isAtBest } = event;
  const total = totalMs === null ? "" : `, total ${estimateText(totalMs)}`;
  return `expected${isAtBest ? " at best" : ""}: downtime ${estimateText(downtimeMs)}${total}`;
}

function estimateText({ expected, low, high }: Estimate): string {
  return `${formatDuration(expected)} (${formatDuration(low)} to ${formatDuration(high)})`;
}

export function roundName(round: number): string {
  return round === 0 ? "round 0 (bulk)" : `round ${round}`;
}

function sourceSummary(summary: SourceSummary): string[] {
  const { status, totalMs, rounds, wireBytes, rawBytes, memoryBytes, downtimeMs, downtimeParts } = summary;
  if (status !== "completed") return [endedLine(summary)];
  const isPaused = downtimeMs === null || downtimeParts === null;
  const ratio = wireBytes > 0 ? ` (${(rawBytes / wireBytes).toFixed(1)} : 1)` : "";
  return [
    `completed: the VM ${isPaused ? "is paused" : "runs"} at the destination`,
    `  total     ${formatDuration(totalMs)}, ${rounds} ${rounds === 1 ? "round" : "rounds"}${expectedTotalText(summary)}`,
    `  downtime  ${isPaused ? "none, the VM was paused already" : downtimeText(downtimeMs, downtimeParts)}`,
    ...(isPaused ? [] : expectedDowntimeLines(summary)),
    `  bytes     ${formatBytes(rawBytes)} -> ${formatBytes(wireBytes)} on the wire${ratio}`,
    `  memory    ${formatBytes(memoryBytes)}, pages sent: ${pagesText(summary)}`,
    ...savedLines(summary),
    `  cost      ${cpuText(summary.cpuSeconds)}`,
  ];
}

function destinationSummary(summary: DestinationSummary): string[] {
  const { status, totalMs, wireBytes, rawBytes, loadMs, resumeMs } = summary;
  if (status !== "completed") return [endedLine(summary)];
  const parts = [`load ${formatDuration(loadMs ?? 0)}`, `resume ${formatDuration(resumeMs ?? 0)}`];
  return [
    "completed: the VM is here",
    `  total     ${formatDuration(totalMs)}, waiting included`,
    `  downtime  ${parts.join(", ")}; godwit send knows all of it`,
    `  bytes     ${formatBytes(wireBytes)} on the wire -> ${formatBytes(rawBytes)}`,
    `  cost      ${cpuText(summary.cpuSeconds)}`,
  ];
}

function endedLine({ status, totalMs, wireBytes }: SourceSummary | DestinationSummary): string {
  const sent = wireBytes > 0 ? `, ${formatBytes(wireBytes)} on the wire` : "";
  return `${status === "in-doubt" ? "in doubt" : status} after ${formatDuration(totalMs)}${sent}`;
}

const PART_NAMES: Readonly<Record<keyof DowntimeParts, string>> = {
  residualMs: "residual",
  transferMs: "transfer",
  loadMs: "load",
  handoffMs: "hand-off",
  resumeMs: "resume",
};

function partsText(msOf: (part: keyof DowntimeParts) => number): string {
  const parts = Object.keys(PART_NAMES) as (keyof DowntimeParts)[];
  return parts.map((part) => `${PART_NAMES[part]} ${formatDuration(msOf(part))}`).join(", ");
}

function downtimeText(downtimeMs: number, parts: DowntimeParts): string {
  return `${formatDuration(downtimeMs)}: ${partsText((part) => parts[part])}`;
}

/** `; expected after 4.0 s: 6.5 s (6.0 s to 7.1 s)`. */
function expectedTotalText({ predictedTotalMs }: SourceSummary): string {
  if (predictedTotalMs === null) return "";
  return `; expected after ${formatDuration(predictedTotalMs.atMs)}: ${estimateText(predictedTotalMs)}`;
}

/** What the downtime was expected to be just before the guest was stopped. */
function expectedDowntimeLines({ predictedDowntimeMs, predictedDowntimeParts: parts }: SourceSummary): string[] {
  if (predictedDowntimeMs === null) return [];
  const byPart = parts === null ? "" : `: ${partsText((part) => parts[part].expected)}`;
  return [`  expected  ${estimateText(predictedDowntimeMs)}${byPart}`];
}

/** What was not sent, by form; and how what was left was compressed. */
function savedLines({ savedBytes, packing }: SourceSummary): string[] {
  const lines: string[] = [];
  if (savedBytes !== null) {
    const { inVain, ...forms } = savedBytes;
    const parts = Object.entries(forms).filter(([, bytes]) => bytes > 0);
    const total = parts.reduce((sum, [, bytes]) => sum + bytes, -inVain);
    const texts = parts.map(([form, bytes]) => `${form} ${formatBytes(bytes)}`);
    if (inVain > 0) texts.push(`less ${formatBytes(inVain)} in vain`);
    if (parts.length > 0) lines.push(`  saved     ${formatBytes(total)}: ${texts.join(", ")}`);
  }
  if (packing !== null) lines.push(`  packing   ${nameOf(packing)}: ${packing.reason}`);
  return lines;
}

/** `2.1 s of CPU time here, of it encode 0.62 s`. */
function cpuText({ total, ...parts }: Readonly<{ total: number } & Record<string, number>>): string {
  const texts = Object.entries(parts).map(([part, seconds]) => `${part} ${formatDuration(seconds * 1000)}`);
  return `${formatDuration(total * 1000)} of CPU time, of it ${texts.join(", ")}`;
}

function pagesText({ pages, deltaBytes, nackedPages }: SourceSummary): string {
  const forms = {
    zero: pages.zeroPages,
    disk: pages.diskPages,
    checkpoint: pages.checkpointPages,
    same: pages.samePages,
    [`delta (${formatBytes(deltaBytes)})`]: pages.deltaPages,
    literal: pages.literalPages,
    blank: pages.blankPages,
    raw: pages.rawPages,
  };
  const sent = Object.entries(forms)
    .filter(([form, pages]) => pages > 0 || form === "zero" || form === "literal")
    .map(([form, pages]) => `${formatCount(pages)} ${form}`)
    .join(", ");
  return nackedPages > 0 ? `${sent}; ${formatCount(nackedPages)} referred to in vain` : sent;
}
