import { PAGE_FORMAT } from "../compact/limits.ts";
import { GodwitError } from "../errors.ts";
import type { QmpClient } from "../qemu/qmp.ts";
import type { Journal } from "../store/journal.ts";
import type { Hello, Message, Welcome } from "../wire/messages.ts";
import { DestinationHandOff, type DestinationOutcome } from "./destination-hand-off.ts";
import { DestinationLink } from "./destination-link.ts";
import type { DestinationVm } from "./destination-vm.ts";
import type { EventListener } from "./events.ts";
import { PROGRAM } from "./greeting.ts";
import type { DestinationAction, DestinationState } from "./hand-off/destination.ts";
import type { Step } from "./hand-off/steps.ts";
import type { Peer } from "./peer.ts";
import { WINDOW_BYTES } from "./window.ts";

export interface LeftSessionParts {
  readonly journal: Journal;
  readonly vm: Pick<DestinationVm, "run" | "giveUp">;
  /** Of its QEMU; undefined where that is gone. Closed at the end. */
  readonly qmp: QmpClient | undefined;
  readonly reconnectForMs: number;
  readonly onEvent: EventListener;
}

/** A session whose `receive` is gone, and its stream with it: what is left is to settle where the VM is, and to tell the source. */
export class LeftSession {
  readonly id: string;
  /** Resolves when it is settled, or its source is not waited for any more. */
  readonly ended: Promise<DestinationOutcome>;
  readonly #parts: LeftSessionParts;
  readonly #link: DestinationLink;
  readonly #handOff: DestinationHandOff;

  /** @param begin what the machine of the hand-off begins with */
  constructor(parts: LeftSessionParts, begin: Step<DestinationState, DestinationAction>) {
    this.#parts = parts;
    const { journal, vm, qmp, reconnectForMs, onEvent } = parts;
    const { header, state } = journal.content;
    this.id = header.session;
    this.#link = new DestinationLink({
      hello: { session: this.id, generation: 0, tagKey: header.secret! },
      handler: {
        onMessage: (message) => this.#onMessage(message),
        onData: ({ rawOffset }) => {
          throw new GodwitError("PEER_BAD_OFFSET", "the peer sends a stream that is lost here", { rawOffset });
        },
      },
      reconnectForMs,
      ...(header.peer !== null && { address: header.peer }),
      settle: async () => 0,
      welcome: (generation) => this.#welcome(generation),
      onDown: ({ message }) => {
        onEvent({ event: "disconnected", reason: message });
        this.#handOff.linkDown();
      },
      onUp: (_hello, { generation, awayMs }) => {
        onEvent({ event: "reconnected", generation, peer: this.#link.address, awayMs: awayMs ?? 0 });
        this.#handOff.linkUp(generation);
      },
      onGaveUp: (error) => this.#handOff.linkGivenUp(error),
    });
    this.#link.reopen();
    const hasSaidLoaded = state !== "streaming";
    const rawBytes = () => 0;
    this.#handOff = new DestinationHandOff(
      { link: this.#link, journal, vm, rawBytes, hasSaidLoaded, onEvent, onDecided: () => {} },
      begin,
    );
    void qmp?.closed.then((error) => error && this.#handOff.qemuGone(error));
    this.ended = this.#handOff.ended.then((outcome) => this.#close(outcome));
  }

  /** Takes a connection that names this session, or refuses it. */
  attach(peer: Peer, hello: Hello): Promise<void> {
    return this.#link.offer(peer, hello);
  }

  /** A person does not want to wait for the source any more, or whoever waited for this session has another end. */
  cancel(reason: unknown): void {
    this.#handOff.cancelled(reason);
  }

  async #close(outcome: DestinationOutcome): Promise<DestinationOutcome> {
    await this.#link.goodbye();
    await this.#parts.journal.close();
    this.#parts.qmp?.close();
    return outcome;
  }

  #onMessage(message: Message): void {
    switch (message.type) {
      case "SWITCHOVER":
      case "COMMIT":
      case "ABORT":
      case "SETTLED":
        return this.#handOff.heard(message);
      default:
        throw new GodwitError("WIRE_OUT_OF_ORDER", `a sender that settles does not send ${message.type}`);
    }
  }

  #welcome(generation: number): Welcome {
    return {
      type: "WELCOME",
      session: this.id,
      generation,
      purpose: "settle",
      program: PROGRAM,
      pageFormat: PAGE_FORMAT,
      features: [],
      vm: this.#parts.journal.content.header.vm,
      disks: [],
      checkpoints: [],
      cachePages: 0,
      rawOffset: 0,
      windowBytes: WINDOW_BYTES,
      state: this.#handOff.sessionState,
    };
  }
}
