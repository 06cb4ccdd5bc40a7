import type { Message } from "../wire/messages.ts";

/** Acknowledgements are at least so far apart, unless there is much to acknowledge. */
const ACK_MS = 2;

export interface AcknowledgerOptions {
  readonly send: (message: Message) => void;
  /** Bytes that the destination QEMU has taken. */
  readonly rawBytes: () => number;
  /** Bytes of messages received on the connection so far; and of these, bodies that are not written. */
  readonly wireBytes: () => number;
  readonly queuedBytes: () => number;
}

/** Tells the peer how far the destination QEMU was fed, and what of its messages has arrived (docs/wire-protocol.md, ACK). */
export class Acknowledger {
  readonly #options: AcknowledgerOptions;
  #rawBytes = 0;
  #atMs = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: AcknowledgerOptions) {
    this.#options = options;
  }

  /** What the peer was told last: it may send a window more. */
  get rawBytes(): number {
    return this.#rawBytes;
  }

  /** Now, or when enough time has passed since the last one. */
  soon(): void {
    if (this.#timer !== undefined) return;
    const waitMs = this.#atMs + ACK_MS - performance.now();
    if (waitMs <= 0) this.now();
    else this.#timer = setTimeout(() => this.now(), waitMs);
  }

  now(): void {
    this.stop();
    this.#atMs = performance.now();
    const { send, rawBytes, wireBytes, queuedBytes } = this.#options;
    const receivedBytes = wireBytes();
    this.#rawBytes = rawBytes();
    send({ type: "ACK", rawOffset: this.#rawBytes, wireBytes: receivedBytes - queuedBytes(), receivedBytes });
  }

  /** There is a new connection, and WELCOME has told the peer. */
  restart(): void {
    this.#rawBytes = this.#options.rawBytes();
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}
