import { messageOf } from "../errors.ts";
import type { VmFacts } from "../qemu/facts.ts";
import type { QmpClient } from "../qemu/qmp.ts";
import { specificAdviceFor } from "./advice.ts";
import { captureStopped } from "./checkpoint-stopped.ts";
import { type CheckpointPlace, takeCheckpoint } from "./checkpoint-take.ts";
import type { EventListener, KeptCheckpoint } from "./events.ts";

export interface KeepOptions {
  readonly qmp: QmpClient;
  readonly vm: VmFacts;
  readonly place: CheckpointPlace;
  /** Aborted by a person who does not want to wait for it. */
  readonly signal?: AbortSignal | undefined;
  readonly onEvent: EventListener;
}

/**
 * Keeps a checkpoint of a VM that was migrated away, from its stopped source QEMU. Never throws, since the VM is well: what fails is a
 * warning, and nothing is kept.
 */
export async function keepCheckpoint({ qmp, vm, place, signal, onEvent }: KeepOptions): Promise<KeptCheckpoint | null> {
  const startMs = performance.now();
  const elapsedMs = () => performance.now() - startMs;
  const onProgress = (readBytes: number, totalBytes: number) =>
    onEvent({ event: "keeping", elapsedMs: elapsedMs(), readBytes, totalBytes });
  try {
    const { id, pages, storedBytes } = await takeCheckpoint(
      { place, vm, origin: "migration", signal, onProgress },
      (capture) => captureStopped(qmp, capture),
    );
    const checkpoint = { id, pages, bytes: storedBytes, ms: elapsedMs() };
    onEvent({ event: "checkpoint", ...checkpoint });
    return checkpoint;
  } catch (error) {
    const advice = specificAdviceFor(error, "source");
    const clauses = [`no checkpoint of the VM is kept here: ${messageOf(error)}`, ...(advice ? [advice] : [])];
    onEvent({ event: "warning", message: clauses.join("; ") });
    return null;
  }
}
