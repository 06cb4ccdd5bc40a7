import { GodwitError } from "../errors.ts";
import { identityOf, type VmFacts } from "../qemu/facts.ts";
import type { ListedCheckpoint } from "../store/checkpoint-folder.ts";
import type { CheckpointOrigin } from "../store/checkpoint-manifest.ts";
import type { CheckpointWriter } from "../store/checkpoint-writer.ts";
import { openCheckpoints } from "./open-checkpoints.ts";

/** How often progress is reported. */
const PROGRESS_MS = 250;

/** Where checkpoints are kept. */
export interface CheckpointPlace {
  readonly stateDir: string;
  /** What all checkpoints of the host may take together; default: the store's. */
  readonly maxBytes?: number;
}

export type OnCaptured = (doneBytes: number, totalBytes: number) => void;

/** What of a CheckpointWriter takes pages. */
export type PageSink = Pick<CheckpointWriter, "add" | "zero" | "drained">;

/** What a way of reading a VM's memory is given. */
export interface Capture {
  readonly writer: PageSink;
  readonly signal?: AbortSignal | undefined;
  /** May be called as often as is handy. */
  readonly onProgress: OnCaptured;
}

export interface TakeOptions {
  readonly place: CheckpointPlace;
  readonly vm: VmFacts;
  /** Kept after a migration, or saved because someone wanted it. */
  readonly origin: CheckpointOrigin;
  readonly signal?: AbortSignal | undefined;
  /** A few times a second, and once at the beginning. */
  readonly onProgress: OnCaptured;
}

/**
 * Makes a checkpoint of what `capture` reads. If anything fails, nothing of it is kept.
 *
 * @throws GodwitError MIGRATION_NO_IDENTITY when nothing tells the VM from others; STORE_*; what `capture` throws
 */
export async function takeCheckpoint(
  { place, vm, origin, signal, onProgress }: TakeOptions,
  capture: (capture: Capture) => Promise<void>,
): Promise<ListedCheckpoint> {
  signal?.throwIfAborted();
  const identity = identityOf(vm);
  if (identity === null) {
    const message = "the VM has neither a UUID nor a name by which to know it again";
    throw new GodwitError("MIGRATION_NO_IDENTITY", message);
  }
  const store = await openCheckpoints(place.stateDir, place);
  await using writer = await store.create({ identity, vmName: vm.name, memoryBytes: vm.memoryBytes, origin });
  onProgress(0, vm.memoryBytes);
  await capture({ writer, signal, onProgress: atIntervals(onProgress) });
  signal?.throwIfAborted();
  return await writer.finish();
}

/** Lets through a call every PROGRESS_MS. */
function atIntervals(onProgress: OnCaptured): OnCaptured {
  let lastMs = performance.now();
  return (doneBytes, totalBytes) => {
    const nowMs = performance.now();
    if (nowMs - lastMs < PROGRESS_MS) return;
    lastMs = nowMs;
    onProgress(doneBytes, totalBytes);
  };
}
