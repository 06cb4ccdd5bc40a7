/** What `godwit plan` has to say. Pure. */
import type { Estimate } from "../control/downtime.ts";
import type { Outcome } from "../control/planning/prediction.ts";
import type { PlanReport } from "../migration/plan/plan.ts";
import { formatBytes, formatCount, formatDuration, formatLinkRate, oneLine } from "./format.ts";
import { table } from "./table.ts";

/** Whether what was asked for will be kept: by nearly all draws of what was measured, by most of them, or not. */
export type Verdict = "yes" | "likely" | "no";

const SURE_SHARE = 0.9;
const LIKELY_SHARE = 0.5;
const PAGE_BYTES = 4096;

export function verdictOf({ keepShare }: Outcome): Verdict {
  if (keepShare >= SURE_SHARE) return "yes";
  return keepShare >= LIKELY_SHARE ? "likely" : "no";
}

/** The report as one JSON document; docs/commands.md has its fields. */
export function planDocument(report: PlanReport) {
  const { vm, isPaused, promises, link, findings, shares, changedBytesPerPage, unknownDisks, prediction } = report;
  const { goodputBytesPerSecond, roundTripMs, windows, sample, disks } = findings;
  return {
    verdict: verdictOf(prediction.asked),
    vm,
    isPaused,
    promises,
    measured: {
      goodputBytesPerSecond,
      roundTripMs,
      stretchesBytesPerSecond: link?.stretchesBytesPerSecond ?? null,
      windows,
      samplePages: sample.clusters.reduce((sum, { pages }) => sum + pages, 0),
      zeroShare: shares.zero,
      diskShare: shares.disk,
      restShare: shares.rest,
      restBytesPerPage: shares.restBytesPerPage,
      changedPages: sample.changed.pages,
      changedBytesPerPage,
      disks,
      unknownDisks,
      earlierMigrations: findings.earlier.length,
    },
    predicted: prediction.asked,
    leastDowntime: prediction.free,
    throttled: prediction.throttled ?? null,
    stock: prediction.stock,
  };
}

/** The report for people. */
export function planLines(report: PlanReport): string[] {
  const { vm, isPaused } = report;
  const name = vm.name === null ? "the VM" : oneLine(vm.name);
  const state = isPaused ? ", paused" : "";
  return [
    `${name}, ${formatBytes(vm.memoryBytes)} of memory${state}`,
    "",
    ...measuredLines(report),
    "",
    ...predictedLines(report.prediction.asked),
    "",
    ...verdictLines(report),
  ].map((line) => line.trimEnd());
}

function measuredLines({ findings, link, shares, changedBytesPerPage, unknownDisks, isPaused }: PlanReport): string[] {
  const { goodputBytesPerSecond, roundTripMs, windows, sample } = findings;
  const linkText = `${formatLinkRate(goodputBytesPerSecond.expected)}${range(goodputBytesPerSecond, formatLinkRate)}`;
  const trip = link === null ? "as given" : `round trip ${formatDuration(roundTripMs.expected)}`;
  const onDisk = findings.disks === "indexed" ? [`${percent(shares.disk)} on a disk`] : [];
  const rest = `${percent(shares.rest)} else, packed to ${percent(shares.restBytesPerPage.zstd / PAGE_BYTES)}`;
  const seen = sample.clusters.reduce((sum, { pages }) => sum + pages, 0);
  const lines = [
    ["link", `${linkText}, ${trip}`],
    ["memory", [`${percent(shares.zero)} zero`, ...onDisk, rest, `by ${formatCount(seen)} pages`].join(", ")],
  ];
  if (!isPaused) {
    const rates = [...new Map(windows.map((window) => [window.windowMs, window])).values()]
      .sort((a, b) => a.windowMs - b.windowMs)
      .map(({ windowMs, pages }) => `${formatBytes(pages * PAGE_BYTES)} in ${formatDuration(windowMs)}`);
    lines.push(["written", `${rates.join(", ")}; a page of it takes ${Math.round(changedBytesPerPage)} bytes`]);
  }
  if (unknownDisks.length > 0) {
    const ids = unknownDisks.map(oneLine).join(", ");
    lines.push(["disks", `${ids}: no index, so less may be sent (godwit index makes one)`]);
  }
  return [
    "measured",
    ...table(
      lines.map(([title, text]) => [`  ${title}`, text!]),
      2,
    ),
  ];
}

