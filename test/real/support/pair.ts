import { Watch } from "../../../lab/chaos/watch.ts";
import { type Pair, type PairOptions, type StartedPair, startPair as startLabPair } from "../../../lab/pair.ts";

/**
 * The loads of guests that need nothing special. Each kind of guest is booted and saved once (lab/saved-vm.ts), which takes a core for
 * five seconds or more and 400 MB: so there are few.
 */
export const SMALL_LOAD = { mib: 32, pagesPerSecond: 500, pattern: "word" } as const;
export const LARGE_LOAD = { mib: 64, pagesPerSecond: 2000, pattern: "word" } as const;

/** A guest that has read its root file system, 300 MB of its disk, and does little. */
export const CACHED = { cached: true, load: { mib: 1, pagesPerSecond: 50, pattern: "word" } } as const;

/** One that is there sooner. The load is that of lab/chaos, which has saved such a guest too. */
export const SMALL = { memoryMiB: 256, load: { mib: 32, pagesPerSecond: 1500, pattern: "word" } } as const;

/** As the lab's, but with a guest that was booted once for all tests. */
export function startPair(options: PairOptions = {}): Promise<StartedPair> {
  return startLabPair({ saved: true, ...options });
}

/** Looks at both QEMUs from now on: at their events too, as the guest's way from here on begins with one. */
export async function watch({ source, destination }: Pair): Promise<Watch> {
  const watch = new Watch();
  await source.qmp.execute("stop");
  watch.add(source);
  watch.add(destination);
  await source.qmp.execute("cont");
  return watch;
}
