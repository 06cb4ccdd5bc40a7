/** The evaluation as a section of docs/benchmarks.md. */

import type { Checked } from "../../src/control/simulation/check.ts";
import { median } from "../support.ts";
import { CASES, isOther } from "./cases.ts";
import { type Run, STOCK_LIMIT_MS } from "./run.ts";
import {
  errorMs,
  errorShare,
  isDowntimeRight,
  isInside,
  isTotalRight,
  type Prediction,
  RIGHT_FROM_MS,
  type Score,
} from "./score.ts";

export type Scored = Run & { readonly score: Score | null };

/** Downtime is to be at most so many times the best there was. */
const NEAR_BEST = 1.15;

export function report(runs: readonly Scored[]): string {
  const ours = runs.filter(({ mover }) => mover === "godwit");
  return [sumsOf(ours, runs), tableOf(runs)].join("\n\n");
}

function sumsOf(ours: readonly Scored[], runs: readonly Scored[]): string {
  const scores = ours.flatMap(({ score }) => score ?? []);
  const downtimes = scores.flatMap(({ downtime }) => downtime ?? []);
  const totals = scores.flatMap(({ total }) => total ?? []);
  const ended = ours.filter(({ hasEnded }) => hasEnded).length;
  const well = runs.filter(({ guestError }) => guestError === null).length;
  const checks = scores.flatMap(({ check }) => check ?? []);
  return markdown([
    ["what", "wanted", "measured"],
    ["migrations by godwit that ended", "all", `${ended} of ${ours.length}`],
    ["guests found well afterwards, stock's too", "all", `${well} of ${runs.length}`],
    [
      "downtime / the best in hindsight, simulated until the trace's end",
      `≤ ${NEAR_BEST}`,
      regrets(ours, ({ bestMs }) => bestMs),
    ],
    ["the same, until two minutes or more later", "", regrets(ours, ({ bestLaterMs }) => bestLaterMs)],
    ["downtime / the best of the trace's own syncs", "", regrets(ours, ({ bestSeenMs }) => bestSeenMs)],
    ["total time, where stock QEMU ends", "≤ stock's", againstStock(runs)],
    ["predicted downtime within 12 % or 50 ms", "nine of ten", shareOf(downtimes, isDowntimeRight)],
    [
      `… error: of those up to ${whole(RIGHT_FROM_MS)} ms, of longer ones`,
      "≤ 50 ms, ≤ 12 %",
      `${errorsMs(downtimes.filter(({ measured }) => measured <= RIGHT_FROM_MS))}; ${errorShares(downtimes.filter(({ measured }) => measured > RIGHT_FROM_MS))}`,
    ],
    ["… inside their interval", "nine of ten", shareOf(downtimes, isInside)],
    ["predicted total time, two rounds through, within 12 %", "nine of ten", shareOf(totals, isTotalRight)],
    ["… error", "≤ 12 %", errorShares(totals)],
    ["… inside their interval", "nine of ten", shareOf(totals, isInside)],
    ["error of the simulation: downtime", "", errors(checks.flatMap(({ downtimeMs }) => downtimeMs ?? []))],
    ["… of total time", "", errors(checks.map(({ totalMs }) => totalMs))],
    ["… of bytes on the wire", "", errors(checks.map(({ wireBytes }) => wireBytes))],
  ]);
}

function shareOf(predictions: readonly Prediction[], holds: (prediction: Prediction) => boolean): string {
  const count = predictions.filter(holds).length;
  return `${count} of ${predictions.length} (${percent(count / Math.max(1, predictions.length))})`;
}

function errorsMs(predictions: readonly Prediction[]): string {
  const [p50, p90] = [0.5, 0.9].map((share) => quantile(predictions.map(errorMs), share));
  return predictions.length === 0 ? "-" : `median ${whole(p50!)} ms, 90th percentile ${whole(p90!)} ms`;
}

function errorShares(predictions: readonly Prediction[]): string {
  const [p50, p90] = [0.5, 0.9].map((share) => percent(quantile(predictions.map(errorShare), share)));
  return predictions.length === 0 ? "-" : `median ${p50}, 90th percentile ${p90}`;
}

/** Cases in which stock QEMU ended, by the medians of both. */
function againstStock(runs: readonly Scored[]): string {
  const lost: string[] = [];
  let cases = 0;
  for (const name of CASES.keys()) {
    const of = (mover: Run["mover"]) =>
      runs.filter((run) => run.case === name && run.mover === mover && run.hasEnded).map(({ totalMs }) => totalMs);
    const [ours, stock] = [of("godwit"), of("stock")];
    if (ours.length === 0 || stock.length === 0) continue;
    cases++;
    if (median(ours) > median(stock)) lost.push(`${name} (${seconds(median(ours))} s, ${seconds(median(stock))} s)`);
  }
  return `${cases - lost.length} of ${cases} cases${lost.length > 0 ? `; not ${lost.join(", ")}` : ""}`;
}

