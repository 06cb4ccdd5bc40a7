import { GodwitError } from "../src/errors.ts";
import type { QmpEventOf } from "../src/qemu/commands.ts";
import type { QmpClient } from "../src/qemu/qmp.ts";
import { blackoutMs } from "./blackout.ts";
import type { Vm } from "./vm.ts";

/** Options of {@link stockMigration}. */
export interface StockOptions {
  /** Switched on at both ends. */
  readonly capabilities?: readonly string[];
  /** Set at both ends, as in QMP's migrate-set-parameters. */
  readonly parameters?: Readonly<Record<string, unknown>>;
  readonly timeoutMs?: number;
}

/** Without QEMU's default limit of 128 MiB/s. */
const UNLIMITED = { "max-bandwidth": 0 };

/** What QEMU by itself has against too many bytes and against guests that write too fast, each by its name. */
export const STOCK_MODES = {
  plain: { parameters: UNLIMITED },
  // As much memory as godwit takes for its deltas at most.
  xbzrle: { capabilities: ["xbzrle"], parameters: { ...UNLIMITED, "xbzrle-cache-size": 512 * 2 ** 20 } },
  "multifd, zstd": { capabilities: ["multifd"], parameters: { ...UNLIMITED, "multifd-compression": "zstd" } },
  "auto-converge": { capabilities: ["auto-converge"], parameters: UNLIMITED },
} as const satisfies Record<string, StockOptions>;

/** What QEMU says about a migration at its source, and what was seen from outside. */
export interface StockResult {
  readonly status: "completed";
  readonly totalMs: number;
  readonly downtimeMs: number;
  readonly setupMs: number;
  /** Bytes of RAM that QEMU sent, its headers included. */
  readonly rawBytes: number;
  readonly rounds: number;
  readonly blackoutMs: number;
}

/** A migration that was cancelled because it did not end; what it had sent by then. */
export class NeverEnded extends Error {
  readonly totalMs: number;
  readonly rawBytes: number;

  constructor(totalMs: number, rawBytes: number) {
    super(`the stock migration had not ended after ${totalMs} ms`);
    this.totalMs = totalMs;
    this.rawBytes = rawBytes;
  }
}

const TICKS_AFTER = 20;
const TICK_TIMEOUT_MS = 30_000;
/** The destination is done that much later at most. */
const LOAD_TIMEOUT_MS = 10_000;

/**
 * Moves a guest with nothing but QEMU, over TCP through the hosts' link, and lets it run at the destination.
 *
 * @throws Error with QEMU's reason when the migration fails
 * @throws NeverEnded when it does not end within `timeoutMs` (default 120 s)
 */
export async function stockMigration(source: Vm, destination: Vm, options: StockOptions = {}): Promise<StockResult> {
  const { capabilities = [], parameters, timeoutMs = 120_000 } = options;
  for (const { qmp } of [source, destination]) {
    const wanted = ["events", ...capabilities].map((capability) => ({ capability, state: true }));
    await qmp.execute("migrate-set-capabilities", { capabilities: wanted });
    if (parameters) await qmp.executeAny("migrate-set-parameters", parameters);
  }
  const port = await listen(destination);
  const sent = ended(source.qmp, timeoutMs);
  const loaded = ended(destination.qmp, timeoutMs + LOAD_TIMEOUT_MS);
  loaded.catch(() => {}); // not waited for when the source fails
  await source.qmp.execute("migrate", { uri: `tcp:${destination.host.address}:${port}` });
  for (const [end, vm] of [
    [(await sent) ?? (await cancel(source, loaded)), source],
    [await loaded, destination],
  ] as const)
    if (end !== "completed") throw new Error(`the stock migration ${end} at the ${vm.name}: ${await reason(source)}`);
  await resume(destination);
  return { ...(await figures(source)), blackoutMs: await blackout(source, destination) };
}

/** Lets the destination listen on a free port. */
async function listen(destination: Vm): Promise<string> {
  await destination.qmp.execute("migrate-incoming", { uri: `tcp:${destination.host.address}:0` });
  const info = (await destination.qmp.executeAny("query-migrate")) as {
    readonly "socket-address": readonly [{ readonly port: string }];
  };
  return info["socket-address"][0].port;
}

/** How the next migration of this QEMU ends; undefined: not within `timeoutMs`. */
async function ended(qmp: QmpClient, timeoutMs: number): Promise<string | undefined> {
  const isEnd = ({ data }: QmpEventOf<"MIGRATION">) => ["completed", "failed", "cancelled"].includes(data.status);
  try {
    return (await qmp.waitForEvent("MIGRATION", isEnd, { timeoutMs })).data.status;
  } catch (error) {
    if (error instanceof GodwitError && error.code === "QMP_TIMEOUT") return undefined;
    throw error;
  }
}

/** Ends a migration that does not end by itself. @throws NeverEnded */
async function cancel({ qmp }: Vm, loaded: Promise<unknown>): Promise<never> {
  const { "total-time": totalMs, ram } = await qmp.execute("query-migrate");
  await qmp.execute("migrate_cancel");
  await loaded.catch(() => {}); // the destination QEMU fails, and may end
  throw new NeverEnded(totalMs!, ram!.transferred);
}

/** Makes a destination that was started with `-S` run; one without runs by itself a moment after it is complete. */
async function resume({ qmp }: Vm): Promise<void> {
  const resumed = qmp.waitForEvent("RESUME", undefined, { timeoutMs: TICK_TIMEOUT_MS });
  resumed.catch(() => {}); // not waited for when it runs already
  const { status } = await qmp.execute("query-status");
  if (status === "paused") await qmp.execute("cont");
  if (status !== "running") await resumed;
}

async function figures({ qmp }: Vm): Promise<Omit<StockResult, "blackoutMs">> {
  const info = await qmp.execute("query-migrate");
  return {
    status: "completed",
    totalMs: info["total-time"]!,
    downtimeMs: info.downtime!,
    setupMs: info["setup-time"]!,
    rawBytes: info.ram!.transferred,
    rounds: info.ram!["dirty-sync-count"],
  };
}

async function blackout(source: Vm, destination: Vm): Promise<number> {
  for (let seen = 0; seen < TICKS_AFTER; seen = destination.ticks.lines.length)
    await destination.ticks.waitFor(/\d/, TICK_TIMEOUT_MS, seen);
  return blackoutMs(source.ticks.lines, destination.ticks.lines);
}

async function reason(source: Vm): Promise<string> {
  const info = await source.qmp.execute("query-migrate");
  return info["error-desc"] ?? "QEMU gives no reason";
}
