/** The sender's end of a link probe (docs/wire-protocol.md, PROBE): how fast messages arrive, and how long a round trip takes. */

import { randomBytes } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import { PAGE_FORMAT } from "../../compact/limits.ts";
import type { Estimate } from "../../control/downtime.ts";
import { GodwitError } from "../../errors.ts";
import type { VmFacts } from "../../qemu/facts.ts";
import { encodeMessage } from "../../wire/encoding.ts";
import { HEADER_BYTES, MAX_PROBE_BYTES, type Message, type Welcome } from "../../wire/messages.ts";
import { type ConnectOptions, connect } from "../../wire/transport.ts";
import { assertMatch, assertPageFormat, PROGRAM, parseFacts } from "../greeting.ts";
import { Failure, PeerAborted, PeerRefused, withTimeout } from "../outcome.ts";
import { Peer } from "../peer.ts";

/** For the receiver's WELCOME. */
const WELCOME_TIMEOUT_MS = 10_000;
/** Round trips that are measured on the idle link. */
const ROUND_TRIPS = 8;
/** Until the link is full: TCP's slow start, and what buckets of a shaper let through at once. */
const WARM_UP_MS = 400;
const MEASURE_MS = 1000;
/** The rate is looked at in stretches of this length: so many tell how steady it is. */
const STRETCH_MS = 100;
/** Small messages on a slow link, so that it is not seen in steps. */
const SLOW_BYTES_PER_SECOND = 20e6;
const SLOW_PROBE_BYTES = 8 * 1024;
/** How long the peer may acknowledge nothing. */
const STILL_MS = 3000;

/** What a probe has found. */
export interface LinkFigures {
  /** Bytes of messages that arrive in a second, in each stretch. */
  readonly stretchesBytesPerSecond: readonly number[];
  /** Of all of them. */
  readonly goodputBytesPerSecond: number;
  readonly roundTripMs: Estimate;
  /** Of the destination's QEMU. */
  readonly facts: VmFacts;
}

export interface ProbeOptions extends ConnectOptions {
  readonly allowOlderQemu?: boolean;
  readonly signal?: AbortSignal;
}

/**
 * Fills the link to a receiver for a second and a half, and measures it. Nothing is changed at the other end.
 *
 * @param facts of the VM that would be sent: the receiver refuses one that does not fit
 * @throws GodwitError WIRE_*, PEER_REFUSED, PEER_ABORTED, PEER_BAD_FACTS, MIGRATION_MISMATCH; PEER_NO_PROBE where the receiver is too old
 * for it; MIGRATION_TIMEOUT when it does not answer; or the signal's reason
 */
export async function probeLink(options: ProbeOptions, facts: VmFacts): Promise<LinkFigures> {
  options.signal?.throwIfAborted();
  const connection = await connect(options);
  const probe = new LinkProbe(connection, options.signal);
  try {
    return await probe.run(facts, options.allowOlderQemu ?? false);
  } finally {
    probe.close();
  }
}

class LinkProbe {
  readonly #peer: Peer;
  readonly #failure = new Failure();
  readonly #welcome = Promise.withResolvers<Welcome>();
  readonly #signal: AbortSignal | undefined;
  readonly #onAbort = () => this.#failure.report(this.#signal?.reason);
  #probeBytes = SLOW_PROBE_BYTES;
  #message = probeOf(SLOW_PROBE_BYTES);
  #isSending = false;
  #heardAtMs = 0;
  #receivedBytes = 0;

  constructor(connection: ConstructorParameters<typeof Peer>[0], signal: AbortSignal | undefined) {
    this.#signal = signal;
    this.#peer = new Peer(connection, "sender", { onMessage: (message) => this.#onMessage(message) });
    this.#peer.closed.then(
      () => this.#failure.report(new GodwitError("WIRE_CLOSED", `${this.#peer.address} closed the connection`)),
      (error) => this.#failure.report(error),
    );
    signal?.addEventListener("abort", this.#onAbort);
  }

  close(): void {
    this.#isSending = false;
    this.#signal?.removeEventListener("abort", this.#onAbort);
    this.#peer.end();
  }

  async run(facts: VmFacts, allowOlderQemu: boolean): Promise<LinkFigures> {
    const theirs = await this.#greet(facts, allowOlderQemu);
    const roundTripMs = await this.#measureRoundTrip();
    const stretches = await this.#fill();
    const sum = stretches.reduce((sum, rate) => sum + rate, 0);
    return {
      stretchesBytesPerSecond: stretches,
      goodputBytesPerSecond: sum / stretches.length,
      roundTripMs,
      facts: theirs,
    };
  }

