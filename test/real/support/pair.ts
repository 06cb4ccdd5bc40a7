import { type PairOptions, type StartedPair, startPair as startLabPair } from "../../../lab/pair.ts";

/** As the lab's, but with a guest that was booted once for all tests. */
export function startPair(options: PairOptions = {}): Promise<StartedPair> {
  return startLabPair({ saved: true, ...options });
}
