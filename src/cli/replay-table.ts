/** Scores as tables for people. Pure. */
import { medianOf } from "../control/arithmetic.ts";
import { guestLossMs, type Score } from "../control/simulation/compare.ts";
import { formatBytes, formatDuration, oneLine } from "./format.ts";

/** Every workload with every policy. */
export function scoreLines(scores: readonly Score[]): string[] {
  return table([
    ["workload", "policy", "ended", "total", "sent", "downtime", "throttled", "above the best"],
    ...scores.map((score) => [
      oneLine(score.workload),
      score.policy,
      score.ended === score.of ? "yes" : `${score.ended} of ${score.of}`,
      formatDuration(score.totalMs),
      formatBytes(score.wireBytes),
      score.downtimeMs === null ? "-" : formatDuration(score.downtimeMs),
      score.throttledMs > 0 ? formatDuration(score.throttledMs) : "-",
      score.regretMs === null ? "-" : formatDuration(Math.max(0, score.regretMs)),
    ]),
  ]);
}

/** A line a policy over all workloads; the shares are of the first policy against it, by what the guest loses. */
export function overviewLines(scores: readonly Score[]): string[] {
  const names = [...new Set(scores.map(({ policy }) => policy))];
  const [first] = names;
  const ours = scores.filter(({ policy }) => policy === first);
  const rows = names.map((name) => {
    const own = scores.filter(({ policy }) => policy === name);
    const ended = own.filter(({ ended, of }) => ended === of);
    const shares = own.map((score, i) => shareOf(guestLossMs(ours[i]!), guestLossMs(score)));
    return [
      name,
      `${ended.length} of ${own.length}`,
      formatDuration(medianOf(own.map(({ totalMs }) => totalMs))!),
      formatBytes(medianOf(own.map(({ wireBytes }) => wireBytes))!),
      ended.length === 0 ? "-" : formatDuration(medianOf(ended.map(({ downtimeMs }) => downtimeMs!))!),
      ended.length === 0 ? "-" : formatDuration(Math.max(0, medianOf(ended.map(({ regretMs }) => regretMs!))!)),
      name === first ? "" : medianOf(shares)!.toFixed(2),
      name === first ? "" : Math.max(...shares).toFixed(2),
    ];
  });
  const head = ["policy", "ended", "total", "sent", "downtime", "above the best", `${first} / it`, "at worst"];
  return [
    `${ours.length} workloads; medians, downtime of those that ended. ${first} / it: what the guest loses, stopped or throttled.`,
    "",
    ...table([head, ...rows]),
  ];
}

/** Nothing where only the other does not end. */
function shareOf(lossMs: number, otherMs: number): number {
  return Number.isFinite(lossMs) ? lossMs / otherMs : Number.POSITIVE_INFINITY;
}

/** Names to the left, the rest to the right. */
export function table(rows: readonly (readonly string[])[]): string[] {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  const leftColumns = rows[0]![1] === "policy" ? 2 : 1;
  return rows.map((row) =>
    row
      .map((cell, column) => (column < leftColumns ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!)))
      .join("  ")
      .trimEnd(),
  );
}
