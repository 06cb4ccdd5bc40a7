import { type GodwitError, messageOf } from "../errors.ts";
import { readFacts, type VmFacts } from "../qemu/facts.ts";
import { QmpClient } from "../qemu/qmp.ts";
import type { Connection } from "../wire/connection.ts";
import type { Hello } from "../wire/messages.ts";
import { listen } from "../wire/transport.ts";
import { errorEvent } from "./advice.ts";
import type { DestinationOptions } from "./destination-options.ts";
import { DestinationSession } from "./destination-session.ts";
import { destinationIsGone, destinationSummary } from "./destination-summary.ts";
import { DestinationVm } from "./destination-vm.ts";
import { listDisksAt } from "./disk-paths.ts";
import type { DestinationSummary, Status } from "./events.ts";
import { readHello, refuse } from "./hello.ts";
import type { LeftSession } from "./left-session.ts";
import { RECONNECT_FOR_MS } from "./link.ts";
import { Cancelled } from "./outcome.ts";
import type { Peer } from "./peer.ts";
import { ProbeAnswer } from "./plan/probe-answer.ts";
import { LeftSessions } from "./settle-destination.ts";
import { settledStatus } from "./settled-status.ts";

/**
 * Receives one VM into the QEMU of `qmpPath`, which was started with `-incoming defer -S`.
 *
 * The guest runs here only after COMMIT; if that does not come, the QEMU is ended, so that its copy can never run. Never
 * throws: how it ended is in the summary, the last event; an `error` event stands before it where it did not end well.
 */
export async function receiveFromPeer(options: DestinationOptions): Promise<DestinationSummary> {
  return new Destination(options).run();
}

/** Listens, and takes sessions one after the other until one has settled where the VM is. */
class Destination {
  readonly #options: DestinationOptions;
  readonly #startMs = performance.now();
  readonly #settled = Promise.withResolvers<DestinationSummary>();
  #current: DestinationSession | undefined;
  #left: LeftSessions | undefined;
  #probe: ProbeAnswer | undefined;
  #isQemuGone = false;
  #isOver = false;

  constructor(options: DestinationOptions) {
    this.#options = options;
  }

