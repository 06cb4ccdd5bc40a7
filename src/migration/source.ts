import { randomBytes } from "node:crypto";
import { join } from "node:path";
import type { Packing } from "../compact/codec.ts";
import { PAGE_FORMAT } from "../compact/limits.ts";
import { GodwitError, messageOf } from "../errors.ts";
import type { QmpEvent } from "../qemu/commands.ts";
import { readFacts, type VmFacts } from "../qemu/facts.ts";
import { QmpClient } from "../qemu/qmp.ts";
import { SentPages } from "../stream/sent-pages.ts";
import type { Address } from "../wire/address.ts";
import type { Message } from "../wire/messages.ts";
import { connect, type Security } from "../wire/transport.ts";
import { errorEvent } from "./advice.ts";
import { keepCheckpoint } from "./checkpoint-keep.ts";
import type { CheckpointPlace } from "./checkpoint-take.ts";
import { CpuMeter } from "./costs.ts";
import { Downtime } from "./downtime.ts";
import type { EventListener, KeptCheckpoint, Pages, SourceSummary, Status } from "./events.ts";
import { assertMatch, assertPageFormat, newestOf, PROGRAM, parseFacts } from "./greeting.ts";
import { listenOnce } from "./listen-once.ts";
import { Cancelled, Failure, PeerAborted, PeerRefused, withTimeout } from "./outcome.ts";
import { Peer } from "./peer.ts";
import { NOTHING_PREDICTED } from "./predictions.ts";
import { pagesOf } from "./progress.ts";
import { StreamSender } from "./sender.ts";
import { makeSocketFolder } from "./socket-folder.ts";
import { type OfferOptions, SourceOffers } from "./source-offers.ts";
import { type ControlOptions, SourceRounds } from "./source-rounds.ts";
import { SourceVm } from "./source-vm.ts";

/** For the destination to ask its QEMU what it is and answer HELLO. */
const WELCOME_TIMEOUT_MS = 20_000;
/** For the source QEMU to connect to our socket after `migrate`. */
const CONNECT_TIMEOUT_MS = 20_000;
/** How long the destination has to say that the VM runs, after COMMIT. */
const RUNNING_TIMEOUT_MS = 60_000;
const NO_BODIES: SourceSummary["bodies"] = {};
const NO_PAGES: Pages = {
  zeroPages: 0,
  diskPages: 0,
  checkpointPages: 0,
  samePages: 0,
  deltaPages: 0,
  literalPages: 0,
  blankPages: 0,
  rawPages: 0,
};

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
  /** Ends the source QEMU once the VM runs at the destination. */
  quit?: boolean;
  /** Aborted by a person who wants the migration to end. */
  signal?: AbortSignal;
  onEvent: EventListener;
}

/**
 * Moves the VM of a QEMU to the `receive` that listens at `to`.
 *
 * The order of the hand-off is docs/hand-off.md. Until COMMIT leaves, whatever goes wrong lets the guest go on here; after it, the
 * guest never resumes here but on the destination's word that it has given up. Never throws: how it ended is in the summary,
 * which is also the last event; an `error` event stands before it where it did not end well.
 */
export async function migrateToPeer(options: SourceOptions): Promise<SourceSummary> {
  return new SourceMigration(options).run();
}

type Phase = "checking" | "streaming" | "committed" | "done";

class SourceMigration {
  readonly #options: SourceOptions;
  readonly #session = randomBytes(16).toString("hex");
  readonly #failure = new Failure();
  readonly #welcome = Promise.withResolvers<Extract<Message, { type: "WELCOME" }>>();
  readonly #loaded = Promise.withResolvers<void>();
  readonly #running = Promise.withResolvers<number>();
  readonly #downtime = new Downtime();
  readonly #startMs = performance.now();
  readonly #cpu = new CpuMeter();
  /** When it was settled where the VM is: what is kept of the disks for the next time is no part of the migration. */
  #endMs: number | undefined;
  #phase: Phase = "checking";
  #qmp: QmpClient | undefined;
  #vm: SourceVm | undefined;
  #peer: Peer | undefined;
  readonly #offers: SourceOffers;
  #sender: StreamSender | undefined;
  #rounds: SourceRounds | undefined;
  #facts: VmFacts | undefined;
  #hasSentSwitchover = false;

