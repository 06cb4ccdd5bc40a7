import { POLICIES } from "../control/policies/all.ts";
import type { Decision, Policy } from "../control/policy.ts";
import type { Promises } from "../control/promises.ts";
import type { RoundSample } from "../control/samples.ts";
import { TRACE_FORMAT, TRACE_VERSION } from "../control/trace.ts";
import type { GodwitError } from "../errors.ts";
import type { QmpEvent } from "../qemu/commands.ts";
import { identityOf, type VmFacts } from "../qemu/facts.ts";
import { type MigrationProgress, migrationProgress } from "../qemu/migrate.ts";
import type { QmpClient } from "../qemu/qmp.ts";
import { HistoryStore } from "../store/history.ts";
import { PAGE_BYTES } from "../stream/format.ts";
import { momentOf } from "./downtime.ts";
import { earlierMigrations } from "./earlier.ts";
import type { EventListener, SourceSummary } from "./events.ts";
import { PROGRAM } from "./greeting.ts";
import { NOTHING_PREDICTED, type Predicted, Predictions } from "./predictions.ts";
import { ProgressMeter, pagesSent } from "./progress.ts";
import { RoundSampler, type Sampled } from "./round-sampler.ts";
import type { StreamSender } from "./sender.ts";
import type { SourceOffers } from "./source-offers.ts";
import type { SourceSetup, SourceVm } from "./source-vm.ts";
import { Steering } from "./steering.ts";
import { TraceRecorder } from "./trace-recorder.ts";

/** How often QEMU is asked how the migration stands, and that is sampled. */
const SAMPLE_MS = 100;
/** A sync that leaves less than QEMU's threshold is followed by the guest's stop; if it is not for so long, there was more to come. */
const STOP_WAIT_MS = 1500;
/** How often progress is reported. */
const PROGRESS_MS = 250;

export interface ControlOptions {
  /** One of POLICIES; default: adaptive. */
  policy?: string | undefined;
  promises?: Promises | undefined;
  /** Where the trace of the migration is written. */
  tracePath?: string | undefined;
  /** What this host keeps, the history of its VMs' migrations too; undefined: nothing is kept. */
  stateDir?: string | undefined;
}

export interface RoundsParts {
  readonly qmp: QmpClient;
  readonly vm: Pick<SourceVm, "guestRuns" | "hasSwitchoverBandwidth" | "start" | "setLimit" | "setThrottle">;
  readonly peer: Sampled["peer"];
  readonly sender: Sampled["sender"] & Pick<StreamSender, "rawBytes">;
  /** Those that `sender` notes. */
  readonly sentPages: Sampled["sentPages"];
  readonly offers: Pick<SourceOffers, "tell">;
  readonly facts: VmFacts;
  /** When the migration began, of performance.now: all times count from there. */
  readonly startMs: number;
  readonly onEvent: EventListener;
  readonly noteSettings?: NonNullable<SourceSetup["noteSettings"]>;
  /** The policy gives the migration up. */
  readonly giveUp: (error: GodwitError) => void;
}

/**
 * Follows the rounds of a migration while the guest runs: samples how it goes, reports it, and carries out what the policy decides. A
 * QMP that is gone is noticed elsewhere, and what was not reported harms nobody.
 */
export class SourceRounds {
  readonly #parts: RoundsParts;
  readonly #policy: Policy;
  readonly #promises: Promises;
  readonly #history: HistoryStore | undefined;
  readonly #recorder: TraceRecorder;
  readonly #meter: ProgressMeter;
  readonly #sampler: RoundSampler;
  readonly #steering: Steering;
  readonly #predictions: Predictions;
  #isAsking = false;
  #isAnswerStale = false;
  #isStopped = false;
  #hasEnded = false;
  #reportedMs = 0;
  #policyTickMs = 0;
  /** The round at whose end QEMU most likely switches over: the policy is not to decide any more. */
  #held: RoundSample | undefined;
  #heldMs = 0;
  /** Pages that were sent before the last sync with the guest running. */
  #pagesAtStop: number | undefined;

