import { setTimeout as delay } from "node:timers/promises";
import { GodwitError } from "../errors.ts";
import type { Connection } from "../wire/connection.ts";
import type { Hello, Welcome } from "../wire/messages.ts";
import { closedBy, Link, type LinkOptions, type LinkUp, MAX_BACK_OFF_MS, RETRY_TIMEOUT_MS } from "./link.ts";
import { PeerRefused, withTimeout } from "./outcome.ts";
import { Peer } from "./peer.ts";

/** For the destination to ask its QEMU what it is, open disks and checkpoints, and answer the first HELLO. */
const WELCOME_TIMEOUT_MS = 20_000;
/** From one attempt to the next, doubled each time up to MAX_BACK_OFF_MS. Half of it is at random, so that many links that broke together spread out. */
const FIRST_BACK_OFF_MS = 100;
/** A connection that stood for less is not followed by the next at once: a link that flaps is not helped by haste. */
const STABLE_MS = 1000;
/** What a destination says that may be otherwise in a moment, or where another one listens at its address. */
const RETRIED_REFUSALS: ReadonlySet<unknown> = new Set([
  "MIGRATION_BUSY",
  "WIRE_BUSY",
  "WIRE_CERTIFICATE",
  "WIRE_PEER_NAME",
]);

export interface SourceLinkOptions extends LinkOptions {
  /** Opens an authenticated connection; `timeoutMs` undefined: as long as is usual. */
  readonly connect: (options: { readonly signal: AbortSignal; readonly timeoutMs?: number }) => Promise<Connection>;
  readonly session: string;
  /** What else HELLO says by now. */
  readonly hello: () => Omit<Hello, "type" | "session" | "generation">;
  /** Of the first connection; default: 1. */
  readonly firstGeneration?: number;
  /** For tests; default: the function of that name. */
  readonly backOffMs?: (attempt: number) => number;
  /** The next attempt begins, counted from 1 for each time that the connection is lost. */
  readonly onAttempt?: (attempt: number) => void;
  /** WELCOME has come, and the link is up. Called before the peer's next message is handled; what it throws ends the link. */
  readonly onUp: (welcome: Welcome, up: LinkUp) => void;
}

/** The source's end of a session: connects, and connects again. */
export class SourceLink extends Link {
  readonly #options: SourceLinkOptions;
  readonly #cancel = new AbortController();
  /** Of the last HELLO. */
  #helloGeneration: number;
  #upAtMs: number | undefined;
  /** Connections in a row on which the destination has answered nothing. */
  #unanswered = 0;

  constructor(options: SourceLinkOptions) {
    super(options);
    this.#options = options;
    this.#helloGeneration = (options.firstGeneration ?? 1) - 1;
  }

  /** Makes the first connection, which is not tried twice. @throws what `connect` throws, PeerRefused, WIRE_CLOSED, MIGRATION_TIMEOUT */
  async open(): Promise<Welcome> {
    return this.#connect({}, WELCOME_TIMEOUT_MS);
  }

  /** Goes on with a session whose last connection went with the process that had it; tries as if this one had lost it. */
  reopen(): void {
    this.leave();
    void this.#reconnect(0);
  }

  protected override close(): void {
    super.close();
    this.#cancel.abort(new GodwitError("WIRE_CANCELLED", "connecting was cancelled"));
  }

  protected override onLost(hasAnswered: boolean): void {
    const isFlapping = performance.now() - this.#upAtMs! < STABLE_MS;
    this.#unanswered = hasAnswered ? 0 : this.#unanswered + 1;
    void this.#reconnect(this.#unanswered + (isFlapping ? 1 : 0));
  }

  /** Tries until it is up, or over. @param backOffs that it has waited for already */
  async #reconnect(backOffs: number): Promise<void> {
    const waitMs = this.#options.backOffMs ?? backOffMs;
    const { signal } = this.#cancel;
    for (let attempt = 1; !this.isOver; attempt++) {
      try {
        await delay(waitMs(backOffs++), undefined, { signal });
        this.#options.onAttempt?.(attempt);
        await this.#connect({ timeoutMs: RETRY_TIMEOUT_MS }, RETRY_TIMEOUT_MS);
        return;
      } catch (error) {
        if (this.#isFinal(error)) this.giveUp(error);
      }
    }
  }

  async #connect(limits: { timeoutMs?: number }, welcomeMs: number): Promise<Welcome> {
    const { signal } = this.#cancel;
    signal.throwIfAborted();
    const connection = await this.#options.connect({ signal, ...limits });
    const answer = Promise.withResolvers<Welcome>();
    answer.promise.catch(() => {});
    const peer = new Peer(connection, "sender", {
      onMessage: (message) => {
        if (message.type === "REFUSE") answer.reject(new PeerRefused(message.code, message.message, message.details));
        else if (message.type === "WELCOME") answer.resolve(this.#onWelcome(peer, message));
      },
    });
    peer.closed.then(() => answer.reject(closedBy(peer)), answer.reject);
    const cancelled = () => answer.reject(signal.reason);
    signal.addEventListener("abort", cancelled);
    try {
      const { session, hello } = this.#options;
      peer.send({ type: "HELLO", session, generation: ++this.#helloGeneration, ...hello() });
      return await withTimeout(answer.promise, welcomeMs, "the destination did not answer HELLO");
    } catch (error) {
      peer.destroy();
      throw error;
    } finally {
      signal.removeEventListener("abort", cancelled);
    }
  }

  #onWelcome(peer: Peer, welcome: Welcome): Welcome {
    if (welcome.session !== this.#options.session || welcome.generation !== this.#helloGeneration)
      throw new GodwitError("WIRE_BAD_MESSAGE", "the destination answers another HELLO than was sent");
    if (this.awayMs === null && welcome.rawOffset !== 0)
      throw new GodwitError("PEER_BAD_OFFSET", "the destination goes on with a stream that has not begun");
    const up = this.take(peer, this.#helloGeneration);
    this.#upAtMs = performance.now();
    this.#options.onUp(welcome, up);
    void this.startPulse(peer);
    return welcome;
  }

  /** Whether it is of no use to try again. */
  #isFinal(error: unknown): boolean {
    if (!(error instanceof PeerRefused)) return false;
    const { code, generation } = error.details;
    // A process that was started again does not know how far its session has come. One that was up does: another one goes on with it.
    if (code !== "WIRE_REPLAY" || this.#upAtMs !== undefined) return !RETRIED_REFUSALS.has(code);
    if (Number.isSafeInteger(generation)) this.#helloGeneration = Math.max(this.#helloGeneration, generation as number);
    return false;
  }
}

/** How long to wait before an attempt, counted from 0. */
export function backOffMs(attempt: number): number {
  if (attempt === 0) return 0;
  const ms = Math.min(FIRST_BACK_OFF_MS * 2 ** (attempt - 1), MAX_BACK_OFF_MS);
  return (ms * (1 + Math.random())) / 2;
}
