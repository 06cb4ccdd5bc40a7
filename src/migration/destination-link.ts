import { timingSafeEqual } from "node:crypto";
import { GodwitError } from "../errors.ts";
import type { Hello, Welcome } from "../wire/messages.ts";
import { Link, type LinkOptions, type LinkUp } from "./link.ts";
import type { Peer } from "./peer.ts";

export interface DestinationLinkOptions extends LinkOptions {
  /** The session's HELLO, of whatever generation was the last. */
  readonly hello: Pick<Hello, "session" | "generation" | "tagKey">;
  /** The connection is gone: finishes what can be finished, and resolves with how far the destination QEMU was fed. */
  readonly settle: () => Promise<number>;
  /** What the answer to a later HELLO says. */
  readonly welcome: (generation: number, rawOffset: number) => Welcome;
  /** WELCOME was sent, and the link is up again. Called before anything of the peer's is handled. */
  readonly onUp: (hello: Hello, up: LinkUp) => void;
}

/** The destination's end of a session: takes the connections of its sender, the newest one each time. */
export class DestinationLink extends Link {
  readonly #options: DestinationLinkOptions;
  readonly #tagKey: Buffer;
  /** Of the newest HELLO. */
  #helloGeneration: number;

  constructor(options: DestinationLinkOptions) {
    super(options);
    this.#options = options;
    this.#tagKey = Buffer.from(options.hello.tagKey, "hex");
    this.#helloGeneration = options.hello.generation;
  }

  /** Takes the connection that the first HELLO came on; WELCOME is still to be said. */
  begin(peer: Peer): void {
    this.take(peer, this.#helloGeneration);
  }

  /** Waits for the sender of a session that was another process's. */
  reopen(): void {
    this.leave();
  }

  /**
   * Takes a connection whose HELLO names this session, or refuses it. The one before is dropped, however alive it looks.
   *
   * Resolves when WELCOME was said, or will never be.
   */
  async offer(peer: Peer, hello: Hello): Promise<void> {
    const problem = this.#problem(hello);
    if (problem !== undefined) {
      peer.send({ type: "REFUSE", code: problem.code, message: problem.message, details: problem.details });
      peer.end();
      return;
    }
    this.#helloGeneration = hello.generation;
    this.drop(new GodwitError("WIRE_CLOSED", `${peer.address} goes on with the migration`));
    const rawOffset = await this.#options.settle();
    if (this.isOver || hello.generation !== this.#helloGeneration) return peer.destroy();
    const up = this.take(peer, hello.generation);
    try {
      this.send(this.#options.welcome(hello.generation, rawOffset));
      this.#options.onUp(hello, up);
      void this.startPulse(peer);
    } catch (error) {
      this.giveUp(error);
    }
  }

  #problem({ session, generation, tagKey }: Hello): GodwitError | undefined {
    const isOurs = session === this.#options.hello.session && timingSafeEqual(Buffer.from(tagKey, "hex"), this.#tagKey);
    if (!isOurs || this.isOver)
      return new GodwitError("MIGRATION_UNKNOWN_SESSION", "no such migration is under way here");
    if (generation > this.#helloGeneration) return undefined;
    const message = "a newer connection of this migration is known";
    return new GodwitError("WIRE_REPLAY", message, { generation: this.#helloGeneration });
  }
}
