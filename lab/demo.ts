/**
 * `npm run demo`: a busy Debian guest moves from one host to another, first with stock QEMU alone, then through godwit, over
 * the same link, and through godwit back again; a table at the end. Both hosts are network namespaces on this machine.
 */
import Table from "cli-table3";
import { openReporter } from "../src/cli/reporter.ts";
import type { DowntimeParts, SourceSummary } from "../src/migration/events.ts";
import { PAGE_BYTES } from "../src/stream/format.ts";
import { accelerator } from "./accelerator.ts";
import { blackoutOf, startMigration } from "./godwit.ts";
import { type Pair, type StartedPair, startPair } from "./pair.ts";
import { type StockResult, stockMigration } from "./stock.ts";
import { cleanWalks } from "./walks.ts";

const RATE_BITS_PER_SECOND = 500e6;
const IS_ROOT = process.getuid?.() === 0;
/** A guest that has read its root file system, and changes a word in each of 64 MiB of pages, 2,000 pages a second. */
const VM = { memoryMiB: 1024, cached: true, load: { mib: 64, pagesPerSecond: 2000, pattern: "word" } } as const;

/** A link with a rate needs root; where even root may have none (in most containers), the link is unshaped. */
async function pair(): Promise<StartedPair> {
  const started = await startPair(VM);
  if (started.hosts.isolated) await started.hosts.setRate(RATE_BITS_PER_SECOND);
  return started;
}

function say(text: string): void {
  console.log(`\n== ${text}`);
}

async function stock(): Promise<StockResult> {
  say("Stock QEMU first: booting the guest on host A");
  await using hosts = await pair();
  say("Moving it to host B with QEMU alone");
  const result = await stockMigration(hosts.source, hosts.destination);
  await cleanWalks(hosts.destination, 1);
  console.log(`done in ${seconds(result.totalMs)}; the guest checked all its pages: whole`);
  return result;
}

/** What a migration through godwit came to. */
interface Moved {
  readonly summary: SourceSummary;
  readonly blackoutMs: number;
}

async function move(pair: Pair): Promise<Moved> {
  const { onEvent, drained } = openReporter("source", false);
  await using migration = await startMigration(pair, { onEvent });
  const { code, stderr } = await migration.send.exited;
  await drained();
  if (code !== 0) throw new Error(stderr.trim());
  const blackoutMs = await blackoutOf(pair);
  await cleanWalks(pair.destination, 1);
  console.log("the guest checked all its pages: whole");
  return { summary: migration.send.events.at(-1) as SourceSummary, blackoutMs };
}

async function godwit(): Promise<{ there: Moved; back: Moved; link: string }> {
  say("Now godwit: booting the guest on host A");
  await using hosts = await pair();
  say("godwit receive on host B, godwit send on host A");
  const there = await move(hosts);
  say("And back: godwit receive on host A, which has kept a checkpoint, godwit send on host B");
  const back = await move(await hosts.back());
  return { there, back, link: hosts.hosts.isolated ? "500 Mbit/s" : "unshaped loopback" };
}

const PARTS: Readonly<Record<keyof DowntimeParts, string>> = {
  residualMs: "residual",
  transferMs: "transfer",
  loadMs: "load",
  handoffMs: "hand-off",
  resumeMs: "resume",
};

function partsText(parts: DowntimeParts): string {
  const keys = Object.keys(PARTS) as (keyof DowntimeParts)[];
  return keys.map((key) => `${PARTS[key]} ${parts[key].toFixed(0)} ms`).join("\n");
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(2)} s`;
}

function mebibytes(bytes: number): string {
  const value = bytes / 2 ** 20;
  return `${value.toFixed(value < 10 ? 1 : 0)} MiB`;
}

/** A row of the table: what stock QEMU has there, and what godwit's two migrations have. */
function row(name: string, stock: string, of: (moved: Moved) => string): string[] {
  return [name, stock, of(there), of(back)];
}

/** A row about pages that were sent in some form. */
function pagesRow(name: string, stock: string, of: (pages: SourceSummary["pages"]) => number): string[] {
  return row(name, stock, ({ summary }) => mebibytes(of(summary.pages) * PAGE_BYTES));
}

console.log(
  `Guests run with ${await accelerator()}${IS_ROOT ? "" : "; not root: both hosts share this machine's loopback"}.`,
);
const before = await stock();
const { there, back, link } = await godwit();

const head = ["", "stock QEMU 10.0", "godwit, A to B", "godwit, back to A"];
const chars = { mid: "", "left-mid": "", "mid-mid": "", "right-mid": "" }; // no lines between rows
const table = new Table({ head, chars, style: { head: [], border: [] } });
table.push(
  row("bytes on the wire", mebibytes(before.rawBytes), ({ summary }) => mebibytes(summary.wireBytes)),
  row("total time", seconds(before.totalMs), ({ summary }) => seconds(summary.totalMs)),
  row("rounds", `${before.rounds}`, ({ summary }) => `${summary.rounds}`),
  row("downtime", `${before.downtimeMs} ms`, ({ summary }) => `${summary.downtimeMs!.toFixed(0)} ms`),
  row("  by its parts", "QEMU does not tell", ({ summary }) => partsText(summary.downtimeParts!)),
  row(
    "blackout seen from outside",
    `${before.blackoutMs.toFixed(0)} ms`,
    ({ blackoutMs }) => `${blackoutMs.toFixed(0)} ms`,
  ),
  row("encrypted", "no", () => "TLS 1.3"),
  pagesRow("memory that stood on the disk", "sent all the same", (pages) => pages.diskPages),
  pagesRow("  in a checkpoint", "sent all the same", (pages) => pages.checkpointPages),
  pagesRow("  twice, or was sent before", "sent all the same", (pages) => pages.samePages + pages.deltaPages),
  pagesRow("  nowhere else: sent, compressed", "sent as it is", (pages) => pages.literalPages),
);
say(`The same guest of ${mebibytes(there.summary.memoryBytes)} under the same load, link ${link}`);
console.log(table.toString());
