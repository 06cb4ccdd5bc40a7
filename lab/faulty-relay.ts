import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import type { Address } from "../src/wire/address.ts";
import type { CutKind, Direction, LinkFault, LinkFigures } from "./link-faults.ts";

/** What a lane holds before it stops reading: little, so that back-pressure reaches the sender as over a plain link. */
const LANE_BYTES = 256 * 1024;
/** How often a slow link lets something pass. */
const SLOW_PERIOD_MS = 50;
/** For how long a cut of the kind "refuse" lets no new connection come about. */
const REFUSE_MS = 200;

/** A TCP relay that does to its connections what a bad link does. It runs in this process; `startFaultyLink` has one on a host. */
export class FaultyRelay implements AsyncDisposable {
  readonly #routes = new Set<Route>();
  #target: Address | undefined;
  #server: Server | undefined;
  #port = 0;
  #fault: LinkFault | undefined;
  #usualDelayMs = 0;
  /** Until something changes by itself. */
  #timer: NodeJS.Timeout | undefined;
  /** What of a "cut" or a "flip-bit" is to come. */
  #bytesLeft = 0;
  #cutsLeft = 0;
  #figures = { connections: 0, forwardBytes: 0, backBytes: 0, cuts: 0, flippedBits: 0 };

  /** Listens on a port of its own at 127.0.0.1. */
  async listen(): Promise<Address> {
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: true, noDelay: true }, (near) =>
      this.#accept(near),
    );
    this.#server = server.listen(this.#port, "127.0.0.1");
    await once(server, "listening");
    this.#port = (server.address() as AddressInfo).port;
    return { host: "127.0.0.1", port: this.#port };
  }

  /** Where connections lead from now on. */
  leadTo(target: Address): void {
    this.#target = target;
  }

  /** How late the link is each way when nothing is wrong with it: a connection takes twice that to come about. */
  setUsualDelay(ms: number): void {
    this.#usualDelayMs = ms;
  }

  figures(): LinkFigures {
    return { ...this.#figures };
  }

  async set(fault: LinkFault): Promise<void> {
    await this.heal();
    switch (fault.kind) {
      case "reset":
        return this.#cut((route) => route.reset());
      case "half-open":
        return this.#cut((route) => route.halfOpen(fault.told));
      case "refuse":
        return this.#refuse();
      case "flap":
        return this.#flap(fault.upMs, fault.downMs, { kind: fault.as ?? "refuse" });
      case "cut":
        [this.#bytesLeft, this.#cutsLeft] = [fault.everyBytes, fault.times];
        break;
      case "flip-bit":
        this.#bytesLeft = fault.afterBytes;
    }
    this.#fault = fault;
  }

  /** All is well again, for connections that live as for new ones. */
  async heal(): Promise<void> {
    clearTimeout(this.#timer);
    await this.#restore();
  }

  async close(): Promise<void> {
    clearTimeout(this.#timer);
    this.#server?.close();
    for (const route of this.#routes) route.reset();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #restore(): Promise<void> {
    this.#fault = undefined;
    if (this.#server === undefined) await this.listen();
    for (const route of this.#routes) route.pump();
  }

  #refuse(): void {
    this.#fault = { kind: "refuse" };
    this.#stopListening();
    this.#cut((route) => route.reset());
  }

  #stopListening(): void {
    this.#server?.close();
    this.#server = undefined;
  }

  #flap(upMs: number, downMs: number, down: { readonly kind: "refuse" | "black-hole" }): void {
    this.#timer = setTimeout(() => {
      if (down.kind === "refuse") this.#refuse();
      else this.#fault = down;
      this.#timer = setTimeout(() => void this.#restore().then(() => this.#flap(upMs, downMs, down)), downMs);
    }, upMs);
  }

  #cut(how: (route: Route) => void): void {
    for (const route of this.#routes) {
      if (route.isCut) continue;
      this.#figures.cuts++;
      how(route);
    }
  }

  #cutAs(kind: CutKind): void {
    if (kind === "half-open") return this.#cut((route) => route.halfOpen("sender"));
    if (kind === "black-hole") return this.#cut((route) => route.silence());
    this.#cut((route) => route.resetSoon());
    if (kind === "reset") return;
    this.#stopListening();
    this.#timer = setTimeout(() => void this.listen(), REFUSE_MS);
  }

  #accept(near: Socket): void {
    if (this.#target === undefined) return void near.resetAndDestroy();
    const far = connect({ ...this.#target, allowHalfOpen: true, noDelay: true });
    const route: Route = new Route(near, far, {
      onOpen: () => this.#figures.connections++,
      onClose: () => this.#routes.delete(route),
      state: () => ({
        isHeld: this.#fault?.kind === "black-hole",
        delayMs: this.#fault?.kind === "delay" ? this.#fault.ms : this.#usualDelayMs,
        bytesPerSecond: this.#fault?.kind === "slow" ? this.#fault.bytesPerSecond : Number.POSITIVE_INFINITY,
      }),
      onBytes: (direction, bytes) => this.#onBytes(direction, bytes),
    });
    this.#routes.add(route);
  }

  /** Counts what passes, and does what is due at this byte; returns what passes in its place. */
  #onBytes(direction: Direction, bytes: Buffer): Buffer {
    const fault = this.#fault;
    this.#figures[direction === "forward" ? "forwardBytes" : "backBytes"] += bytes.length;
    if (fault?.kind === "flip-bit" && fault.direction === direction) {
      if (this.#bytesLeft < bytes.length) {
        bytes[this.#bytesLeft]! ^= 1;
        this.#fault = undefined;
        this.#figures.flippedBits++;
      } else this.#bytesLeft -= bytes.length;
    }
    if (fault?.kind === "cut" && direction === "forward") {
      this.#bytesLeft -= bytes.length;
      if (this.#bytesLeft <= 0) {
        const passing = bytes.subarray(0, bytes.length + this.#bytesLeft);
        this.#bytesLeft = fault.everyBytes;
        const { as = ["reset"], times } = fault;
        this.#cutAs(as[(times - this.#cutsLeft) % as.length]!);
        if (--this.#cutsLeft === 0) this.#fault = undefined;
        return passing;
      }
    }
    return bytes;
  }
}

interface LaneState {
  /** Nothing passes. */
  readonly isHeld: boolean;
  readonly delayMs: number;
  readonly bytesPerSecond: number;
}

interface RouteHandler {
  onOpen(): void;
  onClose(): void;
  state(): LaneState;
  onBytes(direction: Direction, bytes: Buffer): Buffer;
}

/** One connection through the relay. */
class Route {
  readonly #near: Socket;
  readonly #far: Socket;
  readonly #lanes: readonly Lane[];
  readonly #handler: RouteHandler;
  #isCut = false;
  /** One end broke its connection; the other is told as soon as anything passes. */
  #isBroken = false;

  constructor(near: Socket, far: Socket, handler: RouteHandler) {
    [this.#near, this.#far, this.#handler] = [near, far, handler];
    far.once("connect", () => handler.onOpen());
    this.#lanes = [new Lane(near, far, "forward", handler), new Lane(far, near, "back", handler)];
    for (const socket of [near, far]) {
      socket.on("error", () => {
        this.#isBroken = true;
      });
      socket.on("close", () => {
        if (near.destroyed && far.destroyed) handler.onClose();
        else this.pump();
      });
    }
  }

  get isCut(): boolean {
    return this.#isCut;
  }

  pump(): void {
    if (this.#isCut) return;
    if (this.#isBroken && !this.#handler.state().isHeld) return this.reset();
    for (const lane of this.#lanes) lane.pump();
  }

  reset(): void {
    this.#isCut = true;
    for (const socket of [this.#near, this.#far]) socket.resetAndDestroy();
  }

  /** As `reset`, once what is passing has been written. */
  resetSoon(): void {
    this.silence();
    setImmediate(() => this.reset());
  }

  /** Nothing passes any more, and nobody is told. */
  silence(): void {
    this.#isCut = true;
    for (const lane of this.#lanes) lane.stop();
  }

  halfOpen(told: "sender" | "receiver"): void {
    this.silence();
    (told === "sender" ? this.#near : this.#far).resetAndDestroy();
  }
}

/** One direction of a connection. */
class Lane {
  readonly #from: Socket;
  readonly #to: Socket;
  readonly #direction: Direction;
  readonly #handler: RouteHandler;
  /** When the ends of a link that is as late would know of each other: here the system answers the near one at once. */
  readonly #openMs: number;
  #queue: { readonly bytes: Buffer; readonly dueMs: number }[] = [];
  #queuedBytes = 0;
  #hasEnded = false;
  #isStopped = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(from: Socket, to: Socket, direction: Direction, handler: RouteHandler) {
    [this.#from, this.#to, this.#direction, this.#handler] = [from, to, direction, handler];
    this.#openMs = performance.now() + 2 * handler.state().delayMs;
    from.on("data", (bytes: Buffer) => this.#take(bytes));
    from.on("end", () => {
      this.#hasEnded = true;
      this.pump();
    });
    from.on("close", () => clearTimeout(this.#timer));
    to.on("drain", () => this.pump());
    to.on("connect", () => this.pump());
    from.resume();
  }

  stop(): void {
    this.#isStopped = true;
    clearTimeout(this.#timer);
    this.#queue = [];
    this.#from.pause();
  }

  #take(bytes: Buffer): void {
    const sentMs = Math.max(performance.now(), this.#openMs);
    this.#queue.push({ bytes, dueMs: sentMs + this.#handler.state().delayMs });
    this.#queuedBytes += bytes.length;
    if (this.#queuedBytes >= LANE_BYTES) this.#from.pause();
    this.pump();
  }

  /** Lets pass what may pass now. */
  pump(): void {
    if (this.#isStopped || this.#to.destroyed || this.#timer !== undefined) return;
    const { isHeld, bytesPerSecond } = this.#handler.state();
    if (isHeld) return;
    let allowance = Math.max(1, (bytesPerSecond * SLOW_PERIOD_MS) / 1000);
    for (let head = this.#queue[0]; head !== undefined; head = this.#queue[0]) {
      if (this.#to.connecting || this.#to.writableNeedDrain) return;
      const waitMs = head.dueMs - performance.now();
      if (waitMs > 0) return this.#pumpAfter(waitMs);
      if (allowance < 1) return this.#pumpAfter(SLOW_PERIOD_MS);
      const piece = head.bytes.subarray(0, allowance);
      allowance -= piece.length;
      this.#queuedBytes -= piece.length;
      if (piece.length === head.bytes.length) this.#queue.shift();
      else this.#queue[0] = { ...head, bytes: head.bytes.subarray(piece.length) };
      this.#to.write(this.#handler.onBytes(this.#direction, piece));
    }
    if (this.#isStopped) return;
    if (this.#hasEnded && !this.#to.writableEnded) this.#to.end();
    else this.#from.resume();
  }

  #pumpAfter(ms: number): void {
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.pump();
    }, ms);
  }
}
