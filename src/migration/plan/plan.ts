/** `godwit plan`: measures a VM and a link, and predicts a migration without beginning one. */

import { randomBytes } from "node:crypto";
import { setImmediate } from "node:timers/promises";
import type { EarlierMigration, Estimate } from "../../control/downtime.ts";
import type { DirtyWindow } from "../../control/planning/dirty-curve.ts";
import type { Findings } from "../../control/planning/findings.ts";
import { changedBytesOf, type MemoryShares, sharesOf, windowOf } from "../../control/planning/page-costs.ts";
import { type Prediction, predict } from "../../control/planning/prediction.ts";
import type { Promises } from "../../control/promises.ts";
import { messageOf } from "../../errors.ts";
import { dirtiedPagesOf, dirtyRateUnit, measureDirtyRate } from "../../qemu/dirty-rate.ts";
import { identityOf, readFacts, type VmFacts } from "../../qemu/facts.ts";
import { assertCanBeSource, isLive } from "../../qemu/migrate.ts";
import { assertPlainStream } from "../../qemu/plain-stream.ts";
import { QmpClient } from "../../qemu/qmp.ts";
import { HistoryStore } from "../../store/history.ts";
import { IndexStore } from "../../store/index-store.ts";
import type { ConnectOptions } from "../../wire/transport.ts";
import { earlierMigrations } from "../earlier.ts";
import { defaultThreads } from "../workers/threads.ts";
import { findOnDisks } from "./known-disks.ts";
import { type LinkFigures, probeLink } from "./link-probe.ts";
import { SampleAnalysis } from "./sample-analysis.ts";
import { CLUSTER_BYTES, CLUSTER_PAGES, sampleTwice } from "./sampled-memory.ts";

/** Windows of the dirty rate, those of a length apart from each other: so a load that comes and goes is noticed. */
const WINDOWS_MS = { millisecond: [100, 1000, 300, 3000, 100, 1000, 300], second: [1000, 3000, 1000] } as const;
/** Of a link that nobody has measured: a local network's. */
const UNKNOWN_ROUND_TRIP_MS: Estimate = { expected: 0.5, low: 0.1, high: 5 };
/** A rate that a user gives is taken to be within this. */
const GIVEN_DEVIATION = 0.03;
/** What a link carries on average is known no better than this by looking for a second. */
const LEAST_DEVIATION = 0.02;
const NORMAL_95 = 1.645;
/** Less than so many tell little of a memory. */
const FEW_CLUSTERS = 32;

export type PlanStep = "link" | "memory" | "dirty-rate" | "disks" | "prediction";

export interface PlanOptions {
  readonly qmpPath: string;
  /** Where a `receive` listens, to measure the link to it; undefined where `bytesPerSecond` is given. */
  readonly to?: ConnectOptions | undefined;
  /** What the link carries, if it is not to be measured. */
  readonly bytesPerSecond?: number | undefined;
  /** The most that the migration may use of it. */
  readonly maxBytesPerSecond?: number | undefined;
  readonly promises: Promises;
  readonly diskReferences: boolean;
  readonly stateDir: string;
  readonly threads?: number | undefined;
  readonly allowOlderQemu: boolean;
  readonly signal?: AbortSignal | undefined;
  /** Is told what is done next. */
  readonly onStep: (step: PlanStep) => void;
  /** Is told, in one clause, what makes the prediction worse. */
  readonly onWarning: (message: string) => void;
}

/** What was measured and predicted. */
export interface PlanReport {
  readonly vm: VmFacts;
  /** A VM that is paused dirties nothing, and has no downtime. */
  readonly isPaused: boolean;
  readonly promises: Promises;
  /** Null where it was not measured. */
  readonly link: LinkFigures | null;
  readonly findings: Findings;
  readonly shares: MemoryShares;
  /** What a page of the working set is expected to cost on the wire. */
  readonly changedBytesPerPage: number;
  /** Disks of which nothing is known as they have no index. */
  readonly unknownDisks: readonly string[];
  readonly prediction: Prediction;
}

/**
 * Predicts a migration of the VM behind `qmpPath`. Nothing of the VM or its QEMU is changed; the guest goes on.
 *
 * @throws GodwitError QMP_* (also what a migration would be refused for), WIRE_*, PEER_*, MIGRATION_MISMATCH, MIGRATION_MEMORY_UNREAD, MIGRATION_TIMEOUT; or the signal's reason
 */