  async run(): Promise<DestinationSummary> {
    const { signal, onEvent } = this.#options;
    let summary: DestinationSummary;
    try {
      if (signal?.aborted) throw new Cancelled(messageOf(signal.reason));
      const { reconnectForMs = RECONNECT_FOR_MS } = this.#options;
      this.#left = await LeftSessions.open({ ...this.#options, reconnectForMs });
      summary = await (this.#left.current === undefined ? this.#receive() : this.#settleLeft(this.#left.current));
    } catch (error) {
      this.#report(error);
      summary = this.#emptySummary(error instanceof Cancelled ? "cancelled" : "refused");
    }
    await this.#left?.end(new Cancelled("the receiver ends"));
    onEvent(summary);
    return summary;
  }

  /** Takes a VM of whoever moves one here. */
  async #receive(): Promise<DestinationSummary> {
    const { signal, onEvent, qmpPath, diskPaths = new Map() } = this.#options;
    const onAbort = () => this.#onAbort();
    try {
      using qmp = await QmpClient.connect(qmpPath);
      const vm = await DestinationVm.open(qmp);
      const facts = await readFacts(qmp);
      await listDisksAt(qmp, diskPaths); // what is wrong with them is said now
      const listener = await this.#listen((connection) => this.#onConnection(connection, qmp, vm, facts));
      signal?.addEventListener("abort", onAbort);
      if (signal?.aborted) onAbort(); // meanwhile
      void qmp.closed.then((error) => error && this.#onQemuGone(error));
      onEvent({ event: "listening", ...listener.address });
      return await this.#settled.promise.finally(() => {
        this.#isOver = true;
        listener.close();
        this.#probe?.end("the destination ends");
      });
    } finally {
      signal?.removeEventListener("abort", onAbort);
    }
  }

  /** Our QEMU is that of a session which an earlier process began: it is settled first, and nothing else is taken. */
  async #settleLeft(session: LeftSession): Promise<DestinationSummary> {
    const { signal, onEvent } = this.#options;
    const onAbort = () => session.cancel(new Cancelled(messageOf(signal?.reason)));
    const listener = await this.#listen(async (connection) => {
      const { peer, hello } = await readHello(connection);
      if (await this.#left!.offer(peer, hello)) return;
      refuse(peer, "MIGRATION_BUSY", "an earlier migration to this QEMU is not settled yet");
    });
    signal?.addEventListener("abort", onAbort);
    if (signal?.aborted) onAbort(); // meanwhile
    onEvent({
      event: "warning",
      message: `going on with session ${session.id}, which an earlier godwit receive began`,
    });
    onEvent({ event: "listening", ...listener.address });
    try {
      const outcome = await session.ended;
      return { ...this.#emptySummary(settledStatus(outcome, "destination", onEvent)), session: session.id };
    } finally {
      signal?.removeEventListener("abort", onAbort);
      this.#isOver = true;
      listener.close();
    }
  }

  #listen(onConnection: (connection: Connection) => Promise<void>) {
    return listen({
      ...this.#options.listen,
      security: this.#options.security,
      onConnection,
      onRejected: (error) => {
        // With the listener end the handshakes under way, which is nobody's mistake.
        if (!this.#isOver) this.#options.onEvent({ event: "warning", message: error.message });
      },
    });
  }

  /** Who it is, and whether it is for the session that there is, for a new one, or only measures the link. */
  async #onConnection(connection: Connection, qmp: QmpClient, vm: DestinationVm, facts: VmFacts): Promise<void> {
    const greeted = await readHello(connection);
    const { peer, hello } = greeted;
    const current = this.#current;
    if (hello.purpose === "plan") return this.#measure(peer, hello, facts);
    if (current?.id === hello.session) return current.attach(peer, hello);
    if (await this.#left!.offer(peer, hello)) return;
    // Who wants to settle has no stream to begin a session with.
    if (hello.generation > 1 || hello.purpose === "settle")
      return refuse(peer, "MIGRATION_UNKNOWN_SESSION", "no such migration is under way here");
    if (current !== undefined) return refuse(peer, "MIGRATION_BUSY", "another migration to this QEMU is under way");
    this.#probe?.end("a migration begins");
    this.#current = new DestinationSession(this.#options, qmp, vm, facts, greeted, this.#startMs);
    const summary = await this.#current.run();
    this.#current = undefined;
    const isOver = summary.status === "completed" || vm.hasStarted || this.#isQemuGone;
    if (isOver || this.#options.once || this.#options.signal?.aborted) this.#settled.resolve(summary);
  }

  #measure(peer: Peer, hello: Hello, facts: VmFacts): void {
    if (this.#current !== undefined || (this.#probe !== undefined && !this.#probe.isOver))
      return refuse(peer, "MIGRATION_BUSY", "another migration or plan is under way");
    try {
      const probe = new ProbeAnswer(peer, hello, facts, { allowOlderQemu: this.#options.allowOlderQemu ?? false });
      peer.handler = { onMessage: (message) => probe.onMessage(message) };
      this.#probe = probe;
    } catch (error) {
      refuse(peer, (error as GodwitError).code, messageOf(error));
    }
  }

  #onAbort(): void {
    const reason = new Cancelled(messageOf(this.#options.signal?.reason));
    if (this.#current !== undefined) this.#current.cancel(reason);
    else this.#settled.resolve(this.#emptySummary("cancelled"));
  }

  /** A session that runs notices by itself, and ends. */
  #onQemuGone(error: GodwitError): void {
    this.#isQemuGone = true;
    if (this.#current !== undefined) this.#current.qemuGone(error);
    else this.#settled.reject(destinationIsGone(error));
  }

  #report(error: unknown): void {
    this.#options.onEvent(errorEvent(error, "nothing was changed, no VM was taken", "destination"));
  }

  #emptySummary(status: Status): DestinationSummary {
    return destinationSummary(status, performance.now() - this.#startMs);
  }
}
