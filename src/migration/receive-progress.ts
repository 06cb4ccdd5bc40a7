import type { EventListener } from "./events.ts";

/** How often progress is reported. */
const PROGRESS_MS = 250;

/** What has come by now. */
interface Received {
  readonly rawBytes: number;
  readonly wireBytes: number;
}

/**
 * Reports at regular intervals how much has come, until it is disposed of.
 *
 * @param startMs when the command was started (performance.now)
 */
export function reportReceiving(received: () => Received, startMs: number, onEvent: EventListener): Disposable {
  let last = { atMs: performance.now(), wireBytes: received().wireBytes };
  const timer = setInterval(() => {
    const now = performance.now();
    const { rawBytes, wireBytes } = received();
    const linkBytesPerSecond = ((wireBytes - last.wireBytes) * 1000) / (now - last.atMs);
    onEvent({ event: "receiving", elapsedMs: now - startMs, rawBytes, wireBytes, linkBytesPerSecond });
    last = { atMs: now, wireBytes };
  }, PROGRESS_MS);
  return { [Symbol.dispose]: () => clearInterval(timer) };
}
