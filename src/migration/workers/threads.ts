import { availableParallelism } from "node:os";

/** More of them than a link of 100 Gbit/s needs would only take memory. */
export const MAX_THREADS = 16;

/** Worker threads of one end unless it is told otherwise: the cores that are left beside its main thread, at least one. */
export function defaultThreads(): number {
  return Math.min(Math.max(1, availableParallelism() - 1), 8);
}
