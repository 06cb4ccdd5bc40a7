import type { Batch } from "../compact/batch-writer.ts";
import { GodwitError } from "../errors.ts";
import type { RepairHeader } from "../wire/messages.ts";
import type { PlaceReferences } from "./references.ts";
import { Replay } from "./replay.ts";
import type { RawWindow } from "./window.ts";

/** What the destination may not have yet: it stands in the raw window until it is acknowledged, and is sent again when it has to be. */
export class Retransmission {
  readonly #window: RawWindow;
  readonly #references: PlaceReferences | undefined;
  readonly #send: (batch: Batch) => void;
  #ackedBytes = 0;
  #replay: Replay | undefined;

  constructor(window: RawWindow, references: PlaceReferences | undefined, send: (batch: Batch) => void) {
    this.#window = window;
    this.#references = references;
    this.#send = send;
  }

  /** Raw offset up to which the destination QEMU was fed. */
  get ackedBytes(): number {
    return this.#ackedBytes;
  }

  acknowledged(rawOffset: number): void {
    this.#ackedBytes = Math.max(this.#ackedBytes, rawOffset);
    this.#window.release(this.#ackedBytes);
    this.#references?.acknowledged(this.#ackedBytes);
  }

  /**
   * The bytes of a range that the peer asks for.
   *
   * @throws GodwitError PEER_BAD_NACK when no reference stood for it
   */
  slices(range: RepairHeader): Uint8Array[] {
    if (this.#references === undefined) {
      throw new GodwitError("PEER_BAD_NACK", "the peer asked for bytes that no reference stood for", { ...range });
    }
    this.#references.nacked(range);
    return this.#window.slices(range.rawOffset, range.rawBytes);
  }

  /** The connection is gone. */
  detach(): void {
    this.#replay = undefined;
  }

  /** There is a new one, on which what lies behind `rawOffset` is sent again. */
  begin(rawOffset: number): void {
    this.acknowledged(rawOffset);
    this.#references?.drop();
    this.#replay = new Replay(this.#window, rawOffset, this.#send);
  }

  /** Whether there is a connection on which not all is sent again. */
  get isUnderWay(): boolean {
    return this.#replay !== undefined;
  }

  /** Sends the next body again, up to raw offset `end`; false when there is nothing left of that. */
  sendNext(end: number): boolean {
    return this.#replay!.sendNext(end);
  }

  /** All is sent again; nobody asks for references of before. */
  finish(): void {
    this.#references?.drop();
    this.#replay = undefined;
  }
}
