import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { PAGE_FORMAT } from "../compact/limits.ts";
import { GodwitError, messageOf } from "../errors.ts";
import type { QmpEvent, QmpEvents } from "../qemu/commands.ts";
import { readFacts, type VmFacts } from "../qemu/facts.ts";
import type { QmpClient } from "../qemu/qmp.ts";
import type { Journal } from "../store/journal.ts";
import type { QemuSettings } from "../store/journal-format.ts";
import { SentPages } from "../stream/sent-pages.ts";
import { formatAddress } from "../wire/address.ts";
import type { Message, Welcome } from "../wire/messages.ts";
import { connect } from "../wire/transport.ts";
import { Downtime } from "./downtime.ts";
import { assertMatch, assertPageFormat, newestOf, PROGRAM, parseFacts } from "./greeting.ts";
import { type LinkUp, RECONNECT_FOR_MS } from "./link.ts";
import { listenOnce } from "./listen-once.ts";
import { type Cancelled, type Failure, PeerRefused, sourceGone, withTimeout } from "./outcome.ts";
import { StreamSender } from "./sender.ts";
import { beginJournal } from "./session-journal.ts";
import { makeSocketFolder } from "./socket-folder.ts";
import { SourceHandOff, type SourceOutcome } from "./source-hand-off.ts";
import { SourceLink } from "./source-link.ts";
import { SourceOffers } from "./source-offers.ts";
import type { SourceOptions } from "./source-options.ts";
import { SourceRounds } from "./source-rounds.ts";
import type { SummaryParts } from "./source-summary.ts";
import { SourceVm } from "./source-vm.ts";

/** For the source QEMU to connect to our socket after `migrate`. */
const CONNECT_TIMEOUT_MS = 20_000;

/** Our migration to one destination, whatever number of connections it takes: from HELLO until it is settled where the VM is. */
export class SourceSession {
  readonly id = randomBytes(16).toString("hex");
  readonly #options: SourceOptions;
  readonly #failure: Failure;
  readonly #startMs: number;
  readonly #downtime = new Downtime();
  readonly #offers: SourceOffers;
  readonly #link: SourceLink;
  #helloMs = 0;
  #roundTripMs = 0;
  #qmp: QmpClient | undefined;
  #vm: SourceVm | undefined;
  #facts: VmFacts | undefined;
  #journal: Journal | undefined;
  /** From here on the guest may have been touched. */
  #handOff: SourceHandOff | undefined;
  #sender: StreamSender | undefined;
  /** Why QEMU is about to end, or its guest has. */
  #shutdown: QmpEvents["SHUTDOWN"] | undefined;
  #rounds: SourceRounds | undefined;

