import { GodwitError } from "../errors.ts";
import { type DataHeader, MAX_BODY_BYTES } from "../wire/messages.ts";

/** Room for bodies: more than is in flight on a link of 10 Gbit/s (BACKLOG_MS of src/wire/backlog.ts). */
const ROOM_BYTES = 12 * MAX_BODY_BYTES;
/** What a waiting body costs beside its bytes, roughly. */
const OVERHEAD_BYTES = 512;

/** A body's place in the room. */
interface Place {
  readonly from: number;
  readonly to: number;
  readonly slot: Uint8Array;
  isFree: boolean;
}

/**
 * Memory for bodies that arrive or wait, as they stand on the wire.
 *
 * It is bounded twice. Normally it is a room of 13 MB, in which bodies stand one behind the other and, as they are released in about
 * that order, in a ring. While the peer owes a REPAIR, more is given out, up to `maxExtraBytes`: the REPAIR stands behind DATA that
 * was on its way already, and could never arrive if that found no room.
 */
export class BodySlots {
  readonly #maxExtraBytes: number;
  readonly #room = new Uint8Array(ROOM_BYTES);
  /** In the order in which they were taken. */
  readonly #places: Place[] = [];
  /** Slots beyond the room, and what each costs. */
  readonly #extra = new Map<Uint8Array, number>();
  #extraBytes = 0;

  constructor(maxExtraBytes: number) {
    this.#maxExtraBytes = maxExtraBytes;
  }

  /**
   * A slot for the encoded body, of its length; undefined when there is no room.
   *
   * @param isOwed the peer owes a REPAIR
   * @throws GodwitError PEER_WINDOW when it sends too much before that
   */
  take(header: DataHeader, isOwed: boolean): Uint8Array | undefined {
    const { encodedBytes } = header;
    const slot = this.#takeRoom(encodedBytes);
    if (slot !== undefined || !isOwed) return slot;
    const cost = encodedBytes + OVERHEAD_BYTES;
    if (this.#extraBytes + cost > this.#maxExtraBytes) {
      const message = "the peer sends more than it may before a range that it was asked for again";
      throw new GodwitError("PEER_WINDOW", message, { maxExtraBytes: this.#maxExtraBytes });
    }
    this.#extraBytes += cost;
    const extra = new Uint8Array(encodedBytes);
    this.#extra.set(extra, cost);
    return extra;
  }

  #takeRoom(encodedBytes: number): Uint8Array | undefined {
    const bytes = encodedBytes + OVERHEAD_BYTES;
    const first = this.#places[0];
    const last = this.#places.at(-1);
    let from = last?.to ?? 0;
    const hasWrapped = first !== undefined && last !== undefined && last.from < first.from;
    if (!hasWrapped && from + bytes > ROOM_BYTES) from = 0;
    const isBelowFirst = hasWrapped || (first !== undefined && from === 0);
    if (from + bytes > (isBelowFirst ? first!.from : ROOM_BYTES)) return undefined;
    const slot = this.#room.subarray(from, from + encodedBytes);
    this.#places.push({ from, to: from + bytes, slot, isFree: false });
    return slot;
  }

  /** The slot is not needed any more. */
  release(slot: Uint8Array): void {
    const cost = this.#extra.get(slot);
    if (cost !== undefined) {
      this.#extraBytes -= cost;
      this.#extra.delete(slot);
      return;
    }
    const place = this.#places.find((place) => place.slot === slot);
    if (place !== undefined) place.isFree = true;
    while (this.#places[0]?.isFree) this.#places.shift();
  }
}
