/** Ways to move a VM, in turn (A B A B) on pairs of real QEMUs, each run with a fresh guest. */
import { blackoutOf, startMigration } from "../lab/godwit.ts";
import { type Pair, type PairOptions, startPair } from "../lab/pair.ts";
import { NeverEnded, STOCK_MODES, type StockOptions, stockMigration } from "../lab/stock.ts";
import type { Vm } from "../lab/vm.ts";
import { cleanWalks } from "../lab/walks.ts";
import type { SourceSummary } from "../src/migration/events.ts";
import { median } from "./support.ts";

/** What is measured of a migration; no downtime: it never ended. */
export interface Result {
  wireBytes: number;
  totalMs: number;
  downtimeMs?: number | undefined;
  blackoutMs?: number | undefined;
}

/** A result, and what the guest's load reached of its rate while it moved. */
interface Measured extends Result {
  pagesPerSecond?: number | undefined;
}

/** A way to move a VM. */
export interface Mover {
  readonly name: string;
  move(pair: Pair): Promise<Result>;
}

/** A stock migration that has not ended by then is given up. */
const GIVE_UP_MS = 30_000;

/** QEMU alone. */
export function stock(mode: keyof typeof STOCK_MODES = "plain"): Mover {
  const options: StockOptions = { ...STOCK_MODES[mode], timeoutMs: GIVE_UP_MS };
  const move = async ({ source, destination }: Pair): Promise<Result> => {
    try {
      const { rawBytes, ...result } = await stockMigration(source, destination, options);
      return { ...result, wireBytes: rawBytes };
    } catch (error) {
      if (error instanceof NeverEnded) return { wireBytes: error.rawBytes, totalMs: error.totalMs };
      throw error;
    }
  };
  return { name: `stock QEMU 10.0${mode === "plain" ? "" : `, ${mode}`}`, move };
}

/** godwit, with arguments of `send`. */
export function godwit(...sendArgs: string[]): Mover {
  const move = async (pair: Pair): Promise<Result> => {
    await using migration = await startMigration(pair, { sendArgs });
    const { code, stderr } = await migration.send.exited;
    if (code !== 0) throw new Error(stderr);
    const { wireBytes, totalMs, downtimeMs } = migration.send.events.at(-1) as SourceSummary;
    return { wireBytes, totalMs, downtimeMs: downtimeMs!, blackoutMs: await blackoutOf(pair) };
  };
  return { name: ["godwit", ...sendArgs].join(" "), move };
}

/** What is compared. */
export interface Comparison {
  readonly name: string;
  readonly vm: PairOptions;
  readonly movers: readonly Mover[];
  /** Moves there and back, and measures the way back. */
  readonly isWayBack?: boolean;
  readonly runs: number;
}

/** Rows of a table: each run, then the medians. */
export async function compare({ name, vm, movers, isWayBack = false, runs }: Comparison): Promise<string[][]> {
  const rows = [[name, "MB on the wire", "total s", "downtime ms", "blackout ms", ...(vm.load ? ["pages/s"] : [])]];
  const results = new Map<Mover, Measured[]>(movers.map((mover) => [mover, []]));
  for (let run = 0; run < runs; run++) {
    for (const [mover, all] of results) {
      const result = await measure(mover, vm, isWayBack);
      all.push(result);
      rows.push([mover.name, ...cells(result)]);
    }
  }
  for (const [mover, all] of results) rows.push([`${mover.name}, median of ${runs}`, ...cells(middle(all))]);
  return rows;
}

/** Moves a fresh guest; a load in it checks all its pages afterwards. */
async function measure(mover: Mover, vm: PairOptions, isWayBack: boolean): Promise<Measured> {
  await using there = await startPair(vm);
  let pair: Pair = there;
  if (isWayBack) {
    await mover.move(there);
    pair = await there.back();
  }
  if (vm.load) await cleanWalks(pair.source, 1);
  const result = await mover.move(pair);
  if (!vm.load) return result;
  const pagesPerSecond = rateOf(pair.source);
  await cleanWalks(result.downtimeMs === undefined ? pair.source : pair.destination, 1);
  return { ...result, pagesPerSecond };
}

/** What the load said of its rate last. */
function rateOf({ console }: Vm): number {
  const line = console.lines.findLast(({ text }) => /^load: walk .* rate=\d+$/.test(text));
  return Number(line?.text.split("rate=")[1]);
}

/** The median of each figure; one that was not to be had counts as the largest. */
function middle(results: readonly Measured[]): Measured {
  const of = (pick: (result: Measured) => number | undefined) => {
    const value = median(results.map((result) => pick(result) ?? Number.POSITIVE_INFINITY));
    return Number.isFinite(value) ? value : undefined;
  };
  const figures = {
    downtimeMs: of((r) => r.downtimeMs),
    blackoutMs: of((r) => r.blackoutMs),
    pagesPerSecond: of((r) => r.pagesPerSecond),
  };
  return { wireBytes: of((r) => r.wireBytes)!, totalMs: of((r) => r.totalMs)!, ...figures };
}

function cells({ wireBytes, totalMs, downtimeMs, blackoutMs, pagesPerSecond }: Measured): string[] {
  const seconds = (totalMs / 1000).toFixed(2);
  return [
    (wireBytes / 1e6).toFixed(wireBytes < 10e6 ? 1 : 0),
    downtimeMs === undefined ? `not in ${seconds}` : seconds,
    downtimeMs?.toFixed(0) ?? "",
    blackoutMs?.toFixed(0) ?? "",
    ...(pagesPerSecond === undefined ? [] : [pagesPerSecond.toFixed(0)]),
  ];
}
