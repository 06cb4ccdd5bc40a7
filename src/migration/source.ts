import { randomBytes } from "node:crypto";
import { join } from "node:path";
import type { Packing } from "../compact/codec.ts";
import { PAGE_FORMAT } from "../compact/limits.ts";
import { GodwitError, messageOf } from "../errors.ts";
import type { QmpEvent } from "../qemu/commands.ts";
import { readFacts, type VmFacts } from "../qemu/facts.ts";
import { QmpClient } from "../qemu/qmp.ts";
import type { Journal } from "../store/journal.ts";
import type { QemuSettings } from "../store/journal-format.ts";
import { SessionStore } from "../store/session-store.ts";
import { SentPages } from "../stream/sent-pages.ts";
import { type Address, formatAddress } from "../wire/address.ts";
import type { Message } from "../wire/messages.ts";
import { connect, type Security } from "../wire/transport.ts";
import { errorEvent } from "./advice.ts";
import { keepCheckpoint } from "./checkpoint-keep.ts";
import type { CheckpointPlace } from "./checkpoint-take.ts";
import { CpuMeter } from "./costs.ts";
import { Downtime } from "./downtime.ts";
import type { EventListener, KeptCheckpoint, SourceSummary, Status } from "./events.ts";
import { assertMatch, assertPageFormat, newestOf, PROGRAM, parseFacts } from "./greeting.ts";
import { putBackLeftSettings } from "./left-settings.ts";
import { type LinkUp, RECONNECT_FOR_MS } from "./link.ts";
import { listenOnce } from "./listen-once.ts";
import { Cancelled, Failure, PeerRefused, withTimeout } from "./outcome.ts";
import { StreamSender } from "./sender.ts";
import { beginJournal } from "./session-journal.ts";
import { settleLeft } from "./settle-source.ts";
import { makeSocketFolder } from "./socket-folder.ts";
import { SourceHandOff, type SourceOutcome } from "./source-hand-off.ts";
import { SourceLink } from "./source-link.ts";
import { type OfferOptions, SourceOffers } from "./source-offers.ts";
import { type ControlOptions, SourceRounds } from "./source-rounds.ts";
import { sourceSummary } from "./source-summary.ts";
import { SourceVm } from "./source-vm.ts";

/** For the source QEMU to connect to our socket after `migrate`. */
const CONNECT_TIMEOUT_MS = 20_000;

type Welcome = Extract<Message, { type: "WELCOME" }>;

export interface SourceOptions extends OfferOptions, ControlOptions {
  qmpPath: string;
  to: Address;
  security: Security;
  /** Wire bytes per second at most, while the guest runs. */
  maxBytesPerSecond?: number | undefined;
  /** How bodies are packed; "auto", the default: by what is the bottleneck. */
  packing?: "auto" | Packing;
  /** Worker threads; default: the cores to spare. */
  threads?: number;
  /** Lets a VM go to a QEMU older than its own. */
  allowOlderQemu?: boolean;
  /** Where a checkpoint is kept of the VM once it has left; absent: none is kept. */
  keepCheckpoint?: CheckpointPlace | undefined;
  /** For how long a connection that was lost is tried to be made again, in milliseconds; 0: never. Default: RECONNECT_FOR_MS. */
  reconnectForMs?: number | undefined;
  /** Ends the source QEMU once the VM runs at the destination. */
  quit?: boolean;
  /** Aborted by a person who wants the migration to end. */
  signal?: AbortSignal;
  onEvent: EventListener;
}

/**
 * Moves the VM of a QEMU to the `receive` that listens at `to`.
 *
 * The order of the hand-off is docs/hand-off.md. Until COMMIT is noted, whatever goes wrong lets the guest go on here; after it, the
 * guest never resumes here but on the destination's word that it has given up. Never throws: how it ended is in the summary,
 * which is also the last event; an `error` event stands before it where it did not end well.
 */
export async function migrateToPeer(options: SourceOptions): Promise<SourceSummary> {
  return new SourceMigration(options).run();
}

class SourceMigration {
  readonly #options: SourceOptions;
  readonly #session = randomBytes(16).toString("hex");
  /** Why it does not go on as it was. */
  readonly #failure = new Failure();
  readonly #downtime = new Downtime();
  readonly #startMs = performance.now();
  readonly #cpu = new CpuMeter();
  readonly #offers: SourceOffers;
  readonly #link: SourceLink;
  /** When it was settled where the VM is: what is kept of the disks for the next time is no part of the migration. */
  #endMs: number | undefined;
  #helloMs = 0;
  #roundTripMs = 0;
  #qmp: QmpClient | undefined;
  #vm: SourceVm | undefined;
  #facts: VmFacts | undefined;
  #journal: Journal | undefined;
  /** From here on the guest may have been touched. */
  #handOff: SourceHandOff | undefined;
  #sender: StreamSender | undefined;
  #rounds: SourceRounds | undefined;

