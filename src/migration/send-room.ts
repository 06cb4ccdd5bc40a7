import { Backlog } from "../wire/backlog.ts";
import { type Hold, Holds } from "./holds.ts";
import { Pacer } from "./pacer.ts";

/**
 * What the destination has yet to restore is held to so much of its time, as what is on the link is: references and zero pages are
 * next to nothing on the link, but what waits there at switch-over is downtime all the same. At least so much: two full bodies.
 */
const RESTORING_MS = 25;
const MIN_RESTORING_BYTES = 8 * 1024 * 1024;

export interface SendRoomParts {
  /** Of the connection that there is. */
  readonly backlog: () => Backlog;
  /** What is being packed: bodies, and what they will come to on the link. */
  readonly packing: () => { bodies: number; wireBytes: number };
  readonly maxPacking: number;
  /** Wire bytes per second at most; undefined: no limit. */
  readonly maxBytesPerSecond: number | undefined;
  /** There may be room again. */
  readonly onRoom: () => void;
  readonly now: () => number;
}

/** Whether there is room to send more, and what holds it back where there is not: the link, packing, the destination, or a user's rate. */
export class SendRoom {
  readonly #parts: SendRoomParts;
  readonly #holds = new Holds();
  /** The raw bytes that the destination has yet to restore. */
  readonly #restoring = new Backlog(RESTORING_MS, MIN_RESTORING_BYTES);
  readonly #pacer: Pacer;
  #paceTimer: NodeJS.Timeout | undefined;

  constructor(parts: SendRoomParts) {
    this.#parts = parts;
    this.#pacer = new Pacer(parts.maxBytesPerSecond);
  }

  /** Whether the user's rate is off for now. */
  set isUnlimited(isUnlimited: boolean) {
    this.#pacer.isLifted = isUnlimited;
  }

  /** How fast the destination restores, in raw bytes; and for how long it was waited for. */
  get restoring(): { bytesPerSecond: number; heldMs: number } {
    const heldMs = this.#holds.restoringMs(this.#parts.now());
    return { bytesPerSecond: this.#restoring.goodputBytesPerSecond, heldMs };
  }

  /** The speed of the link as far as it was seen, or the rate that a user allows it. */
  get linkBytesPerSecond(): number {
    const limit = this.#pacer.limitingBytesPerSecond(this.#parts.now());
    return Math.min(this.#parts.backlog().goodputBytesPerSecond, limit);
  }

  /** See Holds.take. */
  takeHolds(): ReturnType<Holds["take"]> {
    return this.#holds.take(this.#parts.now());
  }

  /** Whether more may be sent. */
  get isThere(): boolean {
    return this.#hold() === undefined;
  }

  /** Whether more of the stream is to be read. @param hasPlace whether there is place for it */
  mayRead(hasPlace: boolean): boolean {
    const hold = this.#hold() ?? (hasPlace ? undefined : "other");
    this.#holds.set(hold, this.#parts.now());
    return hold === undefined;
  }

  #hold(): Hold | undefined {
    const waitMs = this.#pacer.waitMs(this.#parts.now());
    if (waitMs > 0) {
      this.#paceTimer ??= setTimeout(() => {
        this.#paceTimer = undefined;
        this.#parts.onRoom();
      }, waitMs);
      return "link";
    }
    const { inFlightBytes, onLinkBytes, allowanceBytes } = this.#parts.backlog();
    const packing = this.#parts.packing();
    if (inFlightBytes + packing.wireBytes >= allowanceBytes) return onLinkBytes > inFlightBytes / 2 ? "link" : "other";
    if (packing.bodies >= this.#parts.maxPacking) return "packing";
    return this.#restoring.hasRoom ? undefined : "restoring";
  }

  /** A body of so many raw bytes goes out. */
  sentRaw(rawBytes: number): void {
    this.#restoring.sent(rawBytes);
  }

  /** So many bytes of messages were written. */
  sentWire(bytes: number): void {
    this.#pacer.sent(bytes, this.#parts.now());
  }

  /** See ACK in docs/wire-protocol.md. */
  acknowledged(rawOffset: number, wireBytes: number, receivedBytes: number): void {
    const now = this.#parts.now();
    const backlog = this.#parts.backlog();
    backlog.acked(wireBytes, receivedBytes, now);
    if (backlog.minRttMs !== undefined) this.#restoring.roundTrip(backlog.minRttMs);
    this.#restoring.acked(rawOffset, rawOffset, now);
  }

  /** There is no connection. */
  detach(): void {
    this.#holds.set("other", this.#parts.now());
  }

  /** There is another one, and the destination has the stream up to `rawOffset`. */
  resume(rawOffset: number): void {
    this.#restoring.restart(rawOffset);
  }

  stop(): void {
    clearTimeout(this.#paceTimer);
  }
}
