import { Worker } from "node:worker_threads";
import type { PageKernels } from "../../compact/page-kernels.ts";
import { type BodyJob, type BodyResult, READY, runJob } from "./job.ts";
import type { WorkerAnswer } from "./worker.ts";

const PROGRAM = new URL("./worker.ts", import.meta.url);

interface Pending {
  readonly job: BodyJob;
  readonly done: (result: BodyResult) => void;
}

interface Thread {
  readonly worker: Worker;
  /** Whether it has come up: until then nothing is given to it. */
  isReady: boolean;
  /** What it has been given and not answered, in order. */
  readonly pending: Pending[];
  cpuMs: number;
}

/** Threads that run jobs over one memory. Where there is none (yet, or any more), a job runs in the thread that asks. */
export class WorkerPool {
  readonly #kernels: PageKernels;
  readonly #memory: WebAssembly.Memory;
  readonly #bytes: Uint8Array;
  readonly #onWarning: (message: string) => void;
  readonly #threads: Thread[] = [];
  /** CPU time of this thread, and of those that are gone. */
  #cpuMs = 0;
  #isStopped = false;

  /** @param kernels over the same memory, for this thread */
  constructor(memory: WebAssembly.Memory, kernels: PageKernels, onWarning: (message: string) => void) {
    this.#memory = memory;
    this.#kernels = kernels;
    this.#bytes = new Uint8Array(memory.buffer);
    this.#onWarning = onWarning;
  }

  /** CPU time that all jobs have taken. */
  get cpuMs(): number {
    return this.#threads.reduce((sum, { cpuMs }) => sum + cpuMs, this.#cpuMs);
  }

  /**
   * Starts that many threads. They never keep the process alive.
   *
   * @param program for tests: what runs in them
   */
  start(threads: number, program = PROGRAM): void {
    for (let i = 0; i < threads; i++) this.#startThread(program);
  }

  #startThread(program: URL): void {
    const worker = new Worker(program, { workerData: { memory: this.#memory } });
    const thread: Thread = { worker, isReady: false, pending: [], cpuMs: 0 };
    worker.unref();
    worker.on("message", (answer: WorkerAnswer | typeof READY) => {
      if (answer === READY) {
        thread.isReady = true;
        return;
      }
      thread.cpuMs = answer.threadCpuMs;
      this.#finish(thread.pending.shift()!, answer);
    });
    worker.on("error", (error) => this.#onDeath(thread, error.message));
    worker.on("exit", (code) => this.#onDeath(thread, `it ended with ${code}`));
    this.#threads.push(thread);
  }

  /** Threads that jobs are given to. */
  get threads(): number {
    return this.#threads.filter(({ isReady }) => isReady).length;
  }

  /** Runs a job; `done` is told of its result, at once where it runs in this thread. */
  run(job: BodyJob, done: (result: BodyResult) => void): void {
    const pending = { job, done };
    const thread = this.#leastBusy();
    if (thread === undefined) return this.#runHere(pending);
    thread.pending.push(pending);
    thread.worker.postMessage(job);
  }

  #runHere(pending: Pending): void {
    const result = runJob(this.#kernels, this.#bytes, pending.job);
    this.#cpuMs += result.ms;
    this.#finish(pending, result);
  }

  /** Ends the threads. What they were doing is never done. */
  stop(): void {
    this.#isStopped = true;
    this.#cpuMs = this.cpuMs;
    for (const { worker } of this.#threads.splice(0)) void worker.terminate();
  }

  #leastBusy(): Thread | undefined {
    let least: Thread | undefined;
    for (const thread of this.#threads) {
      if (thread.isReady && thread.pending.length < (least?.pending.length ?? Number.POSITIVE_INFINITY)) least = thread;
    }
    return least;
  }

  #finish({ done }: Pending, result: BodyResult): void {
    if (!this.#isStopped) done(result);
  }

  /** The memory is here, so what it was given is done by others. */
  #onDeath(thread: Thread, why: string): void {
    const index = this.#threads.indexOf(thread);
    if (index < 0 || this.#isStopped) return;
    this.#threads.splice(index, 1);
    this.#cpuMs += thread.cpuMs;
    this.#onWarning(`a worker thread died, the others do its work: ${why}`);
    for (const { job, done } of thread.pending.splice(0)) this.run(job, done);
  }
}
