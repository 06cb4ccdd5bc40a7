import { GodwitError } from "../errors.ts";
import { Backlog } from "../wire/backlog.ts";
import type { Message, MessageType } from "../wire/messages.ts";
import type { Peer, PeerHandler } from "./peer.ts";

/** For how long a lost connection is waited for, unless a user says otherwise. */
export const RECONNECT_FOR_MS = 600_000;
/** For a TCP connection, for TLS, and for the answer to a later HELLO: what does not come then is tried anew, so little is lost. */
export const RETRY_TIMEOUT_MS = 5000;
/** The longest that a source waits from one attempt to the next. */
export const MAX_BACK_OFF_MS = 5000;

export interface LinkOptions {
  /** Gets what the other end says, whatever connection it comes on; nothing of one that was lost. */
  readonly handler: PeerHandler;
  /** For how long the other end may be away, or be there and not answer; 0: the first connection is the only one. */
  readonly reconnectForMs: number;
  /** The other end's, where the first connection is one that comes again. */
  readonly address?: string;
  /** The connection is lost. From here on nothing is sent, and nothing comes, until the link is up again. */
  readonly onDown: (reason: GodwitError) => void;
  /** The other end did not come back in time, can't be gone on with, or has refused. The link is over. */
  readonly onGaveUp: (error: unknown) => void;
}

/** How a connection came about. */
export interface LinkUp {
  /** See HELLO. */
  readonly generation: number;
  /** How long there was none; null for the first one. */
  readonly awayMs: number | null;
}

/** What a peer of the past says is not listened to. */
const DEAF: PeerHandler = { onMessage: () => {}, onData: () => null };

/**
 * The other end of a session, whatever number of connections it takes. How they come about is said by SourceLink and DestinationLink.
 *
 * What is sent while there is none is lost: whoever still holds what it said says it again on the next one (docs/wire-protocol.md,
 * Reconnecting).
 */
export class Link {
  readonly #options: LinkOptions;
  #reconnectForMs: number;
  #peer: Peer | undefined;
  #address: string;
  /** Of the connection, or of the last one. */
  #backlog = new Backlog();
  /** Of the connections before. */
  #pastWireBytes = 0;
  #pastMinRttMs: number | undefined;
  #generation = 0;
  #isUrgent = false;
  #isOver = false;
  /** Since when there has been no connection. */
  #awaySinceMs: number | undefined;
  /** Since when there has been none on which the other end has answered. */
  #lostSinceMs: number | undefined;
  #lostTimer: NodeJS.Timeout | undefined;

  constructor(options: LinkOptions) {
    this.#options = options;
    this.#reconnectForMs = options.reconnectForMs;
    this.#address = options.address ?? "";
  }