  constructor(options: SourceOptions) {
    this.#options = options;
    this.#offers = new SourceOffers(options, (message) => this.#warn(message));
  }

  async run(): Promise<SourceSummary> {
    const { signal } = this.#options;
    const onAbort = () => this.#onAbort();
    signal?.addEventListener("abort", onAbort);
    let status: Status = "completed";
    try {
      if (signal?.aborted) onAbort();
      await this.#check();
      await this.#stream();
      await this.#handOver();
    } catch (error) {
      status = await this.#giveBack(error);
    } finally {
      signal?.removeEventListener("abort", onAbort);
      this.#sender?.stop();
      this.#peer?.end();
      this.#endMs ??= performance.now();
      this.#cpu.stop();
      await this.#offers.close(status !== "completed");
    }
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
    if (this.#phase === "checking" || this.#phase === "streaming") {
      this.#failure.report(new Cancelled(messageOf(this.#options.signal?.reason)));
    } else this.#warn("it is too late to cancel: the VM was handed over; waiting for the destination");
  }

  /** Everything that can be known before the guest is touched. */
  async #check(): Promise<void> {
    const { qmpPath, to, security } = this.#options;
    this.#qmp = await this.#failure.or(QmpClient.connect(qmpPath));
    this.#vm = await this.#failure.or(SourceVm.open(this.#qmp));
    const facts = await this.#failure.or(readFacts(this.#qmp));
    this.#facts = facts;
    this.#qmp.onEvent((event) => this.#onQmpEvent(event));
    void this.#qmp.closed.then((error) => this.#onSourceGone(error));
    await this.#failure.or(this.#offers.open(this.#qmp, facts));
    const connection = await this.#failure.or(connect({ ...to, security, signal: this.#failure.signal }));
    this.#peer = new Peer(connection, "sender", { onMessage: (message) => this.#onMessage(message) });
    this.#peer.closed.then(
      () => this.#failure.report(new GodwitError("WIRE_CLOSED", `${connection.remoteAddress} closed the connection`)),
      (error) => this.#failure.report(error),
    );
    await this.#greet(this.#peer, facts);
  }

  async #greet(peer: Peer, vm: VmFacts): Promise<void> {
    const sentMs = performance.now();
    peer.send({
      type: "HELLO",
      session: this.#session,
      generation: 1,
      program: PROGRAM,
      pageFormat: PAGE_FORMAT,
      features: [],
      vm,
      returnOffset: 0,
      ...this.#offers.hello,
    });
    const welcome = await this.#failure.or(
      withTimeout(this.#welcome.promise, WELCOME_TIMEOUT_MS, "the destination did not answer HELLO"),
    );
    assertPageFormat(welcome.pageFormat, PAGE_FORMAT);
    const theirs = parseFacts(welcome.vm);
    assertMatch(vm, theirs, this.#options.allowOlderQemu ?? false);
    const roundTripMs = performance.now() - sentMs;
    this.#options.onEvent({
      event: "connected",
      session: this.#session,
      peer: peer.address,
      vm: theirs,
      roundTripMs,
      checkpoint: newestOf(welcome.checkpoints),
    });
    await this.#failure.or(this.#offers.prepare(welcome, (error) => this.#failure.report(error)));
  }

  /** From `migrate` until all is at the destination, loaded, and the source QEMU is stopped for good. */
  async #stream(): Promise<void> {
    const { onEvent, maxBytesPerSecond, packing, threads, qmpPath } = this.#options;
    const [qmp, vm, peer] = [this.#qmp!, this.#vm!, this.#peer!];
    const { memoryBytes } = this.#facts!;
    await using folder = await makeSocketFolder(qmpPath);
    await using server = await listenOnce(join(folder.path, "source.sock"));
    const { windowBytes } = await this.#welcome.promise;
    const sentPages = new SentPages();
    const sender = new StreamSender(peer, {
      windowBytes,
      maxBytesPerSecond,
      ...(packing && { packing }),
      ...(threads !== undefined && { threads }),
      onPacking: ({ codec, level }, reason) => onEvent({ event: "codec", codec, level, reason }),
      referable: this.#offers.referable,
      cachePages: this.#offers.cachePages,
      sentPages,
      onWarning: (message) => this.#warn(message),
      onError: (error) => this.#failure.report(error),
    });
    this.#sender = sender;
    const giveUp = (error: GodwitError) => this.#failure.report(error);
    const [facts, offers, startMs] = [this.#facts!, this.#offers, this.#startMs];
    const parts = { qmp, vm, peer, sender, sentPages, offers, facts, startMs, onEvent, giveUp };
    const rounds = await SourceRounds.open(parts, this.#options);
    this.#rounds = rounds;
    peer.startPulse();
    this.#phase = "streaming";
    onEvent({ event: "started", memoryBytes });
    const started = rounds.start(server.path);
    const completed = this.#failure.or(started).then(() => vm.completed(this.#failure.signal));
    if (!vm.guestRuns) this.#sendSwitchover();
    const accepted = await this.#failure.or(
      Promise.race([
        withTimeout(server.accepted, CONNECT_TIMEOUT_MS, "the source QEMU did not connect to godwit's socket"),
        completed.then(() => server.accepted),
      ]),
    );
    sender.start(accepted);
    await this.#failure.or(rounds.until(completed));
    this.#sendSwitchover();
    await this.#failure.or(this.#loaded.promise);
  }

  /** COMMIT, and what the destination makes of it. */
  async #handOver(): Promise<void> {
    const peer = this.#peer!;
    this.#failure.signal.throwIfAborted();
    this.#phase = "committed";
    peer.send({ type: "COMMIT", run: this.#vm!.guestRuns });
    this.#options.onEvent({ event: "committed" });
    const resumeMs = await this.#failure.or(
      withTimeout(this.#running.promise, RUNNING_TIMEOUT_MS, "the destination did not say that the VM runs"),
    );
    this.#options.onEvent({ event: "running", resumeMs, isPaused: !this.#vm!.guestRuns });
    await this.#tidy().catch((error) => this.#warnOfRemains(error));
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

  /** After a failure: makes sure of where the VM is, and says so. */
  async #giveBack(error: unknown): Promise<Status> {
    const isCancelled = error instanceof Cancelled;
    if (this.#phase === "done") return "completed";
    if (this.#phase === "committed" && !(error instanceof PeerAborted)) {
      this.#report(error, "the VM is stopped here, and may run at the destination");
      return "in-doubt";
    }
    const wasTouched = this.#phase !== "checking";
    const hasPeer = this.#peer !== undefined && !(error instanceof PeerAborted || error instanceof PeerRefused);
    if (hasPeer && this.#phase !== "committed") this.#abortPeer(error, wasTouched);
    const whereabouts = await this.#resumeHere(error, wasTouched);
    // Else what we have told the peer might be lost with the connection.
    if (hasPeer) await this.#peer!.goodbye();
    if (isCancelled) this.#options.onEvent({ event: "cancelled", vm: whereabouts });
    else this.#report(error, whereabouts);
    if (!wasTouched) return isCancelled ? "cancelled" : "refused";
    return isCancelled ? "cancelled" : "failed";
  }

  #abortPeer(error: unknown, wasTouched: boolean): void {
    const code = error instanceof GodwitError ? error.code : "MIGRATION_FAILED";
    try {
      this.#peer!.send({ type: wasTouched ? "ABORT" : "REFUSE", code, message: messageOf(error) });
    } catch {
      // The greeting was not over: closing the connection says enough.
    }
  }

  /** Returns in words where the VM is. */
  async #resumeHere(error: unknown, wasTouched: boolean): Promise<string> {
    if (!wasTouched) return "nothing was changed, the VM is as it was";
    if (error instanceof GodwitError && error.code === "MIGRATION_SOURCE_GONE")
      return "it took the VM with it, and the destination did not take over";
    try {
      await this.#vm!.giveBack();
      return this.#vm!.guestRuns ? "the VM keeps running here" : "the VM stays paused here, as it was";
    } catch (error) {
      return `the VM is here, but it is not sure that it runs: ${messageOf(error)}`;
    }
  }

  #onQmpEvent(event: QmpEvent): void {
    if (this.#phase !== "streaming") return;
    if (event.name === "MIGRATION_PASS") this.#rounds!.onSync(event);
    const stop = this.#vm!.onEvent(event);
    if (stop === undefined) return;
    this.#rounds!.onStop();
    this.#downtime.stopped(event);
    this.#offers.stopIndexing();
    this.#sender?.hurry();
    stop.then(
      (byMigration) => (byMigration ? this.#sendSwitchover() : this.#onUserStop()),
      () => {}, // The QMP is gone, which is noticed elsewhere.
    );
  }

  /** It was a user who has stopped the guest: the migration goes on as before. */
  #onUserStop(): void {
    this.#rounds!.onUserStop();
    this.#sender?.calmDown();
  }

  /** Once COMMIT has left, the source QEMU has nothing to do with the VM any more. */
  #onSourceGone(error: GodwitError | undefined): void {
    if (error === undefined || this.#phase === "committed" || this.#phase === "done") return;
    this.#failure.report(
      new GodwitError("MIGRATION_SOURCE_GONE", `the source QEMU is gone: ${error.message}`, {}, { cause: error }),
    );
  }

  #sendSwitchover(): void {
    if (this.#hasSentSwitchover || this.#failure.signal.aborted) return;
    this.#hasSentSwitchover = true;
    this.#peer!.send({ type: "SWITCHOVER" });
    this.#options.onEvent({ event: "switchover", elapsedMs: performance.now() - this.#startMs });
  }

  #onMessage(message: Message): void {
    switch (message.type) {
      case "WELCOME":
        this.#offers.onWelcome(message);
        return this.#welcome.resolve(message);
      case "REFUSE":
        return this.#failure.report(new PeerRefused(message.code, message.message));
      case "ABORT":
        return this.#failure.report(new PeerAborted(message.code, message.message));
      case "ACK":
        return this.#sender?.acknowledge(message);
      case "HASHES":
        return this.#offers.onHashes(message);
      case "NACK":
        return this.#sender?.repair(message);
      case "RETURN":
        return this.#sender?.writeReturn(message);
      case "RETURN_END":
        return this.#sender?.endReturn();
      case "LOADED":
        this.#downtime.loaded(message.loadMs, this.#sender!.lastReadMs);
        this.#options.onEvent({ event: "loaded", loadMs: message.loadMs });
        return this.#loaded.resolve();
      case "RUNNING":
        this.#phase = "done";
        this.#downtime.running(message.resumeMs, this.#peer!.backlog.minRttMs ?? 0);
        return this.#running.resolve(message.resumeMs);
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
    const parts = this.#vm?.guestRuns ? this.#downtime.parts : null;
    return {
      event: "summary",
      role: "source",
      status,
      session: this.#session,
      totalMs: (this.#endMs ?? performance.now()) - this.#startMs,
      downtimeMs: parts === null ? null : Object.values(parts).reduce((sum, ms) => sum + ms, 0),
      downtimeParts: parts,
      ...(this.#rounds?.predicted ?? NOTHING_PREDICTED),
      residualBytes: this.#rounds?.residualBytes ?? null,
      policy: this.#options.policy ?? "adaptive",
      wireBytes: this.#peer?.wireBytes ?? 0,
      rawBytes: this.#sender?.rawBytes ?? 0,
      rounds: this.#rounds?.begun ?? 0,
      memoryBytes: this.#facts?.memoryBytes ?? 0,
      pages: pagesOf(this.#sender?.counts ?? NO_PAGES),
      deltaBytes: this.#sender?.counts.deltaBytes ?? 0,
      nackedPages: this.#sender?.nackedPages ?? 0,
      diskIndex: this.#offers.diskIndex,
      bodies: this.#sender?.bodies ?? NO_BODIES,
      packing: this.#sender?.packing ?? null,
      savedBytes: this.#sender?.savedBytes ?? null,
      cpuSeconds: {
        total: this.#cpu.seconds,
        encode: (this.#sender?.work.encodeMs ?? 0) / 1000,
        pack: (this.#sender?.work.packMs ?? 0) / 1000,
      },
      roundTripMs: this.#peer?.backlog.minRttMs ?? null,
      checkpoint: null,
    };
  }
}