/** Downtimes as multiples of a best one. */
function regrets(ours: readonly Scored[], bestOf: (score: Score) => number | null): string {
  const ratios = ours.flatMap(({ downtimeMs, score }) => {
    const bestMs = score && bestOf(score);
    return downtimeMs === null || bestMs === null ? [] : downtimeMs / bestMs;
  });
  const near = ratios.filter((ratio) => ratio <= NEAR_BEST).length;
  const [p50, p90] = [0.5, 0.9].map((share) => decimal(quantile(ratios, share)));
  return `median ${p50}, nine of ten ≤ ${p90}; ${near} of ${ratios.length} within ${NEAR_BEST}`;
}

function errors(checked: readonly Checked[]): string {
  const shares = checked.map(({ error }) => Math.abs(error));
  return `median ${percent(quantile(shares, 0.5))}, nine of ten ≤ ${percent(quantile(shares, 0.9))}`;
}

const HEAD = [
  ...["case", "total s", "predicted", "downtime ms", "predicted", "best", "best seen", "blackout ms", "MB", "rounds"],
  ...["stock: total s", "downtime ms", "MB"],
];

/** A case a line, with the runs of it in turn. */
function tableOf(runs: readonly Scored[]): string {
  const rows = [...CASES.keys()].flatMap((name) => {
    const of = (mover: Run["mover"]) =>
      runs.filter((run) => run.case === name && run.mover === mover).sort((a, b) => a.run - b.run);
    const [ours, stock] = [of("godwit"), of("stock")];
    return ours.length + stock.length > 0 ? [[name, ...oursOf(ours), ...stockOf(stock)]] : [];
  });
  return markdown([HEAD, ...rows]);
}

function oursOf(runs: readonly Scored[]): string[] {
  const cell = (of: (run: Scored) => string) => runs.map(of).join(", ");
  return [
    cell(endingOf),
    cell(({ score }) => (score?.total ? seconds(score.total.expected) : "-")),
    cell(({ downtimeMs }) => whole(downtimeMs)),
    cell(({ score }) => whole(score?.downtime?.expected ?? null)),
    cell(({ score }) => whole(score?.bestMs ?? null)),
    cell(({ score }) => whole(score?.bestSeenMs ?? null)),
    cell(({ blackoutMs }) => whole(blackoutMs)),
    cell(({ wireBytes }) => megabytes(wireBytes)),
    cell(({ rounds }) => (rounds === null ? "-" : `${rounds}`)),
  ];
}

function stockOf(runs: readonly Scored[]): string[] {
  const cell = (of: (run: Scored) => string) => runs.map(of).join(", ");
  return [cell(endingOf), cell(({ downtimeMs }) => whole(downtimeMs)), cell(({ wireBytes }) => megabytes(wireBytes))];
}

function endingOf({ mover, hasEnded, totalMs, guestError }: Scored): string {
  const limit = mover === "stock" ? whole(STOCK_LIMIT_MS / 1000) : seconds(totalMs);
  const ending = hasEnded ? seconds(totalMs) : `not in ${limit}`;
  return guestError === null ? ending : `${ending}, guest broken`;
}

/** The workloads, for those who read the table. */
export function legend(): string {
  const rows = [...CASES.values()].filter((one) => !isOther(one)).map(({ name, workload }) => [name, workload.what]);
  return markdown([["case", "the guest"], ...rows]);
}

function markdown(rows: readonly (readonly string[])[]): string {
  const lines = rows.map((cells) => `| ${cells.join(" | ")} |`);
  return [lines[0], `|${"---|".repeat(rows[0]!.length)}`, ...lines.slice(1)].join("\n");
}

/** The least value that such a share of them do not exceed; NaN of none. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN;
}

function percent(share: number): string {
  return Number.isNaN(share) ? "-" : `${(share * 100).toFixed(0)} %`;
}

function decimal(value: number): string {
  return Number.isNaN(value) ? "-" : value.toFixed(2);
}

function seconds(ms: number): string {
  return (ms / 1000).toFixed(2);
}

function megabytes(bytes: number): string {
  return (bytes / 1e6).toFixed(0);
}

function whole(ms: number | null): string {
  return ms === null ? "-" : ms.toFixed(0);
}
