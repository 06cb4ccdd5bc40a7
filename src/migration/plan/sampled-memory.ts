/** Reads a random sample of a running guest's memory, twice. */

import { randomInt } from "node:crypto";
import { closeSync, openSync, readSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { GodwitError, messageOf } from "../../errors.ts";
import { type MemoryRange, readMemoryMap } from "../../qemu/guest-memory.ts";
import type { QmpClient } from "../../qemu/qmp.ts";
import { PAGE_BYTES } from "../../stream/format.ts";
import { makeSocketFolder } from "../socket-folder.ts";

/**
 * Consecutive pages that are read at once: 128 KiB. QEMU's main loop holds its big lock meanwhile, so a vCPU that wants to do I/O waits for
 * 0.1 to 0.5 ms (`npm run bench plan`).
 */
export const CLUSTER_PAGES = 32;
export const CLUSTER_BYTES = CLUSTER_PAGES * PAGE_BYTES;
/** 16 MiB in all, whatever the guest's size: what is told is as good for any. */
export const MAX_CLUSTERS = 128;
/** Between two pieces QEMU is left alone for so many times what one took, and so long at least; a monitor that is slow is not QEMU at work. */
const REST_FACTOR = 16;
const REST_MS = 8;
const MOST_REST_MS = 100;
/** A QEMU that is slow is asked for fewer pieces. */
const MAX_PASS_MS = 5000;

/** Takes what was read. */
export interface SampleTarget {
  /** Where a cluster is to be put: CLUSTER_BYTES. */
  place(cluster: number): Uint8Array;
  /** All of the cluster stands there; `ms` after it was read for the first time, or 0. */
  taken(cluster: number, ms: number): void;
}

/**
 * Reads clusters of pages at random places, and after the last one all of them again into the second target.
 *
 * QEMU writes them into a file in memory (`pmemsave`), as only it can read a running guest. @returns how many there were
 * @throws GodwitError QMP_MEMORY_MAP; QMP_COMMAND_FAILED when QEMU can't write there; MIGRATION_MEMORY_UNREAD when we can't read it; what
 * `execute` throws; or the signal's reason
 */
export async function sampleTwice(
  qmp: QmpClient,
  first: SampleTarget,
  second: SampleTarget,
  signal?: AbortSignal,
): Promise<number> {
  const pages = choosePages(await readMemoryMap(qmp), MAX_CLUSTERS, (below) => randomInt(below));
  const readAtMs: number[] = [];
  await using folder = await makeSocketFolder(qmp.path);
  const reader = new ClusterReader(qmp, join(folder.path, "sample"));
  try {
    const startMs = performance.now();
    for (const [i, page] of pages.entries()) {
      readAtMs.push(await reader.read(page, first.place(i), signal));
      first.taken(i, 0);
      if (performance.now() - startMs > MAX_PASS_MS) break;
    }
    for (const [i, atMs] of readAtMs.entries()) {
      const nowMs = await reader.read(pages[i]!, second.place(i), signal);
      second.taken(i, nowMs - atMs);
    }
    return readAtMs.length;
  } finally {
    await reader.close();
  }
}

/**
 * Chooses first pages of clusters: one at a random place in each of `count` equal parts of the memory, as neighbours are alike; any first
 * few of them are spread over all of it, too. All clusters where there are not more.
 *
 * @param below a random whole number from 0 on and below the given one
 */
export function choosePages(
  ranges: readonly MemoryRange[],
  count: number,
  below: (limit: number) => number,
): readonly number[] {
  const clusters = ranges.map(({ pages }) => Math.floor(pages / CLUSTER_PAGES));
  const total = clusters.reduce((sum, some) => sum + some, 0);
  const parts = Math.min(count, total);
  const startOf = (part: number) => Math.floor((part * total) / parts);
  const order = Array.from({ length: parts }, (_, part) => part).sort((a, b) => turnOf(a) - turnOf(b));
  return order.map((part) => {
    let left = startOf(part) + below(startOf(part + 1) - startOf(part));
    let range = 0;
    while (left >= clusters[range]!) left -= clusters[range++]!;
    return ranges[range]!.firstPage + left * CLUSTER_PAGES;
  });
}

/** When a part has its turn, from 0 to 1: multiples of the golden ratio are nowhere crowded. */
function turnOf(part: number): number {
  return ((part * (Math.sqrt(5) - 1)) / 2) % 1;
}

class ClusterReader {
  readonly #qmp: QmpClient;
  readonly #path: string;
  #file: number | undefined;
  #saving: Promise<unknown> = Promise.resolve();

  constructor(qmp: QmpClient, path: string) {
    this.#qmp = qmp;
    this.#path = path;
  }

  /** Returns when it was read. */
  async read(page: number, target: Uint8Array, signal?: AbortSignal): Promise<number> {
    signal?.throwIfAborted();
    const startMs = performance.now();
    this.#saving = this.#qmp.execute("pmemsave", { val: page * PAGE_BYTES, size: CLUSTER_BYTES, filename: this.#path });
    await this.#saving;
    const nowMs = performance.now();
    if (this.#readInto(target) < CLUSTER_BYTES) {
      throw new GodwitError("MIGRATION_MEMORY_UNREAD", `QEMU's file ${this.#path} is too short`);
    }
    const restMs = Math.min(MOST_REST_MS, Math.max(REST_MS, REST_FACTOR * (nowMs - startMs)));
    await delay(restMs, undefined, { signal });
    return nowMs;
  }

  /** QEMU must be done with the folder before that goes. */
  async close(): Promise<void> {
    await this.#saving.catch(() => {});
    if (this.#file !== undefined) closeSync(this.#file);
  }

  /** QEMU empties the file and writes it anew each time; it stays the same file. */
  #readInto(target: Uint8Array): number {
    try {
      this.#file ??= openSync(this.#path, "r");
      return readSync(this.#file, target, 0, CLUSTER_BYTES, 0);
    } catch (cause) {
      const message = `QEMU's file can't be read: ${messageOf(cause)}`;
      throw new GodwitError("MIGRATION_MEMORY_UNREAD", message, {}, { cause });
    }
  }
}