  /**
   * @param failure why it does not go on as it was
   * @param startMs when the command was started (performance.now)
   */
  constructor(options: SourceOptions, failure: Failure, startMs: number) {
    this.#options = options;
    this.#failure = failure;
    this.#startMs = startMs;
    this.#offers = new SourceOffers(options, (message) => this.#warn(message));
    const { to, security, reconnectForMs = RECONNECT_FOR_MS } = options;
    this.#link = new SourceLink({
      session: this.id,
      connect: (limits) => connect({ ...to, security, ...limits }),
      hello: () => this.#hello(),
      handler: { onMessage: (message) => this.#onMessage(message) },
      reconnectForMs,
      onDown: (reason) => this.#onLinkDown(reason),
      onAttempt: (attempt) => options.onEvent({ event: "reconnecting", attempt }),
      onUp: (welcome, up) => this.#onLinkUp(welcome, up),
      onGaveUp: (error) => this.#onLinkGivenUp(error),
    });
  }

  /** Of the VM, once they are known. */
  get facts(): VmFacts | undefined {
    return this.#facts;
  }

  /** What a summary is made of, and the session knows. */
  get summaryParts(): Pick<
    SummaryParts,
    "session" | "guestRuns" | "downtime" | "link" | "sender" | "rounds" | "offers"
  > {
    return {
      session: this.id,
      guestRuns: this.#vm?.guestRuns ?? false,
      downtime: this.#downtime,
      link: this.#link,
      sender: this.#sender,
      rounds: this.#rounds,
      offers: this.#offers,
    };
  }

  /**
   * Moves the VM. What it throws has changed nothing; once the journal has begun the outcome says how it ended.
   *
   * @throws what is known before the guest is touched to be in the way
   */
  async run(qmp: QmpClient): Promise<SourceOutcome> {
    return this.#migrate(await this.#check(qmp));
  }

  /** A person wants it to end. */
  cancel(reason: Cancelled): void {
    if (this.#handOff === undefined) this.#failure.report(reason);
    else if (this.#handOff.isCommitted)
      this.#warn("it is too late to cancel: the VM was handed over; waiting for the destination");
    else this.#handOff.cancelled(reason);
  }

  /** Tells the destination, if it has answered, that there will be no migration. */
  async refuse(error: unknown): Promise<void> {
    const code = error instanceof GodwitError ? error.code : "MIGRATION_FAILED";
    if (!(error instanceof PeerRefused)) this.#link.send({ type: "REFUSE", code, message: messageOf(error) });
    await this.#link.goodbye();
  }

  /** Waits until the destination has all that it was told. */
  goodbye(): Promise<void> {
    return this.#link.goodbye();
  }

  /** Puts QEMU's settings back as they were, once the VM has left it. @throws what `execute` throws */
  async restoreSettings(): Promise<void> {
    await this.#vm!.restoreSettings();
  }

  /** Ends stream and connection, and closes the journal. */
  async end(): Promise<void> {
    this.#sender?.stop();
    this.#link.end();
    await this.#journal?.close();
  }

  /** Keeps what was learnt of the disks, and closes them. Never rejects; may be called again. */
  closeDisks(isVmHere: boolean): Promise<void> {
    return this.#offers.close(isVmHere);
  }

  /** Everything that can be known before the guest is touched. */
  async #check(qmp: QmpClient): Promise<Welcome> {
    this.#qmp = qmp;
    this.#vm = await this.#failure.or(SourceVm.open(qmp));
    this.#facts = await this.#failure.or(readFacts(qmp));
    qmp.onEvent((event) => this.#onQmpEvent(event));
    void qmp.closed.then((error) => error && this.#onSourceGone(error));
    await this.#failure.or(this.#offers.open(qmp, this.#facts));
    const welcome = await this.#failure.or(this.#link.open());
    assertPageFormat(welcome.pageFormat, PAGE_FORMAT);
    const theirs = parseFacts(welcome.vm);
    assertMatch(this.#facts, theirs, this.#options.allowOlderQemu ?? false);
    this.#options.onEvent({
      event: "connected",
      session: this.id,
      peer: this.#link.address,
      vm: theirs,
      roundTripMs: this.#roundTripMs,
      checkpoint: newestOf(welcome.checkpoints),
    });
    await this.#failure.or(this.#offers.prepare(welcome, (error) => this.#failure.report(error)));
    return welcome;
  }

  #hello() {
    this.#helloMs = performance.now();
    const known = { program: PROGRAM, pageFormat: PAGE_FORMAT, features: [], vm: this.#facts };
    return { ...known, ...this.#offers.hello, returnOffset: this.#sender?.returnBytes ?? 0 };
  }

  /** From the first record of the journal until it is settled where the VM is. */
  async #migrate({ windowBytes }: Welcome): Promise<SourceOutcome> {
    const { stateDir, to, reconnectForMs = RECONNECT_FOR_MS, onEvent } = this.#options;
    const [qmp, vm] = [this.#qmp!, this.#vm!];
    this.#journal = await this.#failure.or(
      beginJournal(stateDir, {
        session: this.id,
        role: "source",
        peer: formatAddress(to),
        vm: this.#facts!,
        qmp,
        guestRuns: vm.guestRuns,
        secret: this.#offers.hello.tagKey,
      }),
    );
    const handOff = new SourceHandOff({
      link: this.#link,
      journal: this.#journal,
      guestRuns: () => vm.guestRuns,
      giveBack: () => vm.giveBack(),
      downtime: this.#downtime,
      lastReadMs: () => this.#sender!.lastReadMs,
      reconnectForMs,
      startMs: this.#startMs,
      onEvent,
      onDecided: (reason) => this.#failure.report(reason),
    });
    this.#handOff = handOff;
    if (!this.#link.isUp) handOff.linkDown();
    this.#stream(handOff, windowBytes).catch((error) => handOff.failed(error));
    return handOff.ended;
  }

  /** From `migrate` until the source QEMU is stopped for good. */
  async #stream(handOff: SourceHandOff, windowBytes: number): Promise<void> {
    const { onEvent, maxBytesPerSecond, packing, threads, qmpPath } = this.#options;
    const [qmp, vm, link, facts, offers] = [this.#qmp!, this.#vm!, this.#link, this.#facts!, this.#offers];
    await using folder = await makeSocketFolder(qmpPath);
    await using server = await listenOnce(join(folder.path, "source.sock"));
    const sentPages = new SentPages();
    const sender = new StreamSender(link, {
      windowBytes,
      maxBytesPerSecond,
      ...(packing && { packing }),
      ...(threads !== undefined && { threads }),
      onPacking: ({ codec, level }, reason) => onEvent({ event: "codec", codec, level, reason }),
      referable: offers.referable,
      cachePages: offers.cachePages,
      sentPages,
      onWarning: (message) => this.#warn(message),
      onError: (error) => handOff.failed(error),
    });
    this.#sender = sender;
    if (!link.isUp) sender.detach();
    const giveUp = (error: GodwitError) => handOff.failed(error);
    const [journal, startMs] = [this.#journal, this.#startMs];
    const noted = journal && { noteSettings: (settings: QemuSettings | null) => journal.noteSettings(settings) };
    const parts = { qmp, vm, peer: link, sender, sentPages, offers, facts, startMs, onEvent, giveUp, ...noted };
    const rounds = await this.#failure.or(SourceRounds.open(parts, this.#options));
    this.#rounds = rounds;
    onEvent({ event: "started", memoryBytes: facts.memoryBytes });
    const started = rounds.start(server.path);
    const completed = this.#failure.or(started).then(() => vm.completed(this.#failure.signal));
    if (!vm.guestRuns) handOff.guestStopped();
    const accepted = await this.#failure.or(
      Promise.race([
        server.accepted,
        // From `migrate` on: QEMU may take its time over all the commands before.
        started.then(() =>
          withTimeout(server.accepted, CONNECT_TIMEOUT_MS, "the source QEMU did not connect to godwit's socket"),
        ),
        completed.then(() => server.accepted),
      ]),
    );
    sender.start(accepted);
    await this.#failure.or(rounds.until(completed));
    handOff.guestStopped();
    handOff.qemuComplete();
  }

  #onLinkUp(welcome: Welcome, { awayMs, generation }: LinkUp): void {
    if (awayMs === null) {
      this.#roundTripMs = performance.now() - this.#helloMs;
      this.#offers.onWelcome(welcome);
      return;
    }
    // A destination that was started again has no stream to go on with: what it has is loaded, or lost.
    if (welcome.purpose !== "settle") this.#sender?.resume(welcome.rawOffset);
    this.#options.onEvent({ event: "reconnected", generation, peer: this.#link.address, awayMs });
    this.#handOff?.linkUp(welcome.state ?? "streaming", generation);
  }

  #onLinkDown({ message }: GodwitError): void {
    this.#sender?.detach();
    this.#options.onEvent({ event: "disconnected", reason: message });
    this.#handOff?.linkDown();
  }

  #onLinkGivenUp(error: unknown): void {
    if (this.#handOff !== undefined) this.#handOff.linkGivenUp(error);
    else this.#failure.report(error);
  }

  #onQmpEvent(event: QmpEvent): void {
    if (event.name === "SHUTDOWN") this.#shutdown = event.data;
    const handOff = this.#handOff;
    if (handOff === undefined || handOff.isCommitted || this.#failure.signal.aborted) return;
    if (event.name === "MIGRATION_PASS") this.#rounds?.onSync(event);
    const stop = this.#vm!.onEvent(event);
    if (stop === undefined) return;
    this.#rounds?.onStop();
    this.#downtime.stopped(event);
    this.#offers.stopIndexing();
    this.#sender?.hurry();
    handOff.hurry(true);
    stop.then(
      (byMigration) => (byMigration ? handOff.guestStopped() : this.#onOtherStop(handOff)),
      () => {}, // The QMP is gone, which is noticed elsewhere.
    );
  }

  /** It was a user who has stopped the guest, or itself: the migration goes on as before. */
  #onOtherStop(handOff: SourceHandOff): void {
    this.#rounds?.onOtherStop();
    this.#sender?.calmDown();
    handOff.hurry(false);
  }

  #onSourceGone(cause: GodwitError): void {
    const error = sourceGone(cause, this.#shutdown);
    if (this.#handOff !== undefined) this.#handOff.qemuGone(error);
    else this.#failure.report(error);
  }

  #onMessage(message: Message): void {
    switch (message.type) {
      case "ACK":
        return this.#sender?.acknowledge(message);
      case "HASHES":
        return this.#offers.onHashes(message);
      case "NACK":
        return this.#sender?.repair(message);
      case "RETURN":
        return this.#sender?.writeReturn(message);
      case "RETURN_END":
        return this.#sender?.endReturn(message);
      case "ABORT":
        if (this.#handOff === undefined) this.#failure.report(new PeerRefused(message.code, message.message));
        else this.#handOff.heard(message);
        return;
      case "LOADED":
      case "RUNNING":
        return this.#handOff?.heard(message);
      default:
        throw new GodwitError("WIRE_OUT_OF_ORDER", `a receiver does not send ${message.type}`);
    }
  }

  #warn(message: string): void {
    this.#options.onEvent({ event: "warning", message });
  }
}
