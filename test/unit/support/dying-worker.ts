/** Stands for worker.ts: a thread that dies of its first job. */
import { parentPort } from "node:worker_threads";
import { READY } from "../../../src/migration/workers/job.ts";

parentPort!.on("message", () => {
  throw new Error("out of luck");
});
parentPort!.postMessage(READY);
