import { setTimeout as delay } from "node:timers/promises";
import type { Vm } from "../vm.ts";

/** How often each QEMU is asked whether its guest runs: 66 times a second. */
const SAMPLE_MS = 15;

/** From QEMU's RESUME to its STOP, or to its end; milliseconds since 1970. The guest runs within it only. */
interface Interval {
  readonly fromMs: number;
  toMs: number;
}

/** What is known of one VM. */
interface Watched {
  readonly vm: Vm;
  readonly intervals: Interval[];
  /** In which the guest ran for certain: between two answers that said so. Of performance.now. */
  readonly sure: Interval[];
  samples: number;
  isGone: boolean;
}

/**
 * Watches QEMUs that hold copies of one VM, over a monitor of its own each: no two may ever run.
 *
 * Two witnesses: QEMU's own events, which have the times of a clock that the QEMUs share, and answers to `query-status`.
 */
export class Watch implements AsyncDisposable {
  readonly #watched: Watched[] = [];
  readonly #loops: Promise<void>[] = [];
  #isOver = false;

  /** Watches a QEMU whose guest does not run yet. */
  add(vm: Vm): void {
    const watched: Watched = { vm, intervals: [], sure: [], samples: 0, isGone: false };
    this.#watched.push(watched);
    vm.qmp.onEvent(({ name, timestampMs }) => {
      if (name === "RESUME") watched.intervals.push({ fromMs: timestampMs, toMs: Number.POSITIVE_INFINITY });
      if (name === "STOP") end(watched, timestampMs);
    });
    void vm.exited.then(() => {
      watched.isGone = true;
      end(watched, Date.now());
    });
    this.#loops.push(this.#sample(watched));
  }

  /** Has this guest ever run? */
  hasRun(vm: Vm): boolean {
    return this.#watched.some((watched) => watched.vm === vm && watched.intervals.length > 0);
  }

  /** Answers so far, of all QEMUs. */
  get samples(): number {
    return this.#watched.reduce((sum, { samples }) => sum + samples, 0);
  }

  /** How often two ran at once, in words; undefined if they never did. */
  verdict(): string | undefined {
    for (const [i, one] of this.#watched.entries()) {
      for (const other of this.#watched.slice(i + 1)) {
        for (const [what, key] of [
          ["QEMU's events", "intervals"],
          ["their answers", "sure"],
        ] as const) {
          const ms = overlapMs(one[key], other[key]);
          if (ms > 0) return `by ${what} both ${one.vm.name} and ${other.vm.name} ran, for ${ms.toFixed(3)} ms`;
        }
      }
    }
    return undefined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isOver = true;
    await Promise.all(this.#loops);
  }

  async #sample(watched: Watched): Promise<void> {
    const { qmp } = watched.vm;
    let current: Interval | undefined;
    while (!this.#isOver && !watched.isGone) {
      const askedMs = performance.now();
      const answer = qmp.execute("query-status").then(({ running }) => running);
      const running = await Promise.race([answer, gone(watched)]).catch(() => false);
      watched.samples++;
      if (!running) current = undefined;
      else if (current !== undefined) current.toMs = askedMs;
      else {
        current = { fromMs: performance.now(), toMs: 0 };
        watched.sure.push(current);
      }
      await delay(Math.max(0, SAMPLE_MS - (performance.now() - askedMs)));
    }
  }
}

function gone({ vm }: Watched): Promise<boolean> {
  return vm.exited.then(() => false);
}

function end({ intervals }: Watched, atMs: number): void {
  const last = intervals.at(-1);
  if (last?.toMs === Number.POSITIVE_INFINITY) last.toMs = atMs;
}

function overlapMs(some: readonly Interval[], others: readonly Interval[]): number {
  let ms = 0;
  for (const a of some)
    for (const b of others) ms += Math.max(0, Math.min(a.toMs, b.toMs) - Math.max(a.fromMs, b.fromMs));
  return ms;
}
