import { MAX_RETURN_BYTES, type Message } from "../wire/messages.ts";

/** What is kept at most of what may not have arrived. QEMU writes some bytes a second into it. */
const MAX_KEPT_BYTES = 1 << 20;

export interface ReturnPathOptions {
  /** Sends a message to the peer, if there is a connection. */
  send: (message: Message) => void;
  /** See Peer.ping. */
  ping: () => Promise<boolean>;
  /** Whether the destination QEMU may write more, or has to wait until what it wrote is known to have arrived. */
  onRoom: (hasRoom: boolean) => void;
}

/** The destination QEMU's return path, as far as it is not known to have reached the source: a lost connection may have lost it. */
export class ReturnPath {
  readonly #options: ReturnPathOptions;
  /** What is kept, in order; it ends at `#bytes`. */
  readonly #kept: Uint8Array[] = [];
  #keptBytes = 0;
  #bytes = 0;
  #hasEnded = false;
  #isFull = false;
  /** Who waits for an answer of the peer's. */
  #asking: object | undefined;

  constructor(options: ReturnPathOptions) {
    this.#options = options;
  }

  /** The destination QEMU has written `bytes`, which are not changed any more. */
  write(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; at += MAX_RETURN_BYTES) {
      const part = bytes.subarray(at, at + MAX_RETURN_BYTES);
      this.#options.send({ type: "RETURN", returnOffset: this.#bytes, bytes: part });
      this.#kept.push(part);
      this.#keptBytes += part.length;
      this.#bytes += part.length;
    }
    this.#look();
    if (this.#asking === undefined) void this.#ask();
  }

  /** The destination QEMU has closed it. */
  end(): void {
    this.#hasEnded = true;
    this.#options.send({ type: "RETURN_END", returnBytes: this.#bytes });
  }

  /** There is a new connection: sends again what does not stand before `returnOffset`. @returns whether all of that is still here */
  resume(returnOffset: number): boolean {
    const isKept = returnOffset <= this.#bytes && returnOffset >= this.#bytes - this.#keptBytes;
    if (!isKept) return false;
    this.#forget(returnOffset);
    let at = this.#bytes - this.#keptBytes;
    for (const bytes of this.#kept) {
      this.#options.send({ type: "RETURN", returnOffset: at, bytes });
      at += bytes.length;
    }
    if (this.#hasEnded) this.end();
    void this.#ask();
    return true;
  }

  /** Asks the peer whether it is there, until all is known to have arrived, or the connection is gone. */
  async #ask(): Promise<void> {
    const asking = {};
    this.#asking = asking;
    while (this.#keptBytes > 0 && this.#asking === asking) {
      const sentBytes = this.#bytes;
      if (!(await this.#options.ping())) break;
      this.#forget(sentBytes);
    }
    if (this.#asking === asking) this.#asking = undefined;
  }

  #forget(upTo: number): void {
    let surplus = this.#keptBytes - (this.#bytes - upTo);
    for (let first = this.#kept[0]; first !== undefined && surplus > 0; first = this.#kept[0]) {
      const gone = Math.min(surplus, first.length);
      surplus -= gone;
      this.#keptBytes -= gone;
      if (gone === first.length) this.#kept.shift();
      else this.#kept[0] = first.subarray(gone);
    }
    this.#look();
  }

  #look(): void {
    const isFull = this.#keptBytes > MAX_KEPT_BYTES;
    if (isFull === this.#isFull) return;
    this.#isFull = isFull;
    this.#options.onRoom(!isFull);
  }
}
