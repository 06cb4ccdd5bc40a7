import { GodwitError } from "../errors.ts";
import type { RunState } from "../qemu/commands.ts";
import { readFacts } from "../qemu/facts.ts";
import { QmpClient } from "../qemu/qmp.ts";
import type { ListedCheckpoint } from "../store/checkpoint-folder.ts";
import { SessionStore } from "../store/session-store.ts";
import { captureRunning } from "./checkpoint-running.ts";
import { captureStopped } from "./checkpoint-stopped.ts";
import { type CheckpointPlace, type OnCaptured, takeCheckpoint } from "./checkpoint-take.ts";
import { noteSettingsOf, putBackLeftSettings } from "./left-settings.ts";

export interface SaveOptions {
  readonly qmpPath: string;
  readonly place: CheckpointPlace;
  readonly signal?: AbortSignal | undefined;
  /** A few times a second. */
  readonly onProgress: OnCaptured;
  /** Is told, in one clause, what an earlier program has left that could not be put right. */
  readonly onWarning: (message: string) => void;
}

export interface SavedCheckpoint {
  readonly checkpoint: ListedCheckpoint;
  /** From the connection to QEMU to the checkpoint on the disk. */
  readonly ms: number;
  /** For how long the guest was stopped; null where it did not run. */
  readonly stoppedMs: number | null;
}

/** Why there is nothing to save in a run state. */
const NO_MEMORY: Partial<Record<RunState, string>> = {
  inmigrate: "it waits for a VM that is to come",
  "finish-migrate": "a migration of it is just ending",
  "restore-vm": "it is loading a snapshot",
  "save-vm": "it is saving a snapshot",
  colo: "it is half of a COLO pair",
};

/**
 * Saves a checkpoint of the VM of a QEMU, which goes on as before.
 *
 * Settings of QEMU that are changed for it stand in a journal meanwhile. Those that an earlier program, which was killed, has left
 * changed are put back first.
 *
 * @throws GodwitError QMP_*, STORE_STATE_DIR, STORE_FULL, STORE_NOT_WRITABLE, and what takeCheckpoint, captureRunning and captureStopped
 * throw; nothing is kept then
 */
export async function saveCheckpoint({
  qmpPath,
  place,
  signal,
  onProgress,
  onWarning,
}: SaveOptions): Promise<SavedCheckpoint> {
  const startMs = performance.now();
  using qmp = await QmpClient.connect(qmpPath);
  const vm = await readFacts(qmp);
  const { status } = await qmp.execute("query-status");
  const why = NO_MEMORY[status];
  if (why !== undefined) {
    throw new GodwitError("QMP_WRONG_STATE", `QEMU has no memory to save: ${why}`, { path: qmpPath, runState: status });
  }
  const sessions = await SessionStore.open(place.stateDir);
  await putBackLeftSettings(qmp, sessions, onWarning);
  let stoppedMs: number | null = null;
  const checkpoint = await takeCheckpoint({ place, vm, origin: "saved", signal, onProgress }, async (capture) => {
    if (status !== "running") return captureStopped(qmp, capture);
    await using notes = await noteSettingsOf(qmp, vm, sessions);
    ({ stoppedMs } = await captureRunning(qmp, capture, notes.note));
  });
  return { checkpoint, ms: performance.now() - startMs, stoppedMs };
}
