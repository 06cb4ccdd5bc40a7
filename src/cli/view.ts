/** The live view of a migration, as a state that events advance and lines that are drawn from it. Pure. */

import { nameOf, type Packing } from "../compact/codec.ts";
import type { MigrationEvent, Progress } from "../migration/events.ts";
import { PAGE_BYTES } from "../stream/format.ts";
import {
  formatByteRate,
  formatBytes,
  formatCount,
  formatDuration,
  formatLinkRate,
  formatWait,
  oneLine,
} from "./format.ts";
import { predictedText, type Role, roundName } from "./lines.ts";

const BAR_WIDTH = 24;
const WAITING = "waiting for godwit send";

type Predicted = Extract<MigrationEvent, { event: "predicted" }>;
type Receiving = Extract<MigrationEvent, { event: "receiving" }>;

/**
 * What the view knows.
 *
 * Nobody knows how many rounds there will be, so the bar is of one round: from what there was to send when it began, down to
 * nothing. It never runs backwards; the next round has a bar of its own.
 */
export interface ViewState {
  readonly role: Role;
  /** What is under way, where there is nothing to measure; null while memory moves. */
  readonly headline: string | null;
  readonly progress: Progress | undefined;
  readonly receiving: Receiving | undefined;
  /** How batches are compressed, once that was changed. */
  readonly packing: Packing | undefined;
  /** What the policy expects, and why it has decided as it did last. */
  readonly predicted: Predicted | undefined;
  readonly reason: string | undefined;
  /** What there was to send when the round began. */
  readonly roundBytes: number;
  /** The least that was left of it so far. */
  readonly roundLeftBytes: number;
  /** What is done about the connection while there is none. */
  readonly away: string | null;
}

export function initialView(role: Role): ViewState {
  const headline = role === "source" ? "connecting" : "starting";
  return {
    role,
    headline,
    progress: undefined,
    receiving: undefined,
    packing: undefined,
    predicted: undefined,
    reason: undefined,
    roundBytes: 0,
    roundLeftBytes: 0,
    away: null,
  };
}

export function advanceView(view: ViewState, event: MigrationEvent): ViewState {
  switch (event.event) {
    case "listening":
      return { ...view, headline: WAITING };
    case "connected":
      return { ...view, headline: view.role === "source" ? "preparing" : "waiting for the first bytes" };
    case "disconnected":
      return { ...view, away: "the connection is lost" };
    case "reconnecting":
      return { ...view, away: `the connection is lost, attempt ${formatCount(event.attempt)} to connect again` };
    case "reconnected":
      return { ...view, away: null };
    case "progress":
      return advanceProgress(view, event);
    case "receiving":
      return { ...view, headline: null, receiving: event };
    case "codec":
      return { ...view, packing: event };
    case "predicted":
      return { ...view, predicted: event };
    case "decision":
      return { ...view, reason: event.reason };
    case "switchover":
      return { ...view, headline: "the guest is stopped, the rest is on its way" };
    case "loaded":
      return { ...view, headline: "the destination has loaded the VM, handing over" };
    case "committed":
      return {
        ...view,
        headline: view.role === "source" ? "handed over, waiting for the destination" : "starting the VM",
      };
    case "running":
      return { ...view, headline: "the VM is at the destination" };
    case "keeping":
      return { ...view, headline: `the VM is at the destination; keeping a checkpoint of it: ${keptText(event)}` };
    case "error":
      // The destination goes on listening unless the summary follows.
      return view.role === "source" ? view : { ...initialView("destination"), headline: WAITING };
    default:
      return view;
  }
}

function keptText({ readBytes, totalBytes }: Extract<MigrationEvent, { event: "keeping" }>): string {
  return `${Math.floor((readBytes / Math.max(totalBytes, 1)) * 100)} % of ${formatBytes(totalBytes)}`;
}

