import { join } from "node:path";
import { cachePagesOf } from "../compact/cache-size.ts";
import { PAGE_FORMAT } from "../compact/limits.ts";
import { GodwitError, messageOf } from "../errors.ts";
import type { VmFacts } from "../qemu/facts.ts";
import type { QmpClient } from "../qemu/qmp.ts";
import type { Address } from "../wire/address.ts";
import type { Connection } from "../wire/connection.ts";
import type { Message } from "../wire/messages.ts";
import type { Security } from "../wire/transport.ts";
import { errorEvent } from "./advice.ts";
import { AgreedCheckpoints, type HeldCheckpoints } from "./agreed-checkpoints.ts";
import { AgreedDisks, type DiskOpener } from "./agreed-disks.ts";
import { CpuMeter } from "./costs.ts";
import type { DestinationVm } from "./destination-vm.ts";
import { type DiskPaths, disksAt } from "./disk-paths.ts";
import { openDestinationDisks } from "./disk-readers.ts";
import type { DestinationSummary, EventListener, Status } from "./events.ts";
import { assertExpectedVm, assertMatch, assertPageFormat, newestOf, PROGRAM, parseFacts } from "./greeting.ts";
import { Cancelled, Failure } from "./outcome.ts";
import { Peer } from "./peer.ts";
import { StreamReceiver } from "./receiver.ts";
import { makeSocketFolder } from "./socket-folder.ts";
import { WINDOW_BYTES } from "./window.ts";

/** How long a peer may take to say HELLO once it is authenticated. */
export const HELLO_TIMEOUT_MS = 10_000;
/** How often progress is reported. */
const PROGRESS_MS = 250;
/** How long QEMU gets to say over QMP why it closed the stream. */
const REASON_WAIT_MS = 1000;

export interface DestinationOptions {
  qmpPath: string;
  listen: Address;
  security: Security;
  /** Ends with the first session, however it ends. Else it goes on listening while its QEMU can still take a VM. */
  once?: boolean;
  /** Name or UUID of the only VM that is taken; absent: any that fits our QEMU. */
  vm?: string | undefined;
  /** Lets a VM come from a QEMU newer than ours. */
  allowOlderQemu?: boolean;
  /** Where disks are to be read instead of where QEMU says. */
  diskPaths?: DiskPaths | undefined;
  /** Worker threads; default: the cores to spare. */
  threads?: number;
  /** Memory for the page cache for deltas; default: cachePagesOf. */
  deltaCacheBytes?: number | undefined;
  /** How disks are opened that pages may be read from; default: openDestinationDisks. */
  openDisks?: DiskOpener;
  /** The checkpoints of this host; without, pages are not read from any. */
  openCheckpoints?: (() => Promise<HeldCheckpoints>) | undefined;
  signal?: AbortSignal;
  onEvent: EventListener;
}

type Hello = Extract<Message, { type: "HELLO" }>;
type Phase = "greeting" | "streaming" | "loaded" | "committed";

/** One connection of a sender, from HELLO to RUNNING or to the end. */
export class Session {
  readonly #options: DestinationOptions;
  readonly #qmp: QmpClient;
  readonly #vm: DestinationVm;
  readonly #facts: VmFacts;
  readonly #peer: Peer;
  readonly #startMs: number;
  readonly #failure = new Failure();
  readonly #hello = Promise.withResolvers<Hello>();
  readonly #firstData = Promise.withResolvers<void>();
  readonly #switchover = Promise.withResolvers<void>();
  readonly #commit = Promise.withResolvers<{ run: boolean }>();
  readonly #receiver: StreamReceiver;
  readonly #cpu = new CpuMeter();
  #disks: Promise<AgreedDisks> | undefined;
  #checkpoints: Promise<AgreedCheckpoints> | undefined;
  #phase: Phase = "greeting";
  #session: string | null = null;
  #loadMs: number | null = null;
  #resumeMs: number | null = null;
  #reported = { atMs: performance.now(), wireBytes: 0 };

