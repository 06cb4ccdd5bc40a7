/** `godwit replay --check`: what simulations of recorded migrations came to beside what was measured. Pure. */
import type { Check, Checked } from "../control/simulation/check.ts";
import { formatBytes, formatDuration, oneLine } from "./format.ts";
import { table } from "./replay-table.ts";

/** A line a trace: measured, simulated and the error of each figure; then the errors over all. */
export function checkLines(checks: readonly Check[]): string[] {
  const rows = checks.map(({ trace, totalMs, wireBytes, downtimeMs, rounds, ending }) => [
    oneLine(trace),
    ...cells(totalMs, formatDuration),
    ...cells(wireBytes, formatBytes),
    ...(downtimeMs === null ? ["-", "-", ending] : cells(downtimeMs, formatDuration)),
    `${rounds.measured}, ${rounds.simulated}`,
  ]);
  const head = ["trace", "total", "simulated", "error", "sent", "simulated", "error", "downtime", "simulated", "error"];
  return [
    ...table([[...head, "rounds"], ...rows]),
    "",
    ...(["totalMs", "wireBytes", "downtimeMs"] as const).map((figure) => summaryLine(figure, checks)),
  ];
}

const NAMES = { totalMs: "total time", wireBytes: "bytes", downtimeMs: "downtime" } as const;

function summaryLine(figure: keyof typeof NAMES, checks: readonly Check[]): string {
  const errors = checks.flatMap((check) => (check[figure] === null ? [] : [check[figure].error]));
  if (errors.length === 0) return `${NAMES[figure]}: nothing to compare`;
  const sizes = errors.map(Math.abs).sort((a, b) => a - b);
  const at = (share: number) => sizes[Math.min(sizes.length - 1, Math.floor(share * sizes.length))]!;
  const bias = errors.reduce((sum, error) => sum + error, 0) / errors.length;
  return `${NAMES[figure]}: off by ${percent(at(0.5))} in the median, ${percent(at(0.9))} at the 90th percentile, ${signed(bias)} on average, of ${errors.length}`;
}

function cells({ measured, simulated, error }: Checked, format: (value: number) => string): string[] {
  return [format(measured), format(simulated), signed(error)];
}

function signed(share: number): string {
  return `${share < 0 ? "-" : "+"}${percent(Math.abs(share))}`;
}

function percent(share: number): string {
  return `${(share * 100).toFixed(1)} %`;
}
