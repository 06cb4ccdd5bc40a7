import { PAGE_BYTES } from "../stream/format.ts";

const DEFAULT_BYTES = 512 * 1024 * 1024;
/** Kernels' memory is 4 GiB at most, and there is more to it than the cache. */
const MAX_CACHE_BYTES = 3 * 1024 * 1024 * 1024;

/**
 * Slots of the page cache.
 *
 * @param bytes what a user allows it; undefined: 512 MiB, or half of the VM's memory where that is less
 */
export function cachePagesOf(bytes: number | undefined, memoryBytes: number): number {
  const allowed = bytes ?? Math.min(DEFAULT_BYTES, memoryBytes / 2);
  return Math.floor(Math.min(allowed, MAX_CACHE_BYTES) / PAGE_BYTES);
}
