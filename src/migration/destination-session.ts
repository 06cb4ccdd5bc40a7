import { join } from "node:path";
import { cachePagesOf } from "../compact/cache-size.ts";
import { PAGE_FORMAT } from "../compact/limits.ts";
import { GodwitError, messageOf } from "../errors.ts";
import type { VmFacts } from "../qemu/facts.ts";
import type { QmpClient } from "../qemu/qmp.ts";
import type { Journal } from "../store/journal.ts";
import type { Hello, Message, Welcome } from "../wire/messages.ts";
import { errorEvent } from "./advice.ts";
import { CpuMeter } from "./costs.ts";
import { DestinationHandOff, type DestinationOutcome } from "./destination-hand-off.ts";
import { DestinationLink } from "./destination-link.ts";
import type { DestinationOptions } from "./destination-options.ts";
import { DestinationPlaces } from "./destination-places.ts";
import { destinationIsGone, destinationSummary } from "./destination-summary.ts";
import type { DestinationVm } from "./destination-vm.ts";
import type { DestinationSummary, Status } from "./events.ts";
import { assertExpectedVm, assertMatch, assertPageFormat, newestOf, PROGRAM, parseFacts } from "./greeting.ts";
import { type LinkUp, RECONNECT_FOR_MS } from "./link.ts";
import { Cancelled, Failure, withTimeout } from "./outcome.ts";
import type { Peer } from "./peer.ts";
import { reportReceiving } from "./receive-progress.ts";
import { StreamReceiver } from "./receiver.ts";
import { beginJournal } from "./session-journal.ts";
import { settledStatus } from "./settled-status.ts";
import { makeSocketFolder } from "./socket-folder.ts";
import { WINDOW_BYTES } from "./window.ts";

/** For how long a sender may be away that has sent nothing of its VM: it holds up others. */
const NOTHING_SENT_AWAY_MS = 30_000;
/** For how long a source that was welcomed may hold us, and keep others out, without sending anything. */
const FIRST_DATA_TIMEOUT_MS = 120_000;
/** How long QEMU gets to say over QMP why it closed the stream. */
const REASON_WAIT_MS = 1000;

/** A sender's migration, whatever number of connections it takes: from its first HELLO until it is settled where the VM is. */
export class DestinationSession {
  readonly #options: DestinationOptions;
  readonly #qmp: QmpClient;
  readonly #vm: DestinationVm;
  readonly #facts: VmFacts;
  readonly #hello: Hello;
  readonly #startMs: number;
  /** Why it does not go on as it was. */
  readonly #failure = new Failure();
  readonly #firstData = Promise.withResolvers<void>();
  readonly #places: DestinationPlaces;
  readonly #receiver: StreamReceiver;
  readonly #link: DestinationLink;
  readonly #cpu = new CpuMeter();
  #welcome: Welcome | undefined;
  #journal: Journal | undefined;
  /** From here on our QEMU may have been touched. */
  #handOff: DestinationHandOff | undefined;
  /** On which connection SWITCHOVER was heard last. */
  #switchedOverOn = 0;