  async #greet(facts: VmFacts, allowOlderQemu: boolean): Promise<VmFacts> {
    this.#peer.send({
      type: "HELLO",
      session: randomBytes(16).toString("hex"),
      generation: 1,
      purpose: "plan",
      program: PROGRAM,
      pageFormat: PAGE_FORMAT,
      features: [],
      vm: facts,
      disks: [],
      checkpointPages: 0,
      cachePages: 0,
      returnOffset: 0,
      knownHashes: 0,
      tagKey: randomBytes(32).toString("hex"),
    });
    const answer = this.#failure.or(this.#welcome.promise);
    const welcome = await withTimeout(answer, WELCOME_TIMEOUT_MS, `${this.#peer.address} sent no WELCOME`);
    try {
      if (welcome.purpose !== "plan") {
        throw new GodwitError("PEER_NO_PROBE", "the destination's godwit is too old to have the link measured");
      }
      assertPageFormat(welcome.pageFormat, PAGE_FORMAT);
      const theirs = parseFacts(welcome.vm);
      assertMatch(facts, theirs, allowOlderQemu);
      return theirs;
    } catch (error) {
      const { code, message } = error as GodwitError;
      this.#peer.send({ type: "REFUSE", code, message });
      throw error;
    }
  }

  async #measureRoundTrip(): Promise<Estimate> {
    const all: number[] = [];
    for (let i = 0; i < ROUND_TRIPS; i++) {
      const sentMs = performance.now();
      const isAnswered = await this.#failure.or(withTimeout(this.#peer.ping(), STILL_MS, "no round trip was made"));
      if (isAnswered) all.push(performance.now() - sentMs);
    }
    all.sort((a, b) => a - b);
    return { low: all[0]!, expected: all[Math.floor(all.length / 2)]!, high: all.at(-1)! };
  }

  /** Keeps as much in flight as a migration does, and says what came in per second in each stretch of the time. */
  async #fill(): Promise<number[]> {
    this.#heardAtMs = performance.now();
    this.#isSending = true;
    this.#send();
    await this.#failure.or(delay(WARM_UP_MS));
    const stretches: number[] = [];
    let before = { atMs: performance.now(), bytes: this.#receivedBytes };
    const endMs = before.atMs + MEASURE_MS;
    while (before.atMs < endMs) {
      await this.#failure.or(delay(STRETCH_MS));
      const now = { atMs: performance.now(), bytes: this.#receivedBytes };
      if (now.atMs - this.#heardAtMs > STILL_MS) throw stillError(this.#peer.address);
      stretches.push(((now.bytes - before.bytes) * 1000) / (now.atMs - before.atMs));
      before = now;
    }
    this.#isSending = false;
    if (stretches.every((rate) => rate === 0)) throw stillError(this.#peer.address);
    return stretches;
  }

  #send(): void {
    while (this.#isSending && this.#peer.backlog.hasRoom) this.#peer.writeAs("PROBE", [this.#message]);
  }

  #onMessage(message: Message): void {
    switch (message.type) {
      case "WELCOME":
        return this.#welcome.resolve(message);
      case "REFUSE":
        return this.#failure.report(new PeerRefused(message.code, message.message));
      case "ABORT":
        return this.#failure.report(new PeerAborted(message.code, message.message));
      case "ACK":
        return this.#onAck(message.receivedBytes);
    }
  }

  #onAck(receivedBytes: number): void {
    const { backlog } = this.#peer;
    this.#heardAtMs = performance.now();
    this.#receivedBytes = Math.min(receivedBytes, backlog.sentBytes);
    backlog.acked(receivedBytes, receivedBytes, this.#heardAtMs);
    if (this.#probeBytes < MAX_PROBE_BYTES && backlog.goodputBytesPerSecond > SLOW_BYTES_PER_SECOND) {
      this.#probeBytes = MAX_PROBE_BYTES;
      this.#message = probeOf(MAX_PROBE_BYTES);
    }
    this.#send();
  }
}

/** A PROBE message. Its bytes are random, as a link may compress others. */
function probeOf(probeBytes: number): Uint8Array {
  const message = encodeMessage({ type: "PROBE", probeBytes });
  message.set(randomBytes(probeBytes), HEADER_BYTES);
  return message;
}

function stillError(address: string): GodwitError {
  return new GodwitError("MIGRATION_TIMEOUT", `${address} acknowledged nothing within ${STILL_MS / 1000} s`);
}