export async function planMigration(options: PlanOptions): Promise<PlanReport> {
  const { signal, onStep, promises } = options;
  signal?.throwIfAborted();
  using qmp = await QmpClient.connect(options.qmpPath);
  const isPaused = !isLive(await assertCanBeSource(qmp));
  await assertPlainStream(qmp);
  const vm = await readFacts(qmp);
  const link = await measureLink(options, vm);
  onStep("memory");
  const store = options.diskReferences ? await openIndexes(options) : undefined;
  const analysis = new SampleAnalysis(store?.seed ?? randomBytes(8).readBigUInt64LE());
  const clusters = await sampleTwice(qmp, analysis.first, analysis.second, signal);
  if (clusters < Math.min(FEW_CLUSTERS, Math.floor(vm.memoryBytes / CLUSTER_BYTES))) {
    options.onWarning(`QEMU answers slowly, so only ${clusters * CLUSTER_PAGES} pages of its memory were looked at`);
  }
  analysis.hash();
  const windows = isPaused ? [] : await measureWindows(qmp, vm.memoryBytes, options);
  onStep("disks");
  const unknownDisks = store === undefined ? [] : await findOnDisks(qmp, vm, store, analysis, signal);
  const earlier = await earlierOf(options, vm);
  const sample = analysis.result();
  const own = isPaused ? undefined : windowOf(sample.clusters, vm.memoryBytes / 4096);
  const parameters = await qmp.execute("query-migrate-parameters");
  const findings: Findings = {
    memoryBytes: vm.memoryBytes,
    hasSwitchoverBandwidth: parameters["avail-switchover-bandwidth"] !== undefined,
    goodputBytesPerSecond: goodputOf(options, link),
    roundTripMs: link?.roundTripMs ?? UNKNOWN_ROUND_TRIP_MS,
    windows: own === undefined ? windows : [...windows, own],
    sample,
    disks: disksOf(options, store, unknownDisks, vm),
    threads: options.threads ?? defaultThreads(),
    earlier,
  };
  onStep("prediction");
  const shares = sharesOf(sample.clusters);
  const othersTurn = async () => {
    signal?.throwIfAborted();
    await setImmediate();
  };
  return {
    vm,
    isPaused,
    promises,
    link,
    findings,
    shares,
    changedBytesPerPage: changedBytesOf(sample, shares, "zstd"),
    unknownDisks,
    prediction: await predict(findings, promises, othersTurn),
  };
}

async function openIndexes({ stateDir, onWarning }: PlanOptions): Promise<IndexStore | undefined> {
  try {
    return await IndexStore.open(stateDir);
  } catch (error) {
    onWarning(`indexes of disks can't be read: ${messageOf(error)}`);
    return undefined;
  }
}

async function earlierOf({ stateDir, onWarning }: PlanOptions, vm: VmFacts): Promise<readonly EarlierMigration[]> {
  const identity = identityOf(vm);
  if (identity === null) return [];
  const history = await HistoryStore.open(stateDir, onWarning);
  return history === undefined ? [] : earlierMigrations(history, identity);
}

function disksOf(
  { diskReferences }: PlanOptions,
  store: IndexStore | undefined,
  unknownDisks: readonly string[],
  { blockDevices }: VmFacts,
): Findings["disks"] {
  if (!diskReferences || blockDevices.length === 0) return "unused";
  return store === undefined || unknownDisks.length > 0 ? "unknown" : "indexed";
}

async function measureLink(
  { to, allowOlderQemu, signal, onStep }: PlanOptions,
  vm: VmFacts,
): Promise<LinkFigures | null> {
  if (to === undefined) return null;
  onStep("link");
  return probeLink({ ...to, allowOlderQemu, ...(signal !== undefined && { signal }) }, vm);
}

async function measureWindows(
  qmp: QmpClient,
  memoryBytes: number,
  { signal, onStep }: PlanOptions,
): Promise<DirtyWindow[]> {
  onStep("dirty-rate");
  const unit = await dirtyRateUnit(qmp, memoryBytes, signal);
  const windows: DirtyWindow[] = [];
  for (const windowMs of WINDOWS_MS[unit]) {
    windows.push(dirtiedPagesOf(await measureDirtyRate(qmp, memoryBytes, windowMs, unit, signal), memoryBytes));
  }
  return windows;
}

function goodputOf(
  { bytesPerSecond = Number.POSITIVE_INFINITY, maxBytesPerSecond = Number.POSITIVE_INFINITY }: PlanOptions,
  link: LinkFigures | null,
): Estimate {
  const measured = link === null ? within(bytesPerSecond, GIVEN_DEVIATION) : goodputOfLink(link);
  const most = (rate: number) => Math.min(rate, maxBytesPerSecond);
  return { expected: most(measured.expected), low: most(measured.low), high: most(measured.high) };
}

/** The mean, and the interval in which it is: the stretches' deviation by the root of their number. */
export function goodputOfLink({ goodputBytesPerSecond, stretchesBytesPerSecond }: LinkFigures): Estimate {
  const count = stretchesBytesPerSecond.length;
  const squares = stretchesBytesPerSecond.reduce((sum, rate) => sum + (rate - goodputBytesPerSecond) ** 2, 0);
  const deviation = Math.sqrt(squares / Math.max(1, count - 1) / count) / goodputBytesPerSecond;
  return within(goodputBytesPerSecond, NORMAL_95 * Math.max(deviation, LEAST_DEVIATION));
}

function within(expected: number, share: number): Estimate {
  return { expected, low: Math.max(0, expected * (1 - share)), high: expected * (1 + share) };
}
