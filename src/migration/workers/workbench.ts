import type { Packing } from "../../compact/codec.ts";
import { LZ4_TABLE_BYTES } from "../../compact/page-kernels.ts";
import { MAX_BODY_BYTES } from "../../wire/messages.ts";
import { createKernels, type Kernels } from "../kernels.ts";
import type { BodyResult } from "./job.ts";
import { WorkerPool } from "./pool.ts";

/** Where a body is packed or unpacked: it goes in at one place, and comes out at the other. */
export interface Slot {
  /** MAX_BODY_BYTES each. */
  readonly input: Uint8Array;
  readonly output: Uint8Array;
}

/** A body in, a body out, and what LZ4 works in. */
const SLOT_BYTES = 2 * MAX_BODY_BYTES + LZ4_TABLE_BYTES;

/** Slots in memory that worker threads share, and what they do there. */
export class Workbench {
  readonly #kernels: Kernels;
  readonly #pool: WorkerPool;
  readonly #threads: number;
  readonly #free: Slot[];

  /** @param threads beside the one that asks; 0: all is done in that */
  constructor(slots: number, threads: number, onWarning: (message: string) => void) {
    this.#threads = threads;
    this.#kernels = createKernels(slots * SLOT_BYTES);
    this.#pool = new WorkerPool(this.#kernels.memory, this.#kernels.pages, onWarning);
    this.#free = Array.from({ length: slots }, (_, i) => this.#slotAt(this.#kernels.base + i * SLOT_BYTES));
  }

  #slotAt(at: number): Slot {
    const { bytes } = this.#kernels;
    const outputAt = at + MAX_BODY_BYTES;
    return { input: bytes.subarray(at, outputAt), output: bytes.subarray(outputAt, outputAt + MAX_BODY_BYTES) };
  }

  /** CPU time that packing and unpacking has taken, in whatever thread. */
  get cpuMs(): number {
    return this.#pool.cpuMs;
  }
  /** Threads that have come up. */
  get threads(): number {
    return this.#pool.threads;
  }

  /** Starts the threads, which takes them some 50 ms; what is asked of them before is done in this one. */
  start(): void {
    this.#pool.start(this.#threads);
  }

  /** A slot that is free; undefined while there is none. */
  take(): Slot | undefined {
    return this.#free.pop();
  }

  release(slot: Slot): void {
    this.#free.push(slot);
  }

  /** Packs the first `bytes` of the slot's input into its output; the result's bytes are 0 where that is not shorter. */
  pack(slot: Slot, bytes: number, packing: Packing, done: (result: BodyResult) => void): void {
    this.#run("pack", slot, bytes, packing, bytes - 1, done);
  }

  /** Unpacks the first `bytes` of the slot's input, to `bodyBytes` at most; the result's bytes are 0 where that can't be. */
  unpack(
    slot: Slot,
    bytes: number,
    codec: Packing["codec"],
    bodyBytes: number,
    done: (result: BodyResult) => void,
  ): void {
    this.#run("unpack", slot, bytes, { codec, level: 0 }, bodyBytes, done);
  }

  #run(
    task: "pack" | "unpack",
    { input, output }: Slot,
    bytes: number,
    { codec, level }: Packing,
    capacity: number,
    done: (result: BodyResult) => void,
  ): void {
    const [from, to] = [input.byteOffset, output.byteOffset];
    this.#pool.run({ task, codec, level, from, bytes, to, capacity, table: to + MAX_BODY_BYTES }, done);
  }

  /** Ends the threads; what they were doing is never done. */
  stop(): void {
    this.#pool.stop();
  }
}
