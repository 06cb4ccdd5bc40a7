import { GodwitError } from "../errors.ts";
import { type DataHeader, MAX_BODY_BYTES } from "../wire/messages.ts";

/** Slots that are kept. */
const SLOTS = 12;
/** What a waiting body costs beside its bytes, roughly. */
const OVERHEAD_BYTES = 512;

/**
 * Memory for bodies that wait, arrive or are being unpacked.
 *
 * It is bounded twice: normally by 12 slots of 1.1 MiB. While the peer owes a REPAIR, more are given out, up to
 * `maxExtraBytes`: the REPAIR stands behind DATA that was on its way already, and could never arrive if that found no room.
 */
export class BodySlots {
  readonly #maxExtraBytes: number;
  readonly #free: Uint8Array[] = Array.from({ length: SLOTS }, () => new Uint8Array(MAX_BODY_BYTES));
  /** Slots beyond those that are kept, and what each costs. */
  readonly #extra = new Map<Uint8Array, number>();
  #extraBytes = 0;

  constructor(maxExtraBytes: number) {
    this.#maxExtraBytes = maxExtraBytes;
  }

  /**
   * A slot for the encoded body, at least as long; undefined when there is no room.
   *
   * @param isOwed the peer owes a REPAIR
   * @throws GodwitError PEER_WINDOW when it sends too much before that
   */
  take(header: DataHeader, isOwed: boolean): Uint8Array | undefined {
    const kept = this.#free.pop();
    if (kept !== undefined || !isOwed) return kept;
    const unpackedBytes = header.codec === "none" ? 0 : header.bodyBytes;
    const cost = header.encodedBytes + unpackedBytes + OVERHEAD_BYTES;
    if (this.#extraBytes + cost > this.#maxExtraBytes) {
      const message = "the peer sends more than it may before a range that it was asked for again";
      throw new GodwitError("PEER_WINDOW", message, { maxExtraBytes: this.#maxExtraBytes });
    }
    this.#extraBytes += cost;
    const slot = new Uint8Array(header.encodedBytes);
    this.#extra.set(slot, cost);
    return slot;
  }

  /** The slot is not needed any more. */
  release(slot: Uint8Array): void {
    const cost = this.#extra.get(slot);
    if (cost === undefined) this.#free.push(slot);
    else this.#extraBytes -= cost;
    this.#extra.delete(slot);
  }
}
