import type { Decision, Policy, StartSettings } from "../policy.ts";
import { type MigrationFacts, PAGE_BYTES, type RoundSample, type TickSample } from "../samples.ts";
import { ofOwnEstimate } from "./shipped.ts";

const PROGRESS_TIMEOUT_MS = 60_000;
const TOLERANCE = 0.04;
const FIRST_PATIENCE_MS = 60_000;
const MAX_DOWNTIME_MS = 900;
/** Implied downtimes from this many times the most that is allowed on are hopeless. */
const HOPELESS = 1.5;
const TIMEOUT_MS_PER_GIB = 150_000;
/** The patience has long shrunk to nothing before so many were tried. */
const MAX_TARGETS = 64;
/** Of the moving average of the bandwidth. */
const ALPHA = 0.4;

interface PastRound {
  atMs: number;
  remainingBytes: number;
}

/**
 * KubeVirt's stall detection (VEP 248).
 *
 * At a round's end: stalled if no less remains than the least of the rounds that are older than the progress timeout, within the tolerance.
 * Then it waits for a round that leaves as little as the best one since; after some patience for the next best, and so on, with
 * half the patience each time.
 */
export class KubevirtStall implements Policy {
  readonly name = "kubevirt-stall";
  readonly tickMs = 1000;
  /** Rounds within the progress timeout, and the least that older ones left. */
  readonly #recent: PastRound[] = [];
  #leastOlderBytes = Number.POSITIVE_INFINITY;
  #timeoutMs = 0;
  #bytesPerSecond: number | undefined;
  #stall: { targets: number[]; patienceMs: number; untilMs: number } | undefined;

  start({ memoryBytes }: MigrationFacts): StartSettings {
    this.#timeoutMs = (memoryBytes / 2 ** 30) * TIMEOUT_MS_PER_GIB;
    return { limit: ofOwnEstimate(300), maxBytesPerSecond: null, autoConverge: false };
  }

  onTick({ atMs }: TickSample): Decision | undefined {
    return atMs >= this.#timeoutMs ? { kind: "abort", reason: "the completion timeout is over" } : undefined;
  }

  onRound({ atMs, remainingBytes, pages, durationMs }: RoundSample): Decision | undefined {
    const bytesPerSecond = (pages * PAGE_BYTES * 1000) / Math.max(1, durationMs);
    this.#bytesPerSecond =
      this.#bytesPerSecond === undefined ? bytesPerSecond : ALPHA * bytesPerSecond + (1 - ALPHA) * this.#bytesPerSecond;
    const isStalled = this.#isStalled(atMs, remainingBytes);
    this.#recent.push({ atMs, remainingBytes });
    if (!isStalled) {
      this.#stall = undefined;
      return undefined;
    }
    if (this.#stall === undefined) this.#stall = this.#beginStall(atMs);
    else insert(this.#stall.targets, remainingBytes);
    const { targets } = this.#stall;
    if (atMs >= this.#stall.untilMs && targets.length > 1) {
      targets.shift();
      this.#stall.patienceMs /= 2;
      this.#stall.untilMs = atMs + this.#stall.patienceMs;
    }
    if (remainingBytes > targets[0]! * (1 + TOLERANCE)) return undefined;
    return this.#switchIfBearable(remainingBytes);
  }

  #isStalled(atMs: number, remainingBytes: number): boolean {
    while (this.#recent.length > 0 && this.#recent[0]!.atMs < atMs - PROGRESS_TIMEOUT_MS) {
      this.#leastOlderBytes = Math.min(this.#leastOlderBytes, this.#recent.shift()!.remainingBytes);
    }
    return remainingBytes >= this.#leastOlderBytes * (1 - TOLERANCE);
  }

  /** The stall has begun with the progress timeout. */
  #beginStall(atMs: number): { targets: number[]; patienceMs: number; untilMs: number } {
    const targets = this.#recent
      .map((round) => round.remainingBytes)
      .sort((a, b) => a - b)
      .slice(0, MAX_TARGETS);
    return { targets, patienceMs: FIRST_PATIENCE_MS, untilMs: atMs + FIRST_PATIENCE_MS };
  }

  #switchIfBearable(remainingBytes: number): Decision | undefined {
    const impliedMs = (remainingBytes * 1000) / Math.max(1, this.#bytesPerSecond ?? 1);
    const implied = `the implied downtime is ${Math.round(impliedMs)} ms`;
    if (impliedMs <= MAX_DOWNTIME_MS) return { kind: "limit", limit: ofOwnEstimate(MAX_DOWNTIME_MS), reason: implied };
    return impliedMs >= HOPELESS * MAX_DOWNTIME_MS ? { kind: "abort", reason: implied } : undefined;
  }
}

function insert(sorted: number[], value: number): void {
  const at = sorted.findIndex((other) => other > value);
  sorted.splice(at < 0 ? sorted.length : at, 0, value);
  if (sorted.length > MAX_TARGETS) sorted.pop();
}