  /** The connection's other end; undefined while there is none. */
  get peer(): Peer | undefined {
    return this.#peer;
  }
  get isUp(): boolean {
    return this.#peer !== undefined;
  }
  /** Whether it was ended, or was given up. */
  get isOver(): boolean {
    return this.#isOver;
  }
  /** Of the connection, or of the last one; 0 before the first. */
  get generation(): number {
    return this.#generation;
  }
  /** The other end's address, as it was last known. */
  get address(): string {
    return this.#address;
  }
  /** What is in flight, and what was measured of the link: anew with each connection. */
  get backlog(): Backlog {
    return this.#backlog;
  }
  /** The smallest round trip of all connections; undefined before the first one was measured. */
  get minRttMs(): number | undefined {
    return minOf(this.#pastMinRttMs, this.#backlog.minRttMs);
  }
  /** TCP payload both ways, TLS included, of all connections. */
  get wireBytes(): number {
    return this.#pastWireBytes + (this.#peer?.wireBytes ?? 0);
  }
  /** Bytes of messages received on this connection, for ACK. */
  get receivedBytes(): number {
    return this.#peer?.receivedBytes ?? 0;
  }
  /** For how long there has been no connection; null while there is one. */
  get awayMs(): number | null {
    return this.#awaySinceMs === undefined ? null : performance.now() - this.#awaySinceMs;
  }

  /** For how long the other end may be away, this time too. */
  get reconnectForMs(): number {
    return this.#reconnectForMs;
  }
  set reconnectForMs(ms: number) {
    this.#reconnectForMs = ms;
    if (this.#lostSinceMs !== undefined) this.#waitForReturn(this.#lostSinceMs);
  }

  /** Does not wait for the other end for more than `ms` from now on, if it is away. */
  waitAtMost(ms: number): void {
    const lostForMs = this.#lostSinceMs === undefined ? 0 : performance.now() - this.#lostSinceMs;
    this.reconnectForMs = Math.min(this.#reconnectForMs, lostForMs + ms);
  }

  send(message: Message): void {
    this.#peer?.send(message);
  }

  /** See Peer.writeAs. */
  writeAs(type: MessageType, chunks: readonly Uint8Array[]): void {
    this.#peer?.writeAs(type, chunks);
  }

  /** See Peer.ping; false where there is no connection. */
  async ping(): Promise<boolean> {
    return this.#peer?.ping() ?? false;
  }

  /** See Peer.onRoom. */
  onRoom(): void {
    this.#peer?.onRoom();
  }

  /** The guest is stopped: silence is noticed sooner. @param isUrgent false: it is not, after all */
  hurry(isUrgent = true): void {
    this.#isUrgent = isUrgent;
    if (this.#peer !== undefined) this.#peer.isUrgent = isUrgent;
  }

  /** Nothing more is to be said: sends what was written, says goodbye, and does not come back. */
  end(): void {
    this.close();
    this.#peer?.end();
  }

  /** As `end`; resolves when the other end has closed its side too. */
  async goodbye(): Promise<void> {
    this.close();
    await this.#peer?.goodbye();
  }

  /** Drops the connection, and does not come back. */
  destroy(): void {
    this.close();
    this.#peer?.destroy();
  }

  /** The link is over; a connection that is up stays so. */
  protected close(): void {
    this.#isOver = true;
    clearTimeout(this.#lostTimer);
  }

  /** `peer` is the connection from now on: to be called before anything that it says is handled. */
  protected take(peer: Peer, generation: number): LinkUp {
    const up = { generation, awayMs: this.awayMs };
    if (this.#isOver) peer.destroy();
    this.#awaySinceMs = undefined;
    this.#peer = peer;
    this.#generation = generation;
    this.#address = peer.address;
    this.#backlog = peer.backlog;
    peer.handler = this.#options.handler;
    peer.isUrgent = this.#isUrgent;
    peer.closed.then(
      () => this.#onClosed(peer, closedBy(peer)),
      (error) => this.#onClosed(peer, error),
    );
    return up;
  }

  /**
   * Starts the pulse of a connection that was taken. The other end is back only once it has answered: on a link that lets a greeting pass
   * and nothing behind it, connections come about without end.
   */
  protected async startPulse(peer: Peer): Promise<void> {
    if (!(await peer.startPulse()) || peer !== this.#peer) return;
    this.#lostSinceMs = undefined;
    clearTimeout(this.#lostTimer);
  }

  /** The connection is not to be used any more. */
  protected drop(reason: GodwitError): void {
    const peer = this.#peer;
    if (peer === undefined) return;
    peer.handler = DEAF;
    this.#peer = undefined;
    this.#pastWireBytes += peer.wireBytes;
    this.#pastMinRttMs = minOf(this.#pastMinRttMs, peer.backlog.minRttMs);
    peer.destroy();
    this.leave();
    this.#options.onDown(reason);
  }

  /** There is no connection from now on. */
  protected leave(): void {
    this.#awaySinceMs = performance.now();
    this.#lostSinceMs ??= this.#awaySinceMs;
    this.#waitForReturn(this.#lostSinceMs);
  }

  protected giveUp(error: unknown): void {
    if (this.#isOver) return;
    this.close();
    this.#options.onGaveUp(error);
  }

  /** The connection was lost, and another one may follow: SourceLink connects, DestinationLink waits. @param _hasAnswered the other end, on it */
  protected onLost(_hasAnswered: boolean): void {}

  #onClosed(peer: Peer, error: GodwitError): void {
    if (peer !== this.#peer || this.#isOver) return;
    if (!isLoss(error) || this.#reconnectForMs === 0) {
      this.giveUp(error);
      return;
    }
    const hasAnswered = this.#lostSinceMs === undefined;
    this.drop(error);
    if (!this.#isOver) this.onLost(hasAnswered);
  }

  #waitForReturn(sinceMs: number): void {
    clearTimeout(this.#lostTimer);
    if (this.#isOver) return;
    const leftMs = Math.max(0, sinceMs + this.#reconnectForMs - performance.now());
    this.#lostTimer = setTimeout(() => {
      const seconds = ((performance.now() - sinceMs) / 1000).toFixed(0);
      const message = `the connection to ${this.#address} was lost, and did not come back within ${seconds} s`;
      this.giveUp(new GodwitError("MIGRATION_LINK_LOST", message, { peer: this.#address }));
    }, leftMs);
  }
}

/** Whether a connection that ended so may be followed by another one: what the peer did wrong, it would do again. */
function isLoss(error: unknown): boolean {
  return error instanceof GodwitError && error.code === "WIRE_CLOSED";
}

/** Why a connection is gone that was ended by both sides. */
export function closedBy(peer: Peer): GodwitError {
  return new GodwitError("WIRE_CLOSED", `${peer.address} closed the connection`);
}

function minOf(a: number | undefined, b: number | undefined): number | undefined {
  return a === undefined || b === undefined ? (a ?? b) : Math.min(a, b);
}
