import type net from "node:net";
import { GodwitError } from "../errors.ts";
import type { FieldsOf } from "../wire/messages.ts";

/** Return path that the source QEMU has not read. It takes what comes at once, and in all a few bytes a second come. */
const MAX_WAITING_BYTES = 1 << 20;

/** The return path, into the source QEMU: each byte once, whatever number of connections it comes on. */
export class ReturnFeed {
  #socket: net.Socket | undefined;
  #bytes = 0;
  #hasEnded = false;

  /** Bytes that the source QEMU was given. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Where they go from now on. */
  attach(socket: net.Socket): void {
    this.#socket = socket;
  }

  /** @throws GodwitError PEER_BAD_OFFSET when they do not follow what came before, PEER_WINDOW */
  write({ returnOffset, bytes }: FieldsOf<"RETURN">): void {
    this.#expect(returnOffset);
    if (this.#hasEnded) throw new GodwitError("PEER_BAD_OFFSET", "the peer goes on with a return path that it ended");
    this.#bytes += bytes.length;
    if (this.#socket === undefined) return;
    if (this.#socket.writableLength > MAX_WAITING_BYTES) {
      throw new GodwitError("PEER_WINDOW", "the peer sends more of the return path than the source QEMU takes");
    }
    this.#socket.write(bytes);
  }

  /** The destination QEMU has closed its end; said again on each connection. @throws GodwitError PEER_BAD_OFFSET */
  end({ returnBytes }: FieldsOf<"RETURN_END">): void {
    this.#expect(returnBytes);
    this.#hasEnded = true;
    this.#socket?.end();
  }

  #expect(returnOffset: number): void {
    if (returnOffset === this.#bytes) return;
    const details = { returnOffset, expected: this.#bytes };
    throw new GodwitError("PEER_BAD_OFFSET", "the peer sent the return path out of order", details);
  }
}