  /** @param peer who has said `hello` */
  constructor(
    options: DestinationOptions,
    qmp: QmpClient,
    vm: DestinationVm,
    facts: VmFacts,
    { peer, hello }: { peer: Peer; hello: Hello },
    startMs: number,
  ) {
    this.#options = options;
    this.#qmp = qmp;
    this.#vm = vm;
    this.#facts = facts;
    this.#hello = hello;
    this.#startMs = startMs;
    this.#places = new DestinationPlaces(options, (message) => this.#warn(message));
    const receiver = new StreamReceiver({
      cachePages: cachePagesOf(options.deltaCacheBytes, facts.memoryBytes),
      send: (message) => this.#link.send(message),
      onRoom: () => this.#link.onRoom(),
      onError: (error) => this.#onStreamError(error),
      ping: () => this.#link.ping(),
      wireBytes: () => this.#link.receivedBytes,
      ...(options.threads !== undefined && { threads: options.threads }),
      onWarning: (message) => this.#warn(message),
    });
    this.#receiver = receiver;
    this.#link = new DestinationLink({
      hello,
      handler: {
        onMessage: (message) => this.#onMessage(message),
        onData: (header) => {
          this.#firstData.resolve();
          return receiver.onData(header);
        },
        onDataComplete: (header, body) => receiver.onDataComplete(header, body),
        onRepair: (header) => receiver.onRepair(header),
        onRepairComplete: () => receiver.onRepairComplete(),
      },
      reconnectForMs: 0, // until it was answered
      settle: () => receiver.detach(),
      welcome: (generation, rawOffset) => this.#welcomeAgain(generation, rawOffset),
      onDown: (reason) => this.#onLinkDown(reason),
      onUp: (hello, up) => this.#onLinkUp(hello, up),
      onGaveUp: (error) => this.#onLinkGivenUp(error),
    });
    this.#link.begin(peer);
  }

  /** The id of the migration. */
  get id(): string {
    return this.#hello.session;
  }

  /** Takes a later connection that names this session, or refuses it. */
  attach(peer: Peer, hello: Hello): Promise<void> {
    return this.#link.offer(peer, hello);
  }

  cancel(reason: Cancelled): void {
    if (this.#handOff === undefined) this.#failure.report(reason);
    else if (this.#handOff.isCommitted) this.#warn("it is too late to cancel: the VM is ours");
    else this.#handOff.cancelled(reason);
  }

  /** Our QEMU has ended. */
  qemuGone(error: GodwitError): void {
    if (this.#handOff === undefined) this.#failure.report(destinationIsGone(error));
    else this.#handOff.qemuGone(destinationIsGone(error));
  }

  async run(): Promise<DestinationSummary> {
    let status: Status;
    try {
      await this.#greet();
      const firstData = withTimeout(this.#firstData.promise, FIRST_DATA_TIMEOUT_MS, "the source sent nothing");
      await this.#failure.or(firstData);
      status = settledStatus(await this.#take(), "destination", this.#options.onEvent);
      if (status === "completed") await this.#vm.restoreSettings();
    } catch (error) {
      status = this.#refuse(error);
    } finally {
      this.#receiver.stop();
      this.#link.end();
      await this.#places.close();
      await this.#journal?.close();
    }
    return this.#summary(status);
  }

  async #greet(): Promise<void> {
    const [hello, link] = [this.#hello, this.#link];
    assertPageFormat(hello.pageFormat, PAGE_FORMAT);
    const theirs = parseFacts(hello.vm);
    assertExpectedVm(theirs, this.#options.vm);
    assertMatch(theirs, this.#facts, this.#options.allowOlderQemu ?? false);
    await this.#failure.or(this.#vm.assertWaits()); // others may have a monitor of it too
    const opening = this.#places.open(this.#qmp, hello, theirs, this.#facts);
    const { disks, checkpoints, offers } = await this.#failure.or(opening);
    const tagKey = Buffer.from(hello.tagKey, "hex");
    this.#receiver.usePlaces({ disks, checkpoints }, tagKey, (message) => this.#warn(message));
    const cachePages = Math.min(hello.cachePages, this.#receiver.cachePages);
    this.#receiver.useCache(cachePages);
    this.#welcome = {
      type: "WELCOME",
      session: hello.session,
      generation: hello.generation,
      program: PROGRAM,
      pageFormat: PAGE_FORMAT,
      features: [],
      vm: this.#facts,
      disks: disks.map(({ id }) => id),
      checkpoints: offers,
      cachePages,
      rawOffset: 0,
      windowBytes: WINDOW_BYTES,
    };
    link.send(this.#welcome);
    link.reconnectForMs = Math.min(this.#reconnectForMs, NOTHING_SENT_AWAY_MS);
    void link.peer?.startPulse();
    if (link.peer !== undefined) this.#places.tell(link.peer);
    this.#options.onEvent({
      event: "connected",
      session: hello.session,
      peer: link.address,
      vm: theirs,
      roundTripMs: 0,
      checkpoint: newestOf(offers),
    });
  }

  get #reconnectForMs(): number {
    return this.#options.reconnectForMs ?? RECONNECT_FOR_MS;
  }

  #welcomeAgain(generation: number, rawOffset: number): Welcome {
    const state = this.#handOff?.sessionState ?? "streaming";
    return { ...this.#welcome!, generation, rawOffset, state };
  }

  /** From the first record of the journal until it is settled where the VM is. */
  async #take(): Promise<DestinationOutcome> {
    const [link, vm, receiver] = [this.#link, this.#vm, this.#receiver];
    const { session, tagKey } = this.#hello;
    const notes = { session, role: "destination", peer: link.address, secret: tagKey, guestRuns: true } as const;
    this.#journal = await this.#failure.or(
      beginJournal(this.#options.stateDir, { ...notes, vm: this.#facts, qmp: this.#qmp }),
    );
    link.reconnectForMs = this.#reconnectForMs;
    const handOff = new DestinationHandOff({
      link,
      vm,
      journal: this.#journal,
      rawBytes: () => receiver.rawBytes,
      onEvent: this.#options.onEvent,
      onDecided: (reason) => this.#failure.report(reason),
    });
    this.#handOff = handOff;
    if (!link.isUp) handOff.linkDown();
    if (this.#switchedOverOn === link.generation) handOff.heard({ type: "SWITCHOVER" });
    this.#feed(handOff).catch((error) => handOff.failed(error));
    return handOff.ended;
  }

  /** Feeds the destination QEMU until it has loaded the VM. */
  async #feed(handOff: DestinationHandOff): Promise<void> {
    await using folder = await makeSocketFolder(this.#options.qmpPath);
    const path = join(folder.path, "destination.sock");
    await this.#failure.or(this.#vm.start(path));
    await this.#failure.or(this.#receiver.connect(path));
    this.#link.onRoom();
    const received = () => ({ rawBytes: this.#receiver.rawBytes, wireBytes: this.#link.wireBytes });
    using _reporting = reportReceiving(received, this.#startMs, this.#options.onEvent);
    await this.#failure.or(this.#vm.loaded(this.#failure.signal));
    handOff.loaded(performance.now() - this.#receiver.lastWriteMs);
  }

  #onMessage(message: Message): void {
    switch (message.type) {
      case "END":
        return this.#receiver.onEndOfStream(message.rawBytes);
      case "SWITCHOVER":
        this.#onSwitchover();
        return this.#handOff?.heard(message);
      case "ABORT":
      case "REFUSE":
        if (this.#handOff !== undefined && message.type === "ABORT") return this.#handOff.heard(message);
        return this.#failure.report(new GodwitError("PEER_ABORTED", `the source gave up: ${message.message}`));
      case "COMMIT":
      case "SETTLED":
        return this.#handOff?.heard(message);
      default:
        throw new GodwitError("WIRE_OUT_OF_ORDER", `a sender does not send ${message.type}`);
    }
  }

  #onSwitchover(): void {
    this.#places.stopTelling();
    if (this.#switchedOverOn === 0)
      this.#options.onEvent({ event: "switchover", elapsedMs: performance.now() - this.#startMs });
    this.#switchedOverOn = this.#link.generation;
    if (!this.#handOff?.isCommitted) this.#link.hurry();
  }

  #onLinkUp(hello: Hello, { generation, awayMs }: LinkUp): void {
    // Who wants to settle has no stream any more, and no return path.
    if (hello.purpose !== "settle") {
      this.#receiver.attach(hello.returnOffset);
      this.#places.tell(this.#link.peer!, hello.knownHashes);
    }
    this.#options.onEvent({ event: "reconnected", generation, peer: this.#link.address, awayMs: awayMs ?? 0 });
    this.#handOff?.linkUp(generation);
  }

  #onLinkDown({ message }: GodwitError): void {
    void this.#receiver.detach();
    this.#options.onEvent({ event: "disconnected", reason: message });
    this.#handOff?.linkDown();
  }

  #onLinkGivenUp(error: unknown): void {
    if (this.#handOff !== undefined) this.#handOff.linkGivenUp(error);
    else this.#failure.report(error);
  }

  /** A QEMU that refuses the stream closes its socket a moment before it says why. */
  #onStreamError(error: GodwitError): void {
    const waitMs = error.code === "MIGRATION_DESTINATION_SOCKET" ? REASON_WAIT_MS : 0;
    setTimeout(() => this.#handOff?.failed(error), waitMs);
  }

  /** Our QEMU was not touched: the sender is told, and we listen on. */
  #refuse(error: unknown): Status {
    const here = "no VM was taken, the destination QEMU waits as before";
    const code = error instanceof GodwitError ? error.code : "MIGRATION_FAILED";
    const isGone = code === "MIGRATION_DESTINATION_GONE";
    const type = this.#welcome === undefined ? "REFUSE" : "ABORT";
    this.#link.send({ type, code, message: messageOf(error) });
    if (error instanceof Cancelled) this.#options.onEvent({ event: "cancelled", vm: here });
    else this.#report(error, isGone ? "the VM does not run here; the source keeps it" : here);
    return error instanceof Cancelled ? "cancelled" : "refused";
  }

  #warn(message: string): void {
    this.#options.onEvent({ event: "warning", message });
  }

  #report(error: unknown, vm: string): void {
    this.#options.onEvent(errorEvent(error, vm, "destination"));
  }

  #summary(status: Status): DestinationSummary {
    return destinationSummary(status, performance.now() - this.#startMs, {
      session: this.id,
      wireBytes: this.#link.wireBytes,
      receiver: this.#receiver,
      cpu: this.#cpu,
      loadMs: this.#handOff?.loadMs ?? null,
      resumeMs: this.#handOff?.resumeMs ?? null,
    });
  }
}
