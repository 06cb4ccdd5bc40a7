import { INDEX_BUCKET_BYTES, indexBucketsFor, LZ4_TABLE_BYTES, TAG_SCRATCH_BYTES } from "../compact/page-kernels.ts";
import { xxh3Secret } from "../compact/xxh3-secret.ts";
import type { KernelSource } from "../store/checkpoint-kernels.ts";
import { type CheckpointStore, openCheckpointStore } from "../store/checkpoint-store.ts";
import { createKernels } from "./kernels.ts";

const KERNELS: KernelSource = {
  create: createKernels,
  xxh3Secret,
  tagScratchBytes: TAG_SCRATCH_BYTES,
  lz4TableBytes: LZ4_TABLE_BYTES,
  indexBucketBytes: INDEX_BUCKET_BYTES,
  indexBucketsFor,
};

/**
 * Opens the checkpoint store in a host's state folder.
 *
 * @throws STORE_STATE_DIR
 */
export function openCheckpoints(stateDir: string, options: { maxBytes?: number } = {}): Promise<CheckpointStore> {
  return openCheckpointStore(stateDir, { kernels: KERNELS, maxBytes: options.maxBytes });
}