  private constructor(
    parts: RoundsParts,
    options: ControlOptions,
    policy: Policy,
    history: HistoryStore | undefined,
    recorder: TraceRecorder,
  ) {
    this.#parts = parts;
    this.#policy = policy;
    this.#promises = options.promises ?? { onStall: "switch" };
    this.#history = history;
    this.#recorder = recorder;
    this.#meter = new ProgressMeter(parts, parts.facts.memoryBytes, parts.onEvent);
    this.#sampler = new RoundSampler(parts, this.#nowMs);
    this.#steering = new Steering(parts);
    this.#predictions = new Predictions(parts.onEvent);
  }

  /** Learns what the VM's earlier migrations came to. @throws GodwitError MIGRATION_TRACE_UNWRITABLE */
  static async open(parts: RoundsParts, options: ControlOptions): Promise<SourceRounds> {
    const warn = (message: string) => parts.onEvent({ event: "warning", message });
    const identity = identityOf(parts.facts);
    const { stateDir, policy = "adaptive", tracePath, promises } = options;
    const history = stateDir === undefined || identity === null ? undefined : await HistoryStore.open(stateDir, warn);
    const earlier = history === undefined ? [] : await earlierMigrations(history, identity!);
    const recorder = await TraceRecorder.create(tracePath, warn);
    return new SourceRounds(parts, options, POLICIES[policy]!(promises, earlier), history, recorder);
  }

  /** Rounds begun so far, the bulk round included. */
  get begun(): number {
    return this.#meter.rounds;
  }

  /** Nothing of a guest that does not run. */
  get predicted(): Predicted {
    return this.#parts.vm.guestRuns ? this.#predictions.all : NOTHING_PREDICTED;
  }