function predictedLines({ totalMs, downtimeMs, wireBytes, rounds }: Outcome): string[] {
  const row = (title: string, estimate: Estimate | null, format: (value: number) => string): string[] => {
    if (estimate === null) return [title, "none", ""];
    return [title, format(estimate.expected), `${format(estimate.low)} to ${format(estimate.high)}`];
  };
  return table(
    [
      ["predicted", "expected", "nine of ten"],
      row("  total time", totalMs, formatDuration),
      row("  downtime", downtimeMs, formatDuration),
      row("  sent", wireBytes, formatBytes),
      row("  rounds", rounds, (value) => String(Math.round(value))),
    ],
    1,
  );
}

function verdictLines({ promises, prediction, isPaused }: PlanReport): string[] {
  const { asked, free, throttled, stock } = prediction;
  const { maxDowntimeMs, deadlineMs, maxBytes } = promises;
  const verdict = verdictOf(asked);
  const lines: string[] = [];
  const least = free.downtimeMs === null ? "none" : withRange(free.downtimeMs, formatDuration);
  if (isPaused) lines.push("The guest is paused, so nothing is written, and there is no downtime.");
  else if (maxDowntimeMs === undefined) lines.push(`It ends. The smallest downtime in reach is ${least}.`);
  else {
    const answer = isWithin(free.downtimeMs, maxDowntimeMs, verdict);
    lines.push(`With --max-downtime ${formatDuration(maxDowntimeMs)}: ${answer}; the smallest in reach is ${least}.`);
  }
  if (deadlineMs !== undefined) {
    const time = withRange(asked.totalMs, formatDuration);
    lines.push(
      `With --deadline ${formatDuration(deadlineMs)}: ${isWithin(asked.totalMs, deadlineMs, verdict)}; it takes ${time}.`,
    );
  }
  if (maxBytes !== undefined) {
    const sent = withRange(asked.wireBytes, formatBytes);
    lines.push(
      `With --max-bytes ${formatBytes(maxBytes)}: ${isWithin(asked.wireBytes, maxBytes, verdict)}; it sends ${sent}.`,
    );
  }
  if (throttled !== undefined) lines.push(`With --on-stall throttle: ${throttleText(throttled)}.`);
  if (!isPaused) lines.push(`QEMU's own rule (300 ms) over this link: ${stockText(stock)}.`);
  return lines;
}

function isWithin(estimate: Estimate | null, limit: number, verdict: Verdict): Verdict {
  if (estimate === null || estimate.expected > limit) return "no";
  return estimate.high <= limit ? "yes" : verdict === "no" ? "no" : "likely";
}

function throttleText(outcome: Outcome): string {
  const { throttlePercent, downtimeMs } = outcome;
  if (verdictOf(outcome) === "no") return "no, not with a throttled guest either";
  const by = `the guest throttled by up to ${Math.round(throttlePercent.expected)} %`;
  return `${verdictOf(outcome)}, ${by}${downtimeMs === null ? "" : `, ${formatDuration(downtimeMs.expected)}`}`;
}

function stockText({ endShare, downtimeMs }: Outcome): string {
  if (endShare < LIKELY_SHARE || downtimeMs === null) return "never ends";
  const downtime = `downtime ${withRange(downtimeMs, formatDuration)}`;
  return endShare < SURE_SHARE ? `may never end, else ${downtime}` : downtime;
}

function withRange(estimate: Estimate, format: (value: number) => string): string {
  return `${format(estimate.expected)}${range(estimate, format)}`;
}

function range({ low, high }: Estimate, format: (value: number) => string): string {
  return ` (${format(low)} to ${format(high)})`;
}

function percent(share: number): string {
  return `${Math.round(share * 100)} %`;
}
