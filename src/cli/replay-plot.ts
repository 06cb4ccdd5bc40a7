/** Plots as SVG, without a library: a few hundred lines and dots at most. Pure. */
import type { Policy } from "../control/policy.ts";
import type { Case, Score } from "../control/simulation/compare.ts";
import { simulate } from "../control/simulation/engine.ts";
import { formatBytes, formatDuration } from "./format.ts";

const WIDTH = 1000;
const LEFT = 250;
const RIGHT = 170;
const ROW = 18;
const TOP = 40;
/** Distinguishable with most kinds of colour blindness (Okabe and Ito). */
const COLOURS = [
  "#d55e00",
  "#0072b2",
  "#009e73",
  "#cc79a7",
  "#e69f00",
  "#56b4e9",
  "#000000",
  "#999999",
  "#b3a000",
  "#7030a0",
];

/** One workload: what remains over time. More: the downtime of each, a dot a policy. */
export function plotOf(
  cases: readonly Case[],
  policies: Readonly<Record<string, () => Policy>>,
  scores: readonly Score[],
): string {
  return cases.length === 1 ? remainingPlot(cases[0]!, policies) : downtimePlot(scores);
}

function downtimePlot(scores: readonly Score[]): string {
  const workloads = [...new Set(scores.map(({ workload }) => workload))];
  const names = [...new Set(scores.map(({ policy }) => policy))];
  const ended = scores.filter(({ downtimeMs }) => downtimeMs !== null);
  const least = Math.min(...ended.map(({ downtimeMs }) => downtimeMs!), 10);
  const most = Math.max(...ended.map(({ downtimeMs }) => downtimeMs!), 1000);
  const x = (ms: number) => LEFT + (Math.log(ms / least) / Math.log(most / least)) * (WIDTH - LEFT - RIGHT);
  const y = (row: number) => TOP + (row + 0.5) * ROW;
  const height = y(workloads.length);
  const ticks = powersOfTen(least, most).map((ms) => gridLine(x(ms), height, formatDuration(ms)));
  const rows = workloads.map((workload, row) => text(LEFT - 8, y(row) + 4, workload, "end"));
  const dots = ended.map(({ workload, policy, downtimeMs }) => {
    const title = `<title>${escaped(`${workload}, ${policy}: ${formatDuration(downtimeMs!)}`)}</title>`;
    const place = `cx="${x(downtimeMs!).toFixed(1)}" cy="${y(workloads.indexOf(workload)).toFixed(1)}"`;
    return `<circle ${place} r="4" fill="${colourOf(names, policy)}" fill-opacity="0.75">${title}</circle>`;
  });
  return svg(height + 20, [title("downtime, where the migration ended"), ...ticks, ...rows, ...dots, ...legend(names)]);
}

function remainingPlot({ name, scenarios }: Case, policies: Readonly<Record<string, () => Policy>>): string {
  const names = Object.keys(policies);
  const height = 420;
  const lines = names.map((policy) => {
    const points: { atMs: number; bytes: number }[] = [];
    const run = simulate(scenarios[0]!, policies[policy]!(), {
      onTick: ({ atMs, remainingBytes }) => void points.push({ atMs, bytes: remainingBytes }),
      onRound: ({ atMs, remainingBytes }) => void points.push({ atMs, bytes: remainingBytes }),
    });
    return {
      policy,
      points: thinned(points),
      end: run.ending === "switched" ? { atMs: run.totalMs, bytes: run.residualBytes } : undefined,
    };
  });
  const lastMs = Math.max(...lines.flatMap(({ end, points }) => (end ?? points.at(-1) ?? { atMs: 1 }).atMs));
  const most = scenarios[0]!.workload.memoryBytes;
  const least = most / 2 ** 20;
  const x = (ms: number) => 100 + (ms / lastMs) * (WIDTH - 100 - RIGHT);
  const y = (bytes: number) =>
    height - (Math.log(Math.max(bytes, least) / least) / Math.log(most / least)) * (height - TOP);
  const steps = [0, 0.25, 0.5, 0.75, 1].map((share) =>
    gridLine(x(share * lastMs), height, formatDuration(share * lastMs)),
  );
  const levels = [0, 5, 10, 15, 20].map((power) =>
    text(92, y(least * 2 ** power) + 4, formatBytes(least * 2 ** power), "end"),
  );
  const drawn = lines.map(({ policy, points, end }) => {
    const path = points.map(({ atMs, bytes }) => `${x(atMs).toFixed(1)},${y(bytes).toFixed(1)}`).join(" ");
    const stroke = colourOf(names, policy);
    const dot =
      end === undefined
        ? ""
        : `<circle cx="${x(end.atMs).toFixed(1)}" cy="${y(end.bytes).toFixed(1)}" r="5" fill="${stroke}"/>`;
    return `<polyline points="${path}" fill="none" stroke="${stroke}" stroke-opacity="0.8"/>${dot}`;
  });
  return svg(height + 40, [
    title(`${name}: what remains; a dot where it was switched over`),
    ...steps,
    ...levels,
    ...drawn,
    ...legend(names),
  ]);
}

/** At most 2,000 points; between them nothing is to be seen. */
function thinned<T>(points: readonly T[]): T[] {
  const every = Math.ceil(points.length / 2000);
  return points.filter((_, i) => i % every === 0);
}

function powersOfTen(from: number, to: number): number[] {
  const first = Math.ceil(Math.log10(from));
  return Array.from({ length: Math.floor(Math.log10(to)) - first + 1 }, (_, i) => 10 ** (first + i));
}

function legend(names: readonly string[]): string[] {
  return names.map((name, i) => {
    const y = TOP + 10 + i * ROW;
    const mark = `<circle cx="${WIDTH - RIGHT + 20}" cy="${y - 4}" r="4" fill="${colourOf(names, name)}"/>`;
    return mark + text(WIDTH - RIGHT + 30, y, name, "start");
  });
}

function colourOf(names: readonly string[], name: string): string {
  return COLOURS[names.indexOf(name) % COLOURS.length]!;
}

function gridLine(x: number, height: number, label: string): string {
  const at = x.toFixed(1);
  return `<line x1="${at}" x2="${at}" y1="${TOP}" y2="${height}" stroke="#ddd"/>${text(x, height + 14, label, "middle")}`;
}

function title(words: string): string {
  return text(10, 20, words, "start");
}

function text(x: number, y: number, words: string, anchor: "start" | "middle" | "end"): string {
  return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" text-anchor="${anchor}">${escaped(words)}</text>`;
}

function escaped(words: string): string {
  return words.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

function svg(height: number, parts: readonly string[]): string {
  const size = `width="${WIDTH}" height="${height}" viewBox="0 0 ${WIDTH} ${height}"`;
  const head = `<svg xmlns="http://www.w3.org/2000/svg" ${size} font-family="sans-serif" font-size="12">`;
  return `${head}\n<rect width="100%" height="100%" fill="white"/>\n${parts.join("\n")}\n</svg>\n`;
}
