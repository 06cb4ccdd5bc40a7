/** One migration of the evaluation, with a fresh guest, and what came of it. */
import { join } from "node:path";
import { blackoutOf, startMigration } from "../../lab/godwit.ts";
import { type Pair, startPair } from "../../lab/pair.ts";
import { NeverEnded, STOCK_MODES, stockMigration } from "../../lab/stock.ts";
import { messageOf } from "../../src/errors.ts";
import type { SourceSummary } from "../../src/migration/events.ts";
import type { Case } from "./cases.ts";

export const MOVERS = ["godwit", "stock"] as const;
export type MoverName = (typeof MOVERS)[number];

/** What came of a migration: a line of the results. */
export interface Run {
  readonly case: string;
  readonly mover: MoverName;
  readonly run: number;
  /** Of the code that ran. */
  readonly revision: string;
  /** Does the VM run at the destination? */
  readonly hasEnded: boolean;
  readonly totalMs: number;
  readonly downtimeMs: number | null;
  readonly blackoutMs: number | null;
  readonly wireBytes: number;
  readonly rounds: number | null;
  /** What is wrong with the guest; null: it is well. */
  readonly guestError: string | null;
  /** Why it has not ended, where it is not just the time. */
  readonly error: string | null;
  /** godwit's, whole. */
  readonly summary: SourceSummary | null;
}

type Moved = Omit<Run, "case" | "mover" | "run" | "revision" | "guestError">;

/** Stock QEMU is given up by then. */
export const STOCK_LIMIT_MS = 40_000;
/** godwit, which is to end always, is given up only by then. */
const GODWIT_LIMIT_MS = 240_000;

/** Boots a guest, puts it to work, moves it and looks whether it is well; a failure is a result too. */
export async function migrate(one: Case, mover: MoverName, trace: string): Promise<Omit<Run, "run" | "revision">> {
  const { workload, linkBitsPerSecond } = one;
  await using pair = await startPair({
    ...workload.vm,
    preallocated: true,
    rateBitsPerSecond: linkBitsPerSecond,
  });
  const check = await workload.begin(pair.source);
  const moved = await (mover === "stock" ? moveByStock(pair) : moveByGodwit(pair, trace));
  let guestError: string | null = null;
  try {
    await check(moved.hasEnded ? pair.destination : pair.source);
  } catch (error) {
    guestError = messageOf(error);
  }
  return { case: one.name, mover, ...moved, guestError };
}

async function moveByStock({ source, destination }: Pair): Promise<Moved> {
  const unknown = { summary: null, error: null };
  try {
    const options = { ...STOCK_MODES.plain, timeoutMs: STOCK_LIMIT_MS };
    const { totalMs, downtimeMs, blackoutMs, rawBytes, rounds } = await stockMigration(source, destination, options);
    return { ...unknown, hasEnded: true, totalMs, downtimeMs, blackoutMs, wireBytes: rawBytes, rounds };
  } catch (error) {
    if (!(error instanceof NeverEnded)) throw error;
    const { totalMs, rawBytes } = error;
    const nothing = { downtimeMs: null, blackoutMs: null, rounds: null };
    return { ...unknown, ...nothing, hasEnded: false, totalMs, wireBytes: rawBytes };
  }
}

async function moveByGodwit(pair: Pair, trace: string): Promise<Moved> {
  await using migration = await startMigration(pair, { sendArgs: ["--no-keep-checkpoint", "--trace", trace] });
  const { send } = migration;
  const limit = setTimeout(() => send.kill("SIGINT"), GODWIT_LIMIT_MS);
  const { code, stderr } = await send.exited.finally(() => clearTimeout(limit));
  const last = send.events.at(-1);
  if (last?.event !== "summary" || last.role !== "source") throw new Error(`godwit gave no summary: ${stderr}`);
  const { totalMs, downtimeMs, wireBytes, rounds } = last;
  return {
    hasEnded: code === 0,
    totalMs,
    downtimeMs,
    blackoutMs: code === 0 ? await blackoutOf(pair) : null,
    wireBytes,
    rounds,
    error: code === 0 ? null : stderr.trim(),
    summary: last,
  };
}

/** Where a run's trace lies. */
export function tracePath(folder: string, { case: name, run }: Pick<Run, "case" | "run">): string {
  return join(folder, "traces", `${name}-${run}.trace`);
}