  constructor(
    options: DestinationOptions,
    qmp: QmpClient,
    vm: DestinationVm,
    facts: VmFacts,
    connection: Connection,
    startMs: number,
  ) {
    this.#options = options;
    this.#qmp = qmp;
    this.#vm = vm;
    this.#facts = facts;
    this.#startMs = startMs;
    this.#receiver = new StreamReceiver({
      cachePages: cachePagesOf(options.deltaCacheBytes, facts.memoryBytes),
      send: (message) => this.#peer.send(message),
      onRoom: () => this.#peer.onRoom(),
      onError: (error) => this.#onStreamError(error),
      ping: () => this.#peer.ping(),
      wireBytes: () => this.#peer.receivedBytes,
      ...(options.threads !== undefined && { threads: options.threads }),
      onWarning: (message) => this.#warn(message),
    });
    this.#peer = new Peer(connection, "receiver", {
      onMessage: (message) => this.#onMessage(message),
      onData: (header) => {
        this.#firstData.resolve();
        return this.#receiver.onData(header);
      },
      onDataComplete: (header, body) => this.#receiver.onDataComplete(header, body),
      onRepair: (header) => this.#receiver.onRepair(header),
      onRepairComplete: () => this.#receiver.onRepairComplete(),
    });
    this.#peer.closed.then(
      () => this.#onPeerGone(new GodwitError("WIRE_CLOSED", `${this.#peer.address} closed the connection`)),
      (error) => this.#onPeerGone(error),
    );
  }

  cancel(reason: Cancelled): void {
    if (this.#phase !== "committed") this.#failure.report(reason);
    else this.#warn("it is too late to cancel: the VM is ours, and is being started");
  }

  async run(): Promise<DestinationSummary> {
    let status: Status = "completed";
    void this.#qmp.closed.then((error) => error && this.#failure.report(destinationIsGone(error)));
    try {
      await this.#greet();
      await this.#stream();
      await this.#takeOver();
    } catch (error) {
      status = await this.#giveUp(error);
    } finally {
      this.#receiver.stop();
      this.#peer.end();
      await this.#closePlaces();
    }
    return this.#summary(status);
  }

  async #greet(): Promise<void> {
    const late = setTimeout(
      () =>
        this.#failure.report(
          new GodwitError("MIGRATION_TIMEOUT", `${this.#peer.address} connected, but sent no HELLO`),
        ),
      HELLO_TIMEOUT_MS,
    );
    const hello = await this.#failure.or(this.#hello.promise).finally(() => clearTimeout(late));
    this.#session = hello.session;
    assertPageFormat(hello.pageFormat, PAGE_FORMAT);
    const theirs = parseFacts(hello.vm);
    assertExpectedVm(theirs, this.#options.vm);
    assertMatch(theirs, this.#facts, this.#options.allowOlderQemu ?? false);
    const { disks, checkpoints } = await this.#failure.or(this.#openPlaces(hello, theirs));
    const cachePages = Math.min(hello.cachePages, this.#receiver.cachePages);
    this.#receiver.useCache(cachePages);
    this.#peer.send({
      type: "WELCOME",
      session: hello.session,
      generation: hello.generation,
      program: PROGRAM,
      pageFormat: PAGE_FORMAT,
      features: [],
      vm: this.#facts,
      disks: disks.map(({ id }) => id),
      checkpoints: checkpoints.offers,
      cachePages,
      rawOffset: 0,
      windowBytes: WINDOW_BYTES,
    });
    checkpoints.tell(this.#peer);
    this.#options.onEvent({
      event: "connected",
      session: hello.session,
      peer: this.#peer.address,
      vm: theirs,
      roundTripMs: 0,
      checkpoint: newestOf(checkpoints.offers),
    });
  }

  /** Opens what the source may refer to and stands here. */
  async #openPlaces({ disks: wanted, checkpointPages, tagKey }: Hello, source: VmFacts) {
    const warn = (message: string) => this.#warn(message);
    const { openDisks = openDestinationDisks, openCheckpoints, diskPaths = new Map() } = this.#options;
    this.#disks = AgreedDisks.open(this.#qmp, wanted, (qmp, disks) => openDisks(qmp, disksAt(disks, diskPaths)));
    if (openCheckpoints !== undefined)
      this.#checkpoints = AgreedCheckpoints.open(openCheckpoints, source, this.#facts, checkpointPages, warn);
    const { disks, missing } = await this.#disks;
    const checkpoints = (await this.#checkpoints) ?? AgreedCheckpoints.none();
    if (missing !== null)
      warn(`pages that stand on a disk are sent all the same, as it can't be read here: ${missing}`);
    this.#receiver.usePlaces({ disks, checkpoints: checkpoints.checkpoints }, Buffer.from(tagKey, "hex"), warn);
    return { disks, checkpoints };
  }

  async #closePlaces(): Promise<void> {
    for (const places of [await this.#disks, await this.#checkpoints])
      await places?.close().catch((error) => this.#warn(messageOf(error)));
  }

  /** Feeds the destination QEMU until it has loaded the VM. */
  async #stream(): Promise<void> {
    this.#peer.startPulse();
    await using folder = await makeSocketFolder(this.#options.qmpPath);
    const path = join(folder.path, "destination.sock");
    // The sender may still refuse us, and QEMU can be told to take a VM only once: wait for the first data.
    this.#phase = "streaming";
    await this.#failure.or(this.#firstData.promise);
    await this.#failure.or(this.#vm.start(path));
    await this.#failure.or(this.#receiver.connect(path));
    this.#peer.onRoom();
    const reporting = setInterval(() => this.#reportProgress(), PROGRESS_MS);
    try {
      await this.#failure.or(this.#vm.loaded(this.#failure.signal));
    } finally {
      clearInterval(reporting);
    }
    this.#loadMs = performance.now() - this.#receiver.lastWriteMs;
    await this.#failure.or(this.#switchover.promise);
    this.#phase = "loaded";
    this.#peer.send({ type: "LOADED", loadMs: this.#loadMs, rawBytes: this.#receiver.rawBytes });
    this.#options.onEvent({ event: "loaded", loadMs: this.#loadMs });
  }

  async #takeOver(): Promise<void> {
    const { run } = await this.#failure.or(this.#commit.promise);
    this.#resumeMs = run ? await this.#vm.run() : 0;
    this.#options.onEvent({ event: "running", resumeMs: this.#resumeMs, isPaused: !run });
    try {
      this.#peer.send({ type: "RUNNING", resumeMs: this.#resumeMs });
    } catch {
      // The connection is gone. The VM is ours all the same, and the source stays stopped.
    }
  }

  #onMessage(message: Message): void {
    switch (message.type) {
      case "HELLO":
        return this.#hello.resolve(message);
      case "REFUSE":
      case "ABORT":
        return this.#failure.report(new GodwitError("PEER_ABORTED", `the source gave up: ${message.message}`));
      case "END":
        return this.#receiver.onEndOfStream(message.rawBytes);
      case "SWITCHOVER":
        void this.#checkpoints?.then((checkpoints) => checkpoints.stopTelling());
        this.#options.onEvent({ event: "switchover", elapsedMs: performance.now() - this.#startMs });
        return this.#switchover.resolve();
      case "COMMIT":
        if (this.#failure.signal.aborted) return; // We have given up already, and the source will be told.
        this.#phase = "committed";
        this.#options.onEvent({ event: "committed" });
        return this.#commit.resolve({ run: message.run });
      default:
        throw new GodwitError("WIRE_OUT_OF_ORDER", `a sender does not send ${message.type}`);
    }
  }

  /** After COMMIT the VM is ours, whatever becomes of the connection. */
  #onPeerGone(error: GodwitError): void {
    if (this.#phase !== "committed") this.#failure.report(error);
  }

  /** A QEMU that refuses the stream closes its socket a moment before it says why. */
  #onStreamError(error: GodwitError): void {
    const waitMs = error.code === "MIGRATION_DESTINATION_SOCKET" ? REASON_WAIT_MS : 0;
    setTimeout(() => this.#failure.report(error), waitMs);
  }

  /** After a failure: makes sure that the VM never runs here, then tells the source, then the user. */
  async #giveUp(error: unknown): Promise<Status> {
    const isCancelled = error instanceof Cancelled;
    const code = error instanceof GodwitError ? error.code : undefined;
    if (this.#phase === "committed" && code !== "MIGRATION_DESTINATION_NOT_RUNNING") {
      // It may have run already: the source must not be told that it has not.
      this.#report(error, "the VM is ours, and may have run here; the source keeps it stopped");
      return "in-doubt";
    }
    let here = "no VM was taken, the destination QEMU waits as before";
    if (code === "MIGRATION_DESTINATION_GONE") {
      here = "the VM does not run here; the source keeps it";
    } else if (this.#vm.hasStarted) {
      try {
        await this.#vm.giveUp();
        here = "the VM does not run here: the destination QEMU was ended; the source keeps it";
      } catch (cause) {
        this.#report(error, `the destination QEMU holds a copy of the VM and does not end: ${messageOf(cause)}`);
        return "in-doubt";
      }
    }
    this.#tellPeer(error);
    if (isCancelled) this.#options.onEvent({ event: "cancelled", vm: here });
    else this.#report(error, here);
    if (isCancelled) return "cancelled";
    return this.#vm.hasStarted ? "failed" : "refused";
  }

  #tellPeer(error: unknown): void {
    const code = error instanceof GodwitError ? error.code : "MIGRATION_FAILED";
    try {
      this.#peer.send({ type: this.#phase === "greeting" ? "REFUSE" : "ABORT", code, message: messageOf(error) });
    } catch {
      // It has said goodbye itself, or never said HELLO.
    }
  }

  #reportProgress(): void {
    const now = performance.now();
    const { wireBytes } = this.#peer;
    const seconds = (now - this.#reported.atMs) / 1000;
    this.#options.onEvent({
      event: "receiving",
      elapsedMs: now - this.#startMs,
      rawBytes: this.#receiver.rawBytes,
      wireBytes,
      linkBytesPerSecond: (wireBytes - this.#reported.wireBytes) / seconds,
    });
    this.#reported = { atMs: now, wireBytes };
  }

  #warn(message: string): void {
    this.#options.onEvent({ event: "warning", message });
  }

  #report(error: unknown, vm: string): void {
    this.#options.onEvent(errorEvent(error, vm, "destination"));
  }

  #summary(status: Status): DestinationSummary {
    return {
      event: "summary",
      role: "destination",
      status,
      session: this.#session,
      totalMs: performance.now() - this.#startMs,
      wireBytes: this.#peer.wireBytes,
      rawBytes: this.#receiver.rawBytes,
      diskPages: this.#receiver.counts.diskPages,
      checkpointPages: this.#receiver.counts.checkpointPages,
      samePages: this.#receiver.counts.samePages,
      deltaPages: this.#receiver.counts.deltaPages,
      nackedPages: this.#receiver.nackedPages,
      cpuSeconds: { total: this.#cpu.seconds, unpack: this.#receiver.unpackMs / 1000 },
      loadMs: this.#loadMs,
      resumeMs: this.#resumeMs,
    };
  }
}

/** The error of a session whose QEMU has ended. */
export function destinationIsGone(cause: GodwitError): GodwitError {
  const message = "the destination QEMU ended: it refused the stream, or was killed";
  return new GodwitError("MIGRATION_DESTINATION_GONE", message, {}, { cause });
}
