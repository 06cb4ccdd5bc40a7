/** A thread that packs and unpacks bodies: started by pool.ts with the memory; it says READY, then takes a message a job and answers each. */
import { parentPort, workerData } from "node:worker_threads";
import { createPageKernels } from "../kernel-module.ts";
import { type BodyJob, type BodyResult, READY, runJob } from "./job.ts";

/** What a thread says after each job. */
export interface WorkerAnswer extends BodyResult {
  /** CPU time that the thread has taken since it was started. Of one job it is not known: the system counts it in ticks. */
  readonly threadCpuMs: number;
}

const { memory } = workerData as { memory: WebAssembly.Memory };
const kernels = createPageKernels(memory);
const bytes = new Uint8Array(memory.buffer);
const started = process.threadCpuUsage();
parentPort!.on("message", (job: BodyJob) => {
  const result = runJob(kernels, bytes, job);
  const { user, system } = process.threadCpuUsage(started);
  const answer: WorkerAnswer = { ...result, threadCpuMs: (user + system) / 1000 };
  parentPort!.postMessage(answer);
});
parentPort!.postMessage(READY);
