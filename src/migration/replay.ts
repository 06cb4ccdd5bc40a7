import type { Batch } from "../compact/batch-writer.ts";
import { BATCH_PAYLOAD_BYTES } from "../compact/limits.ts";
import { TokenWriter } from "../compact/token-writer.ts";
import type { RawWindow } from "./window.ts";

/**
 * Sends again what a lost connection took with it: the stream as it stands in the window, as raw bytes, so that it depends on nothing
 * that the lost connection did or did not bring.
 */
export class Replay {
  readonly #window: RawWindow;
  readonly #tokens = new TokenWriter();
  readonly #send: (batch: Batch) => void;
  #at: number;

  /** @param from raw offset up to which the destination has the stream */
  constructor(window: RawWindow, from: number, send: (batch: Batch) => void) {
    this.#window = window;
    this.#at = from;
    this.#send = send;
  }

  /** Sends the next body of the range up to raw offset `end`; false when there is nothing left of it. */
  sendNext(end: number): boolean {
    const rawBytes = Math.min(end - this.#at, BATCH_PAYLOAD_BYTES);
    if (rawBytes === 0) return false;
    const rawOffset = this.#at;
    this.#at += rawBytes; // first: sending may ask for the next one
    this.#tokens.reset();
    this.#tokens.raw(rawBytes);
    const pieces = this.#window.pieces(rawOffset, rawBytes);
    const tokens = this.#tokens.bytes;
    this.#send({ rawOffset, rawBytes, tokens, payloadBytes: rawBytes, pieces, hasDifferences: false });
    return true;
  }
}
