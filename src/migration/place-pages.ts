import type { PlaceRun } from "../compact/decoder.ts";
import { CHECKPOINT, DISK } from "../compact/limits.ts";
import { TAG_BYTES } from "../compact/page-kernels.ts";
import type { RunTags } from "../compact/run-tags.ts";
import type { GodwitError } from "../errors.ts";
import type { DiskReader } from "../store/disk-reader.ts";
import { type BatchRead, readBatch } from "../store/read-batch.ts";
import { HEADER_BYTES, PAGE_BYTES, PAGE_RECORD_BYTES } from "../stream/format.ts";

/** A disk or a checkpoint that references may be to. */
export interface AgreedPlace {
  readonly reader: DiskReader;
  /** How many whole blocks of PAGE_BYTES it has, as both ends know. */
  readonly blocks: number;
}

/** What both ends agreed on, in the order of WELCOME. */
export interface AgreedPlaces {
  readonly disks: readonly AgreedPlace[];
  readonly checkpoints: readonly AgreedPlace[];
}

/** Fills page records with contents from disks and checkpoints. */
export class PlacePages {
  readonly #memory: Uint8Array;
  readonly #tags: RunTags;
  readonly #readers: readonly { kind: PlaceRun["kind"]; source: number; reader: DiskReader }[];
  readonly #onReadError: (reader: DiskReader, error: GodwitError) => void;

  /**
   * @param memory what the addresses of runs are indexes into
   * @param onReadError is told of every run that cannot be read
   */
  constructor(
    memory: Uint8Array,
    tags: RunTags,
    { disks, checkpoints }: AgreedPlaces,
    onReadError: (reader: DiskReader, error: GodwitError) => void,
  ) {
    this.#memory = memory;
    this.#tags = tags;
    this.#readers = [
      ...disks.map(({ reader }, source) => ({ kind: DISK, source, reader }) as const),
      ...checkpoints.map(({ reader }, source) => ({ kind: CHECKPOINT, source, reader }) as const),
    ];
    this.#onReadError = onReadError;
  }

  /**
   * Reads the runs of a body into place, and checks their tags. Their memory is to be left alone until it has settled.
   *
   * @returns the runs that could not be read, or whose contents are not what was meant
   */
  async fill(runs: readonly PlaceRun[]): Promise<PlaceRun[]> {
    const bad = new Set<PlaceRun>();
    await Promise.all(
      this.#readers.map(async ({ kind, source, reader }) => {
        const own = runs.filter((run) => run.kind === kind && run.source === source);
        const failures = await readBatch(reader, own.map(this.#readOf));
        failures.forEach((failure, index) => {
          if (failure === undefined) return;
          bad.add(own[index]!);
          this.#onReadError(reader, failure);
        });
      }),
    );
    for (const run of this.#mismatches(runs.filter((run) => !bad.has(run)))) bad.add(run);
    return [...bad];
  }

  readonly #readOf = ({ block, count, address }: PlaceRun): BatchRead => {
    const targets: Uint8Array[] = [];
    for (let at = address + HEADER_BYTES; targets.length < count; at += PAGE_RECORD_BYTES)
      targets.push(this.#memory.subarray(at, at + PAGE_BYTES));
    return { offsetBytes: block * PAGE_BYTES, targets };
  };

  #mismatches(runs: readonly PlaceRun[]): PlaceRun[] {
    const pageRuns = runs.map(({ address, count }) => ({ address: address + HEADER_BYTES, count }));
    const tags = this.#tags.tag(pageRuns, PAGE_RECORD_BYTES);
    return runs.filter(({ tag }, index) => {
      const at = index * TAG_BYTES;
      return Buffer.compare(tags.subarray(at, at + TAG_BYTES), tag) !== 0;
    });
  }
}
