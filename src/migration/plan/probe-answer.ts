/** The receiver's end of a link probe (docs/wire-protocol.md, PROBE). */

import { PAGE_FORMAT } from "../../compact/limits.ts";
import { GodwitError } from "../../errors.ts";
import type { VmFacts } from "../../qemu/facts.ts";
import type { Hello, Message } from "../../wire/messages.ts";
import { assertMatch, assertPageFormat, PROGRAM, parseFacts } from "../greeting.ts";
import type { Peer } from "../peer.ts";
import { WINDOW_BYTES } from "../window.ts";

/** What is taken of one probe: several times what a plan sends in its second over the fastest link that TLS can fill. */
const MAX_BYTES = 4 * 1024 ** 3;
const MAX_MS = 10_000;

export interface ProbeLimits {
  readonly maxBytes?: number;
  readonly maxMs?: number;
}

/** Lets a plan measure the link: counts what comes, and acknowledges it. Nothing of the VM is touched, and no byte is kept. */
export class ProbeAnswer {
  readonly #peer: Peer;
  readonly #maxBytes: number;
  readonly #overdue: NodeJS.Timeout;
  #isAckDue = false;
  #isOver = false;

  /**
   * Answers the HELLO of a plan with a WELCOME.
   *
   * @throws GodwitError PEER_PAGE_FORMAT, PEER_BAD_FACTS, MIGRATION_MISMATCH: as a migration would be refused
   */
  constructor(
    peer: Peer,
    hello: Hello,
    facts: VmFacts,
    { allowOlderQemu = false, maxBytes = MAX_BYTES, maxMs = MAX_MS }: ProbeLimits & { allowOlderQemu?: boolean } = {},
  ) {
    assertPageFormat(hello.pageFormat, PAGE_FORMAT);
    assertMatch(parseFacts(hello.vm), facts, allowOlderQemu);
    this.#peer = peer;
    this.#maxBytes = maxBytes;
    peer.send({
      type: "WELCOME",
      session: hello.session,
      generation: hello.generation,
      purpose: "plan",
      program: PROGRAM,
      pageFormat: PAGE_FORMAT,
      features: [],
      vm: facts,
      disks: [],
      checkpoints: [],
      cachePages: 0,
      rawOffset: 0,
      windowBytes: WINDOW_BYTES,
    });
    this.#overdue = setTimeout(() => this.end(`it took more than ${maxMs / 1000} s`), maxMs);
    void peer.closed.then(
      () => this.#stop(),
      () => this.#stop(),
    );
  }

  /** @throws GodwitError WIRE_OUT_OF_ORDER for what belongs to a migration */
  onMessage(message: Message): void {
    if (this.#isOver) return;
    if (message.type === "REFUSE" || message.type === "ABORT") return this.#stop();
    if (message.type !== "PROBE") {
      throw new GodwitError("WIRE_OUT_OF_ORDER", `the sender sent ${message.type} on a connection for a plan`);
    }
    if (this.#peer.receivedBytes > this.#maxBytes) return this.end("it sent too much");
    if (this.#isAckDue) return;
    this.#isAckDue = true;
    // One for all that this turn of the event loop brings.
    setImmediate(() => this.#acknowledge());
  }

  /** Whether it takes no more. */
  get isOver(): boolean {
    return this.#isOver;
  }

  /** Ends it, as something more important has come, or it has had its share. */
  end(why: string): void {
    if (this.#isOver) return;
    this.#stop();
    this.#peer.send({ type: "ABORT", code: "PROBE_OVER", message: `the measurement of the link was ended: ${why}` });
    this.#peer.end();
  }

  #acknowledge(): void {
    this.#isAckDue = false;
    if (this.#isOver) return;
    const { receivedBytes } = this.#peer;
    this.#peer.send({ type: "ACK", rawOffset: 0, wireBytes: receivedBytes, receivedBytes });
  }

  #stop(): void {
    this.#isOver = true;
    clearTimeout(this.#overdue);
  }
}