  /** What was sent from the last sync with the guest running on; null unless it was stopped. */
  get residualBytes(): number | null {
    if (this.#pagesAtStop === undefined) return null;
    return Math.round(pagesSent(this.#parts.sender.counts) - this.#pagesAtStop) * PAGE_BYTES;
  }

  /** Starts the migration to a unix socket, with QEMU set as the policy wants it. */
  async start(socketPath: string): Promise<void> {
    const { vm, facts, peer, noteSettings } = this.#parts;
    const { hasSwitchoverBandwidth } = vm;
    const { major, minor, micro } = facts.qemuVersion;
    this.#recorder.begin({
      type: "header",
      format: TRACE_FORMAT,
      version: TRACE_VERSION,
      startedAt: new Date().toISOString(),
      program: PROGRAM,
      qemuVersion: `${major}.${minor}.${micro}`,
      machineType: facts.machineType,
      identity: identityOf(facts),
      memoryBytes: facts.memoryBytes,
      cpus: facts.cpus,
      hasSwitchoverBandwidth,
      roundTripMs: peer.backlog.minRttMs ?? null,
      policy: this.#policy.name,
      promises: this.#promises,
    });
    const settings = this.#policy.start({ memoryBytes: facts.memoryBytes, hasSwitchoverBandwidth });
    this.#steering.begin(settings.limit);
    await vm.start(socketPath, {
      limit: settings.limit,
      maxBytesPerSecond: settings.maxBytesPerSecond,
      capabilities: settings.autoConverge ? { "auto-converge": true } : {},
      canThrottle: this.#promises.onStall === "throttle",
      ...(noteSettings && { noteSettings }),
    });
  }

  /** Samples until the source QEMU has ended the migration. */
  async until(completed: Promise<void>): Promise<void> {
    const timer = setInterval(() => this.#onTimer(), SAMPLE_MS);
    try {
      await completed;
    } finally {
      this.#hasEnded = true;
      clearInterval(timer);
    }
  }

  /** QEMU has looked for dirty pages: a round ends. */
  onSync(event: Extract<QmpEvent, { name: "MIGRATION_PASS" }>): void {
    this.#syncTo(event.data.pass, momentOf(event) - this.#parts.startMs);
    // What is asked already may have been answered before.
    this.#isAnswerStale = this.#isAsking;
    this.#ask();
  }

  /** The guest was stopped: most likely QEMU switches over. */
  onStop(): void {
    this.#isStopped = true;
    this.#pagesAtStop = pagesSent(this.#parts.sender.counts) - this.#sampler.pagesSinceSync;
  }

  /** It was a user who has stopped the guest, or itself: the migration goes on as before. */
  onOtherStop(): void {
    this.#isStopped = false;
    this.#pagesAtStop = undefined;
  }

  /** Writes down what it came to. Never rejects. */
  async close(summary: SourceSummary): Promise<void> {
    const { status, totalMs, wireBytes, downtimeMs, downtimeParts, roundTripMs, session } = summary;
    const { predictedDowntimeMs: predictedMs, predictedTotalMs } = this.predicted;
    const { residualBytes } = this;
    const measured = { status, totalMs, wireBytes, downtimeMs, downtimeParts, residualBytes, roundTripMs };
    this.#recorder.add({ type: "outcome", ...measured, predictedMs, predictedTotalMs });
    await this.#recorder.close().catch(() => {});
    const identity = identityOf(this.#parts.facts);
    if (identity !== null) await this.#history?.add(identity, session, this.#recorder.text);
  }

  get #nowMs(): number {
    return performance.now() - this.#parts.startMs;
  }

  get #isOver(): boolean {
    return this.#isStopped || this.#hasEnded;
  }

  #onTimer(): void {
    this.#ask();
    const nowMs = this.#nowMs;
    const tick = this.#isOver ? undefined : this.#sampler.tick(nowMs);
    if (tick === undefined) return;
    const sample = this.#recorder.add({ type: "tick", ...tick });
    if (this.#held !== undefined && nowMs - this.#heldMs > STOP_WAIT_MS) this.#tellHeld();
    if (nowMs < this.#policyTickMs || this.#held !== undefined) return;
    this.#policyTickMs = nowMs + this.#policy.tickMs - SAMPLE_MS / 2;
    this.#onDecision(this.#policy.onTick(sample));
  }

  /** Never more than one question is under way: a QEMU that answers slowly is not asked the more. */
  #ask(): void {
    if (this.#isAsking || this.#isOver) return;
    this.#isAsking = true;
    this.#isAnswerStale = false;
    const onAnswer = (progress: MigrationProgress) => this.#onAnswer(progress);
    const done = () => {
      this.#isAsking = false;
      if (this.#isAnswerStale) this.#ask();
    };
    migrationProgress(this.#parts.qmp)
      .then(onAnswer)
      .catch(() => {})
      .finally(done);
  }

  #onAnswer(progress: MigrationProgress): void {
    if (this.#isOver) return;
    const nowMs = this.#nowMs;
    this.#syncTo(progress.dirtySyncCount, nowMs);
    const round = this.#sampler.onAnswer(progress, nowMs);
    if (round !== undefined) {
      this.#tellHeld();
      this.#held = this.#recorder.add({ type: "round", ...round });
      this.#heldMs = nowMs;
      if (!this.#steering.isMetBy(round.remainingBytes, progress.bytesPerSecond, round.atMs)) this.#tellHeld();
    }
    if (round !== undefined || nowMs - this.#reportedMs >= PROGRESS_MS) this.#report(progress, nowMs);
  }

  #tellHeld(): void {
    if (this.#held === undefined) return;
    const round = this.#held;
    this.#held = undefined;
    this.#onDecision(this.#policy.onRound(round));
  }

  #syncTo(pass: number, atMs: number): void {
    if (this.#sampler.onSync(pass, atMs, this.#nowMs)) this.#meter.onSync();
  }

  #report(progress: MigrationProgress, nowMs: number): void {
    const { peer, sender, offers } = this.#parts;
    this.#reportedMs = nowMs;
    this.#meter.report(progress);
    offers.tell({
      foundPages: sender.counts.diskPages,
      unsentShare: progress.ramTotalBytes > 0 ? progress.ramRemainingBytes / progress.ramTotalBytes : 1,
      linkBytesPerSecond: peer.backlog.goodputBytesPerSecond,
    });
  }

  #onDecision(decision: Decision | undefined): void {
    const atMs = this.#nowMs;
    this.#predictions.update(this.#policy.forecast, decision, atMs);
    if (decision === undefined) return;
    const { atMs: decidedMs } = this.#recorder.add({ type: "decision", atMs, ...decision });
    this.#steering.apply(decision, decidedMs);
  }
}