  constructor(options: SourceOptions) {
    this.#options = options;
    this.#offers = new SourceOffers(options, (message) => this.#warn(message));
    const { to, security, reconnectForMs = RECONNECT_FOR_MS } = options;
    this.#link = new SourceLink({
      session: this.#session,
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

  async run(): Promise<SourceSummary> {
    const { signal } = this.#options;
    const onAbort = () => this.#onAbort();
    signal?.addEventListener("abort", onAbort);
    let status: Status;
    try {
      if (signal?.aborted) onAbort();
      this.#qmp = await this.#failure.or(QmpClient.connect(this.#options.qmpPath));
      const left = await this.#settleLeft(this.#qmp);
      if (left !== undefined) status = left;
      else {
        const welcome = await this.#check(this.#qmp);
        const outcome = await this.#migrate(welcome);
        status = await this.#settle(outcome);
      }
    } catch (error) {
      status = await this.#refuse(error);
    } finally {
      signal?.removeEventListener("abort", onAbort);
      this.#sender?.stop();
      this.#link.end();
      this.#endMs ??= performance.now();
      this.#cpu.stop();
      await this.#journal?.close();
    }
    await this.#offers.close(status !== "completed");
    const migration = this.#summary(status);
    await this.#rounds?.close(migration);
    const summary = { ...migration, checkpoint: status === "completed" ? await this.#afterwards() : null };
    this.#qmp?.close();
    this.#options.onEvent(summary);
    return summary;
  }

  /** What is left to do with the source QEMU once the VM is at the destination. None of it counts as part of the migration. */
  async #afterwards(): Promise<KeptCheckpoint | null> {
    const { keepCheckpoint: place, quit, signal, onEvent } = this.#options;
    const [qmp, vm] = [this.#qmp!, this.#facts!];
    const checkpoint = place === undefined ? null : await keepCheckpoint({ qmp, vm, place, signal, onEvent });
    if (quit) await qmp.execute("quit").catch((error) => this.#warnOfRemains(error));
    return checkpoint;
  }

  #onAbort(): void {
    const reason = new Cancelled(messageOf(this.#options.signal?.reason));
    if (this.#handOff === undefined) this.#failure.report(reason);
    else if (this.#handOff.isCommitted)
      this.#warn("it is too late to cancel: the VM was handed over; waiting for the destination");
    else this.#handOff.cancelled(reason);
  }

  /** What an earlier `send` of this VM has left. @returns how that has ended, where there is nothing here to be migrated any more */
  async #settleLeft(qmp: QmpClient): Promise<Status | undefined> {
    const { stateDir, security, to, reconnectForMs = RECONNECT_FOR_MS, signal, onEvent } = this.#options;
    if (stateDir === undefined) return undefined;
    const left = await settleLeft(qmp, { stateDir, security, to, reconnectForMs, signal, onEvent });
    if (left !== null && left.end !== "aborted") {
      const whereabouts = left.end === "completed" ? "the VM is at the destination" : left.whereabouts;
      this.#warn(`an earlier migration of this VM was open; ${whereabouts}`);
      if (left.end === "completed") this.#facts = await readFacts(qmp);
      else this.#report(left.reason, whereabouts);
      return left.end === "completed" ? "completed" : "in-doubt";
    }
    if (left !== null) this.#warn(`an earlier migration of this VM was open, and has ended; ${left.whereabouts}`);
    await putBackLeftSettings(qmp, await SessionStore.open(stateDir), (message) => this.#warn(message));
    return undefined;
  }

  /** Everything that can be known before the guest is touched. */
  async #check(qmp: QmpClient): Promise<Welcome> {
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
      session: this.#session,
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
        session: this.#session,
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

  /** What is left to do once it is known where the VM is. */
  async #settle({ end, reason, whereabouts }: SourceOutcome): Promise<Status> {
    if (end === "completed") {
      await this.#tidy().catch((error) => this.#warnOfRemains(error));
      return "completed";
    }
    // Else what we have told the peer might be lost with the connection.
    if (end !== "in-doubt") await this.#link.goodbye();
    const isCancelled = reason instanceof Cancelled && end === "aborted";
    if (isCancelled) this.#options.onEvent({ event: "cancelled", vm: whereabouts });
    else this.#report(reason, whereabouts);
    if (end === "in-doubt") return "in-doubt";
    return isCancelled ? "cancelled" : "failed";
  }

  async #tidy(): Promise<void> {
    await this.#vm!.restoreSettings();
    this.#endMs = performance.now();
    this.#cpu.stop();
    await this.#offers.close(false);
  }

  #warnOfRemains(error: unknown): void {
    this.#warn(`the VM runs at the destination, but here: ${messageOf(error)}`);
  }

  /** Nothing was touched: the destination is told, if it has answered. */
  async #refuse(error: unknown): Promise<Status> {
    const unchanged = "nothing was changed, the VM is as it was";
    const { code } = error instanceof GodwitError ? error : { code: "MIGRATION_FAILED" };
    if (!(error instanceof PeerRefused)) this.#link.send({ type: "REFUSE", code, message: messageOf(error) });
    await this.#link.goodbye();
    if (!(error instanceof Cancelled)) this.#report(error, unchanged);
    else this.#options.onEvent({ event: "cancelled", vm: unchanged });
    return error instanceof Cancelled ? "cancelled" : "refused";
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
      (byMigration) => (byMigration ? handOff.guestStopped() : this.#onUserStop(handOff)),
      () => {}, // The QMP is gone, which is noticed elsewhere.
    );
  }

  /** It was a user who has stopped the guest: the migration goes on as before. */
  #onUserStop(handOff: SourceHandOff): void {
    this.#rounds?.onUserStop();
    this.#sender?.calmDown();
    handOff.hurry(false);
  }

  #onSourceGone(cause: GodwitError): void {
    const message = `the source QEMU is gone: ${cause.message}`;
    const error = new GodwitError("MIGRATION_SOURCE_GONE", message, {}, { cause });
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

  #report(error: unknown, vm: string): void {
    this.#options.onEvent(errorEvent(error, vm, "source"));
  }

  #summary(status: Status): SourceSummary {
    return sourceSummary(status, {
      session: this.#session,
      policy: this.#options.policy,
      totalMs: (this.#endMs ?? performance.now()) - this.#startMs,
      guestRuns: this.#vm?.guestRuns ?? false,
      memoryBytes: this.#facts?.memoryBytes ?? 0,
      downtime: this.#downtime,
      link: this.#link,
      sender: this.#sender,
      rounds: this.#rounds,
      offers: this.#offers,
      cpu: this.#cpu,
    });
  }
}