function advanceProgress(view: ViewState, progress: Progress): ViewState {
  const { round, remainingBytes, totalBytes, wwsBytes } = progress;
  // After the switch-over there may be one more: the headline stays.
  const headline = view.headline === null || view.progress === undefined ? null : view.headline;
  if (view.progress?.round === round) {
    return { ...view, headline, progress, roundLeftBytes: Math.min(view.roundLeftBytes, remainingBytes) };
  }
  const roundBytes = round === 0 ? totalBytes : Math.max(wwsBytes ?? 0, remainingBytes);
  return { ...view, headline, progress, roundBytes, roundLeftBytes: Math.min(roundBytes, remainingBytes) };
}

/** The view as lines without colours, none longer than `columns`. */
export function renderView(view: ViewState, columns: number): string[] {
  return lines(view).map((line) => line.slice(0, Math.max(1, columns - 1)));
}

function lines(view: ViewState): string[] {
  return view.away === null ? stateLines(view) : [view.away, ...stateLines(view)];
}

function stateLines(view: ViewState): string[] {
  const { headline, progress, receiving, packing, predicted, reason, roundBytes, roundLeftBytes } = view;
  if (headline !== null) return [headline];
  if (receiving !== undefined) return receivingLines(receiving);
  if (progress === undefined) return [];
  const { round, remainingBytes, wwsBytes, linkBytesPerSecond, effectiveBytesPerSecond } = progress;
  const left = `${formatBytes(remainingBytes)} left (${formatCount(remainingBytes / PAGE_BYTES)} pages)`;
  const dirtied = `the guest dirties ${formatCount(progress.dirtyRatePagesPerSecond)} pages/s`;
  return [
    `${roundName(round).padEnd(14)} ${bar(roundBytes > 0 ? 1 - roundLeftBytes / roundBytes : 1)}`,
    wwsBytes === null
      ? `${left} of ${formatBytes(roundBytes)}`
      : `${left} of a working set of ${formatBytes(wwsBytes)}, ${dirtied}`,
    `link ${formatLinkRate(linkBytesPerSecond)}, effective ${formatByteRate(effectiveBytesPerSecond)} of guest memory${packing === undefined ? "" : `, compression ${nameOf(packing)}`}`,
    `${formatDuration(progress.elapsedMs)}, ${formatCount(sentPages(progress))} pages as ${formatBytes(progress.wireBytes)} on the wire${endText(view)}`,
    // Before the first round has ended nothing is known of the load.
    ...(wwsBytes !== null && predicted !== undefined ? [predictedText(predicted)] : []),
    ...(wwsBytes !== null && reason !== undefined ? [oneLine(reason)] : []),
  ];
}

function receivingLines({ elapsedMs, rawBytes, wireBytes, linkBytesPerSecond }: Receiving): string[] {
  return [
    `receiving, link ${formatLinkRate(linkBytesPerSecond)}`,
    `${formatDuration(elapsedMs)}, ${formatBytes(wireBytes)} on the wire, ${formatBytes(rawBytes)} into QEMU`,
  ];
}

function sentPages({ pages }: Progress): number {
  return Object.values(pages).reduce((sum, count) => sum + count, 0);
}

function bar(fraction: number): string {
  // Rounded down: 100 % is said when nothing is left.
  const filled = Math.floor(fraction * BAR_WIDTH);
  return `[${"#".repeat(filled)}${"-".repeat(BAR_WIDTH - filled)}] ${String(Math.floor(fraction * 100)).padStart(3)} %`;
}

/** QEMU does not know what the guest dirties before the bulk round has ended: until then only that end can be told. */
function endText({ progress, predicted }: ViewState): string {
  if (progress === undefined) return "";
  const { expectedEndMs, wwsBytes } = progress;
  const isBulk = wwsBytes === null;
  // What the policy foresees is told below, and knows more.
  if (!isBulk && predicted !== undefined && predicted.totalMs !== null) return "";
  if (expectedEndMs === null) return isBulk ? ", measuring" : ", the guest dirties memory as fast as it is sent";
  return `, ${isBulk ? "round ends" : "ends"} in ${formatWait(expectedEndMs)}`;
}
