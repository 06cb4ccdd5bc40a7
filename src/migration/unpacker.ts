import { GodwitError } from "../errors.ts";
import type { DataHeader } from "../wire/messages.ts";
import { defaultThreads } from "./workers/threads.ts";
import { type Slot, Workbench } from "./workers/workbench.ts";

/** Bodies that are unpacked, or wait to be written after that: for each thread, and on top. */
const BODIES_A_THREAD = 2;
const SPARE_BODIES = 4;
const NOTHING: Uint8Array = new Uint8Array(0);

/** A body on its way into the destination QEMU, in order. */
export interface Job {
  readonly header: DataHeader;
  /** Where it stands as it has arrived. */
  readonly slot: Uint8Array;
  /** Where it is unpacked, if it is. */
  unpackSlot?: Slot;
  /** The body, once it is unpacked. */
  body?: Uint8Array;
  /** Where it is restored, once there is room for that. */
  output?: number;
}

export interface UnpackerOptions {
  /** Threads that unpack, beside this one; default: defaultThreads(). */
  readonly threads?: number | undefined;
  /** A job has its body. */
  readonly onUnpacked: () => void;
  /** FORM_PACKING */
  readonly onError: (error: GodwitError) => void;
  readonly onWarning: (message: string) => void;
}

/** Unpacks bodies as far as there are slots. These are given out in the order of the stream. */
export class Unpacker {
  readonly #options: UnpackerOptions;
  readonly #workbench: Workbench;
  /** Jobs that wait for a slot, in order. */
  readonly #waiting: Job[] = [];
  #isStopped = false;

  constructor(options: UnpackerOptions) {
    this.#options = options;
    const { threads = defaultThreads(), onWarning } = options;
    this.#workbench = new Workbench(Math.max(1, threads) * BODIES_A_THREAD + SPARE_BODIES, threads, onWarning);
    this.#workbench.start();
  }

  /** CPU time that unpacking has taken. */
  get cpuMs(): number {
    return this.#workbench.cpuMs;
  }

  /** Gives a job its body, now or later. @param encoded the body as it has arrived */
  add(job: Job, encoded: Uint8Array): void {
    if (job.header.codec === "none") {
      job.body = encoded;
      this.#options.onUnpacked();
      return;
    }
    this.#waiting.push(job);
    this.next();
  }

  /** There may be slots again. */
  next(): void {
    for (let job = this.#waiting[0]; job !== undefined && !this.#isStopped; job = this.#waiting[0]) {
      const slot = this.#workbench.take();
      if (slot === undefined) return;
      this.#waiting.shift();
      this.#unpack(job, slot);
    }
  }

  #unpack(job: Job, slot: Slot): void {
    const { codec, encodedBytes, bodyBytes } = job.header;
    job.unpackSlot = slot;
    slot.input.set(job.slot.subarray(0, encodedBytes));
    this.#workbench.unpack(slot, encodedBytes, codec, bodyBytes, ({ bytes }) => {
      if (bytes !== bodyBytes) {
        const message = "the peer sent a body that can't be unpacked, or that comes to another length than it says";
        this.#options.onError(new GodwitError("FORM_PACKING", message, { codec, bodyBytes, unpackedBytes: bytes }));
        return;
      }
      job.body = slot.output.subarray(0, bodyBytes);
      this.#options.onUnpacked();
    });
  }

  /** Nobody needs those that wait: they get an empty body. */
  giveUp(): void {
    for (const job of this.#waiting.splice(0)) job.body = NOTHING;
  }

  /** The job is done with: its slot is there for the next ones. */
  release({ unpackSlot }: Job): void {
    if (unpackSlot !== undefined) this.#workbench.release(unpackSlot);
  }

  stop(): void {
    this.#isStopped = true;
    this.#workbench.stop();
  }
}
