/**
 * `npm run demo`: a busy Debian guest moves from one host to another, first with stock QEMU alone, then through godwit, over
 * the same link; a table at the end. Both hosts are network namespaces on this machine.
 */
import Table from "cli-table3";
import { openReporter } from "../src/cli/reporter.ts";
import type { DowntimeParts, SourceSummary } from "../src/migration/events.ts";
import { accelerator } from "./accelerator.ts";
import { blackoutOf, startMigration } from "./godwit.ts";
import { type Pair, type PairOptions, startPair } from "./pair.ts";
import { type StockResult, stockMigration } from "./stock.ts";
import { cleanWalks } from "./walks.ts";

const RATE_BITS_PER_SECOND = 500e6;
const IS_ROOT = process.getuid?.() === 0;
/** A guest that has read its root file system, and changes a word in each of 64 MiB of pages, 2,000 pages a second. */
const VM = { memoryMiB: 1024, cached: true, load: { mib: 64, pagesPerSecond: 2000, pattern: "word" } } as const;

/** A link with a rate needs root; where even root may have none (in most containers), the link is unshaped. */
async function pair(): Promise<Pair> {
  const options: PairOptions = VM;
  const started = await startPair(options);
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

async function godwit(): Promise<{ summary: SourceSummary; blackoutMs: number; link: string }> {
  say("Now godwit: booting the guest on host A");
  await using hosts = await pair();
  say("godwit receive on host B, godwit send on host A");
  const { onEvent, drained } = openReporter("source", false);
  await using migration = await startMigration(hosts, { onEvent });
  const { code, stderr } = await migration.send.exited;
  await drained();
  if (code !== 0) throw new Error(stderr.trim());
  const blackoutMs = await blackoutOf(hosts);
  await cleanWalks(hosts.destination, 1);
  console.log("the guest checked all its pages: whole");
  const link = hosts.hosts.isolated ? "500 Mbit/s" : "unshaped loopback";
  return { summary: migration.send.events.at(-1) as SourceSummary, blackoutMs, link };
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
  return keys.map((key) => `${PARTS[key]} ${parts[key].toFixed(0)}`).join(", ");
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(2)} s`;
}

function mebibytes(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(0)} MiB`;
}

console.log(
  `Guests run with ${await accelerator()}${IS_ROOT ? "" : "; not root: both hosts share this machine's loopback"}.`,
);
const before = await stock();
const { summary, blackoutMs, link } = await godwit();

const table = new Table({ head: ["", "stock QEMU 10.0", "godwit"], style: { head: [], border: [] } });
table.push(
  ["guest memory", mebibytes(summary.memoryBytes), mebibytes(summary.memoryBytes)],
  ["bytes on the wire", mebibytes(before.rawBytes), mebibytes(summary.wireBytes)],
  ["total time", seconds(before.totalMs), seconds(summary.totalMs)],
  ["rounds", String(before.rounds), String(summary.rounds)],
  ["downtime", `${before.downtimeMs} ms`, `${summary.downtimeMs!.toFixed(0)} ms`],
  ["  by its parts, ms", "QEMU does not tell", partsText(summary.downtimeParts!)],
  ["blackout seen from outside", `${before.blackoutMs.toFixed(0)} ms`, `${blackoutMs.toFixed(0)} ms`],
  ["encrypted", "no", "TLS 1.3"],
);
say(`The same guest under the same load, link ${link}`);
console.log(table.toString());
