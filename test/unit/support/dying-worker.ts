/** Stands for worker.ts: a thread that dies of its first job. */
import { parentPort } from "node:worker_threads";

parentPort!.on("message", () => {
  throw new Error("out of luck");
});
