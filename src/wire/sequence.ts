/**
 * Which message may come when: the order table of docs/wire-protocol.md, checked by both ends.
 *
 * A rule says what must have gone before, and which earlier messages of the *same* end rule the message out. What the
 * other end sent meanwhile never does: messages that cross on the link are no mistake of anyone.
 */
import { GodwitError } from "../errors.ts";
import type { MessageType } from "./messages.ts";

/** The sender is the end of the source QEMU, the receiver that of the destination QEMU. */
export type Role = "sender" | "receiver";

interface Rule {
  readonly from: Role;
  /** All of these must have gone before; one that both ends may send counts from the other end. */
  readonly after: readonly MessageType[];
  /** None of these may the same end have sent before. */
  readonly notAfter: readonly MessageType[];
}

const sender = (after: MessageType[], notAfter: MessageType[] = []): Rule => ({ from: "sender", after, notAfter });
const receiver = (after: MessageType[], notAfter: MessageType[] = []): Rule => ({ from: "receiver", after, notAfter });

/** The table. A message with two rules may come from both ends. */
export const RULES: Readonly<Record<MessageType, readonly Rule[]>> = {
  HELLO: [sender([], ["HELLO", "REFUSE"])],
  WELCOME: [receiver(["HELLO"], ["WELCOME", "REFUSE"])],
  REFUSE: [
    sender([], ["DATA", "END", "SWITCHOVER", "REFUSE", "ABORT"]), // in place of HELLO when it does not take our certificate
    receiver([], ["WELCOME", "REFUSE"]), // also in answer to a HELLO that can't be read
  ],
  DATA: [sender(["WELCOME"], ["END", "REFUSE", "COMMIT"])],
  ACK: [receiver(["WELCOME"])],
  RETURN: [receiver(["WELCOME"], ["RETURN_END"])],
  END: [sender(["WELCOME"], ["END", "REFUSE"])],
  RETURN_END: [receiver(["WELCOME"], ["RETURN_END"])],
  REPAIR: [sender(["NACK"])],
  PING: [sender(["WELCOME"]), receiver(["WELCOME"])],
  PONG: [sender(["PING"]), receiver(["PING"])],
  NACK: [receiver(["WELCOME"])],
  HASHES: [receiver(["WELCOME"], ["LOADED", "ABORT"])],
  SWITCHOVER: [sender(["WELCOME"], ["SWITCHOVER", "REFUSE", "ABORT"])],
  LOADED: [receiver(["SWITCHOVER"], ["LOADED", "ABORT"])],
  COMMIT: [sender(["LOADED"], ["COMMIT", "ABORT"])],
  RUNNING: [receiver(["COMMIT"], ["RUNNING", "ABORT"])],
  ABORT: [sender(["WELCOME"], ["REFUSE", "ABORT", "COMMIT"]), receiver(["WELCOME"], ["ABORT", "RUNNING"])],
  SETTLED: [sender(["WELCOME"], ["REFUSE", "SETTLED"])],
  PROBE: [sender(["WELCOME"], ["DATA", "END", "SWITCHOVER", "REFUSE", "ABORT"])],
};

/** Follows the messages of one connection, in the order in which this end sees them. */
export class MessageOrder {
  readonly #own: Role;
  readonly #seen: Record<Role, Set<MessageType>> = { sender: new Set(), receiver: new Set() };

  constructor(own: Role) {
    this.#own = own;
  }

  /**
   * To be called with each message before it is acted on.
   *
   * @throws WIRE_OUT_OF_ORDER
   */
  received(type: MessageType): void {
    this.#check(type, this.#own === "sender" ? "receiver" : "sender");
  }

  /**
   * To be called with each message before it is sent.
   *
   * @throws WIRE_OUT_OF_ORDER when that is a mistake of this program.
   */
  sent(type: MessageType): void {
    this.#check(type, this.#own);
  }

  #check(type: MessageType, from: Role): void {
    const problem = this.#problem(type, from);
    if (problem !== undefined) {
      const message = `the ${from} sent ${type} out of order: ${problem}`;
      throw new GodwitError("WIRE_OUT_OF_ORDER", message, { type, from });
    }
    this.#seen[from].add(type);
  }

  #problem(type: MessageType, from: Role): string | undefined {
    const rule = RULES[type].find((candidate) => candidate.from === from);
    if (rule === undefined) return `only the ${from === "sender" ? "receiver" : "sender"} may send it`;
    const sent = this.#seen[from];
    const other = this.#seen[from === "sender" ? "receiver" : "sender"];
    const missing = rule.after.find((needed) => !other.has(needed) && (RULES[needed].length > 1 || !sent.has(needed)));
    if (missing !== undefined) return `it needs ${missing} first`;
    const last = rule.notAfter.find((earlier) => sent.has(earlier));
    return last && (last === type ? "it was sent before" : `it may not follow ${last}`);
  }
}
