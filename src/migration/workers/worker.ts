/** A thread that packs and unpacks bodies: started by pool.ts with the memory, then one message a job, one a result. */
import { parentPort, workerData } from "node:worker_threads";
import { createPageKernels } from "../kernel-module.ts";
import { type BodyJob, runJob } from "./job.ts";

const { memory } = workerData as { memory: WebAssembly.Memory };
const kernels = createPageKernels(memory);
const bytes = new Uint8Array(memory.buffer);
parentPort!.on("message", (job: BodyJob) => parentPort!.postMessage(runJob(kernels, bytes, job)));
