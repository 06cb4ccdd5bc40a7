/** Stock QEMU and godwit in turn (A B A B) on pairs of real QEMUs, each run with a fresh guest. */
import { blackoutOf, startMigration } from "../lab/godwit.ts";
import { type PairOptions, startPair } from "../lab/pair.ts";
import { stockMigration } from "../lab/stock.ts";
import { cleanWalks } from "../lab/walks.ts";
import type { SourceSummary } from "../src/migration/events.ts";
import { median } from "./support.ts";

export interface Result {
  wireBytes: number;
  totalMs: number;
  downtimeMs: number;
  blackoutMs: number;
}

async function stock(options: PairOptions): Promise<Result> {
  await using pair = await startPair(options);
  // Unlimited, as godwit is: QEMU's own default is 128 MiB/s.
  const result = await stockMigration(pair.source, pair.destination, { parameters: { "max-bandwidth": 0 } });
  if (options.load) await cleanWalks(pair.destination, 1);
  return { ...result, wireBytes: result.rawBytes };
}

async function godwit(options: PairOptions): Promise<Result> {
  await using pair = await startPair(options);
  await using migration = await startMigration(pair);
  const { code, stderr } = await migration.send.exited;
  if (code !== 0) throw new Error(stderr);
  const { wireBytes, totalMs, downtimeMs } = migration.send.events.at(-1) as SourceSummary;
  const result = { wireBytes, totalMs, downtimeMs: downtimeMs!, blackoutMs: await blackoutOf(pair) };
  if (options.load) await cleanWalks(pair.destination, 1);
  return result;
}

/** Rows of a table: each run, then the medians. */
export async function compare(name: string, options: PairOptions, runs: number): Promise<string[][]> {
  const rows = [[name, "MiB on the wire", "total ms", "downtime ms", "blackout ms"]];
  const results: Record<string, Result[]> = { "stock QEMU 10.0": [], godwit: [] };
  for (let run = 0; run < runs; run++) {
    for (const [who, measure] of [["stock QEMU 10.0", stock] as const, ["godwit", godwit] as const]) {
      const result = await measure(options);
      results[who]!.push(result);
      rows.push([who, ...cells(result)]);
    }
  }
  for (const [who, all] of Object.entries(results)) {
    const of = (pick: (result: Result) => number) => median(all.map(pick));
    const middle = {
      wireBytes: of((r) => r.wireBytes),
      totalMs: of((r) => r.totalMs),
      downtimeMs: of((r) => r.downtimeMs),
      blackoutMs: of((r) => r.blackoutMs),
    };
    rows.push([`${who}, median of ${runs}`, ...cells(middle)]);
  }
  return rows;
}

function cells({ wireBytes, totalMs, downtimeMs, blackoutMs }: Result): string[] {
  return [wireBytes / 2 ** 20, totalMs, downtimeMs, blackoutMs].map((value) => value.toFixed(0));
}
