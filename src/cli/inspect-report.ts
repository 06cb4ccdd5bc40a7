import { PAGE_FORMS, type PageCounts, type PageForm, sumOf } from "../stream/inspection.ts";
import { formatBytes, formatCount, oneLine } from "./format.ts";
import type { StreamReport } from "./inspect-stream.ts";
import { table } from "./table.ts";

const FORM_TITLES: Readonly<Record<PageForm, string>> = {
  zero: "zero",
  literal: "literal",
  blank: "blank",
  namedZero: "zero (named)",
  namedPage: "page (named)",
  filled: "filled",
  xbzrle: "xbzrle",
  compressed: "compressed",
};

const SENT_TITLES: Readonly<Record<keyof StreamReport["pageFormat"]["pages"], string>> = {
  zeroPages: "zero",
  diskPages: "disk",
  checkpointPages: "checkpoint",
  samePages: "same",
  deltaPages: "delta",
  literalPages: "literal",
  blankPages: "blank",
  rawPages: "raw",
};

const BYTE_TITLES: Readonly<Record<keyof StreamReport["byteCounts"], string>> = {
  pages: "pages: zero, literal, blank",
  rawPages: "pages: all other forms",
  ramFraming: "framing of pages",
  live: "other live sections",
  devices: "devices",
  commands: "commands",
  description: "VM description",
  configuration: "configuration and end",
  lost: "not understood",
  cutOff: "cut off",
};

/** The report for people. */
export function reportLines(name: string, report: StreamReport): string[] {
  const state = report.isComplete ? "complete" : "CUT OFF";
  const machine = report.machine === null ? "" : ` of ${report.machine}`;
  const paragraphs = [
    [`${name}: QEMU migration stream${machine}, ${formatBytes(report.bytes)}, ${state}`],
    report.ramblocks.length > 0 ? ramblocks(report) : [],
    report.rounds.length > 0 ? rounds(report) : [],
    report.sections.length > 0 ? sections(report) : [],
    byteTable(report),
    [commands(report), description(report), ...losses(report), trailing(report)].filter((line) => line !== ""),
    pageFormat(report),
  ];
  return paragraphs
    .filter((lines) => lines.length > 0)
    .flatMap((lines, i) => (i === 0 ? lines : ["", ...lines]))
    .map((line) => line.trimEnd());
}

function ramblocks({ ramblocks, pages, leftOut }: StreamReport): string[] {
  const forms = formsOf(pages);
  return [
    ...table([
      ["ramblock", "size", "pages", ...forms.map((form) => FORM_TITLES[form])],
      ...ramblocks.map(({ name, lengthBytes, pages }) => [
        oneLine(name),
        lengthBytes === null ? "unknown" : formatBytes(lengthBytes),
        ...pageCells(pages, forms),
      ]),
      ...(ramblocks.length > 1 ? [["together", "", ...pageCells(pages, forms)]] : []),
    ]),
    ...more(leftOut.ramblocks),
  ];
}

function rounds({ rounds, pages, leftOut }: StreamReport): string[] {
  const forms = formsOf(pages);
  return [
    ...table([
      ["round (at least)", "bytes", "pages", ...forms.map((form) => FORM_TITLES[form])],
      ...rounds.map(({ round, bytes, pages }) => [String(round), formatBytes(bytes), ...pageCells(pages, forms)]),
    ]),
    ...more(leftOut.rounds),
  ];
}

function sections({ sections, leftOut }: StreamReport): string[] {
  return [
    ...table(
      [
        ["section", "kind", "instance", "version", "parts", "bytes"],
        ...sections.map(({ kind, name, instance, version, parts, bytes, isEnded }) => [
          oneLine(name),
          isEnded ? kind : `${kind}, no end`,
          String(instance),
          String(version),
          kind === "device" ? "" : String(parts),
          formatCount(bytes),
        ]),
      ],
      2,
    ),
    ...more(leftOut.sections),
  ];
}

function byteTable({ byteCounts, bytes }: StreamReport): string[] {
  const kinds = (Object.keys(BYTE_TITLES) as (keyof typeof BYTE_TITLES)[]).filter((kind) => byteCounts[kind] > 0);
  return table([
    ["bytes of the stream", "", ""],
    ...kinds.map((kind) => [BYTE_TITLES[kind], formatCount(byteCounts[kind]), percent(byteCounts[kind], bytes)]),
    ["together", formatCount(bytes), ""],
  ]);
}

function commands({ commands, leftOut }: StreamReport): string {
  if (commands.length === 0) return "";
  const counts = new Map<string, number>();
  for (const { command } of commands) counts.set(command, (counts.get(command) ?? 0) + 1);
  const texts = [...counts].map(([command, count]) => (count === 1 ? command : `${command} × ${count}`));
  return `commands: ${texts.join(", ")}${leftOut.commands > 0 ? ` and ${formatCount(leftOut.commands)} more` : ""}`;
}

function description({ description }: StreamReport): string {
  if (description === null) return "VM description: none";
  const { bytes, state, devices, notFound, notDescribed } = description;
  const head = `VM description: ${formatBytes(bytes)}`;
  if (state !== "read") return `${head}, ${state}`;
  const differences = [
    notFound.length > 0 ? `not found: ${oneLine(notFound.join(", "))}` : "",
    notDescribed.length > 0 ? `not described: ${oneLine(notDescribed.join(", "))}` : "",
  ].filter((text) => text !== "");
  return `${head}, ${devices} devices, ${differences.join("; ") || "the same as found"}`;
}

function losses({ lost, leftOut }: StreamReport): string[] {
  const texts = lost.map(({ offset, why, foundOffset }) => {
    const found = foundOffset === null ? "to the end" : `found again at ${formatCount(foundOffset)}`;
    return `lost at ${formatCount(offset)}: ${oneLine(why)}; ${found}`;
  });
  return [...texts, ...more(leftOut.lost)];
}

function trailing({ trailingBytes }: StreamReport): string {
  return trailingBytes === 0 ? "" : `${formatCount(trailingBytes)} bytes follow the end of the stream`;
}

function pageFormat({ pageFormat, bytes }: StreamReport): string[] {
  const { version, batches, tokenBytes, payloadBytes, zstdBytes, pages } = pageFormat;
  const bodyBytes = tokenBytes + payloadBytes;
  const forms = (Object.keys(SENT_TITLES) as (keyof typeof SENT_TITLES)[])
    .filter((form) => pages[form] > 0)
    .map((form) => `${formatCount(pages[form])} ${SENT_TITLES[form]}`);
  const share = (part: number) => `${formatBytes(part)} (${percent(part, bytes)})`;
  return [
    `in page format ${version}: ${share(bodyBytes)}, ${formatBytes(tokenBytes)} of it tokens, in ${formatCount(batches)} batches`,
    ...(forms.length === 0 ? [] : [`its pages: ${forms.join(", ")}`]),
    ...(zstdBytes === null ? [] : [`packed with zstd: ${share(zstdBytes)}`]),
  ];
}

function formsOf(pages: PageCounts): PageForm[] {
  return PAGE_FORMS.filter((form) => pages[form] > 0);
}

function pageCells(pages: PageCounts, forms: readonly PageForm[]): string[] {
  return [sumOf(pages), ...forms.map((form) => pages[form])].map(formatCount);
}

function percent(part: number, whole: number): string {
  return `${((part / whole) * 100).toFixed(1)} %`;
}

function more(leftOut: number): string[] {
  return leftOut > 0 ? [`and ${formatCount(leftOut)} more`] : [];
}
