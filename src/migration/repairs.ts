import { GodwitError } from "../errors.ts";
import type { Message, RepairHeader } from "../wire/messages.ts";

interface Wanted {
  readonly target: Uint8Array;
  readonly done: (hasCome: boolean) => void;
}

/** Raw ranges that were asked for again, because what a reference gave was not what the source had. */
export class Repairs {
  readonly #send: (message: Message) => void;
  /** By raw offset: asked for, and not begun to arrive. */
  readonly #wanted = new Map<number, Wanted>();
  #arriving: Wanted | undefined;

  constructor(send: (message: Message) => void) {
    this.#send = send;
  }

  /** Whether the peer still owes a REPAIR. */
  get isWaiting(): boolean {
    return this.#wanted.size > 0 || this.#arriving !== undefined;
  }

  /** Asks the peer for the raw range from `rawOffset` on that fills `target`. Resolves when it does; with false if it never will. */
  async ask(rawOffset: number, target: Uint8Array): Promise<boolean> {
    const { promise, resolve } = Promise.withResolvers<boolean>();
    this.#wanted.set(rawOffset, { target, done: resolve });
    this.#send({ type: "NACK", rawOffset, rawBytes: target.length });
    return promise;
  }

  /** The peer that owes them is gone. */
  drop(): void {
    this.#arriving?.done(false);
    this.#arriving = undefined;
    for (const { done } of this.#wanted.values()) done(false);
    this.#wanted.clear();
  }

  /** See MessageHandler. @throws GodwitError PEER_BAD_REPAIR when it is not a range that was asked for */
  onRepair({ rawOffset, rawBytes }: RepairHeader): Uint8Array {
    const wanted = this.#wanted.get(rawOffset);
    if (wanted?.target.length !== rawBytes) {
      throw new GodwitError("PEER_BAD_REPAIR", "the peer sent a range again that was not asked for", {
        rawOffset,
        rawBytes,
      });
    }
    this.#wanted.delete(rawOffset);
    this.#arriving = wanted;
    return wanted.target;
  }

  /** See MessageHandler. */
  onRepairComplete(): void {
    this.#arriving?.done(true);
    this.#arriving = undefined;
  }
}
