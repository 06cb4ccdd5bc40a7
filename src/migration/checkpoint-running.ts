import type net from "node:net";
import { join } from "node:path";
import type { QmpEvent } from "../qemu/commands.ts";
import type { QmpClient } from "../qemu/qmp.ts";
import { MAX_HELD_BYTES, StreamParser } from "../stream/parser.ts";
import { CheckpointPages } from "./checkpoint-pages.ts";
import type { Capture, OnCaptured, PageSink } from "./checkpoint-take.ts";
import { type Intake, openIntake } from "./intake.ts";
import { createKernels } from "./kernels.ts";
import { listenOnce } from "./listen-once.ts";
import { Failure, withTimeout } from "./outcome.ts";
import { makeSocketFolder } from "./socket-folder.ts";
import { type SourceSetup, SourceVm } from "./source-vm.ts";
import { RawWindow } from "./window.ts";

/** For QEMU to connect to our socket after `migrate`. */
const CONNECT_TIMEOUT_MS = 20_000;
/** The stream only passes through it. */
const WINDOW_BYTES = 8 * 1024 * 1024;

/**
 * With it QEMU (since 8.1) stops a running guest only once the destination agrees, and we never do (migration_can_switchover,
 * migration/migration.c).
 */
const NEVER_SWITCH = { "switchover-ack": true };
/**
 * An older QEMU stops the guest when no more is left than it sends in this time, over a link as slow as this where it can be told. The
 * limit may not be 0: then 10.0 never syncs.
 */
const LIMIT = { downtimeLimitMs: 1, bandwidthBytesPerSecond: 64e6 };
/**
 * MIGRATION_PASS counts the times that QEMU has looked for dirty pages. The third ends round 1, in which those pages came again
 * that were written while the bulk round went on.
 */
const LAST_SYNC = 3;

/**
 * Takes the memory of a VM that runs: by a migration to ourselves, which is cancelled after round 1. So the guest runs on, even if we
 * are killed. Pages that it writes all the time may be taken as they were; that costs nothing but these pages, as whoever uses a
 * checkpoint compares.
 *
 * A QEMU before 8.1 may stop an idle guest for some ms, before it hears that it is enough.
 *
 * @param noteSettings as in SourceSetup: what QEMU is to be set to again, should we be killed
 * @returns for how long the guest was stopped
 * @throws GodwitError QMP_WRONG_STATE, QMP_CAPABILITY, MIGRATION_SOURCE_FAILED, MIGRATION_TIMEOUT, what the checkpoint's writer
 * throws, or the signal's reason: the VM is as before. QMP_CLOSED, MIGRATION_NOT_RESUMED: nobody knows
 */
export async function captureRunning(
  qmp: QmpClient,
  capture: Capture,
  noteSettings: NonNullable<SourceSetup["noteSettings"]>,
): Promise<{ stoppedMs: number }> {
  const { signal } = capture;
  const failure = new Failure();
  const onAbort = () => failure.report(signal?.reason);
  const vm = await SourceVm.open(qmp);
  const stops = new Stops();
  const enough = Promise.withResolvers<void>();
  await using stack = new AsyncDisposableStack();
  const folder = stack.use(await makeSocketFolder(qmp.path));
  const server = stack.use(await listenOnce(join(folder.path, "checkpoint.sock")));
  signal?.addEventListener("abort", onAbort);
  stack.defer(() => signal?.removeEventListener("abort", onAbort));
  const stopListening = qmp.onEvent((event) => {
    stops.onEvent(event);
    void vm.onEvent(event);
    if (event.name === "MIGRATION_PASS" && event.data.pass >= LAST_SYNC) enough.resolve();
  });
  stack.defer(stopListening);
  void qmp.closed.then((error) => failure.report(error));
  let received: Promise<void>;
  try {
    await failure.or(vm.start(server.path, { limit: LIMIT, capabilities: NEVER_SWITCH, noteSettings }));
    const ended = vm.completed(failure.signal);
    const connected = withTimeout(server.accepted, CONNECT_TIMEOUT_MS, "QEMU did not connect to godwit's socket");
    const stream = new StreamToCheckpoint(
      await failure.or(Promise.race([connected, ended.then(() => connected)])),
      capture,
    );
    stack.use(stream);
    received = stream.ended;
    await failure.or(Promise.race([enough.promise, ended, received.then(() => ended)]));
  } finally {
    await vm.giveBack();
  }
  await failure.or(received);
  return { stoppedMs: stops.stoppedMs };
}

/** Reads a migration stream from a socket, and puts its pages into a checkpoint. */
class StreamToCheckpoint implements Disposable {
  readonly #writer: PageSink;
  readonly #onProgress: OnCaptured;
  readonly #window: RawWindow;
  readonly #pages: CheckpointPages;
  readonly #parser: StreamParser;
  readonly #intake: Intake;
  readonly #ended = Promise.withResolvers<void>();

  /** @param accepted paused */
  constructor(accepted: net.Socket, { writer, onProgress }: Capture) {
    const kernels = createKernels(MAX_HELD_BYTES + WINDOW_BYTES);
    this.#writer = writer;
    this.#onProgress = onProgress;
    this.#window = new RawWindow(kernels, WINDOW_BYTES);
    this.#pages = new CheckpointPages(kernels.bytes, writer);
    this.#parser = new StreamParser(kernels.scanner, this.#pages);
    this.#ended.promise.catch(() => {});
    this.#intake = openIntake(accepted, this.#window, {
      onBytes: () => this.#onBytes(),
      onEnd: () => this.#ended.resolve(),
      onError: () => this.#ended.resolve(), // QEMU cuts the connection when the migration is cancelled
    });
  }

  /** Settles when QEMU has closed the stream and all of it was taken. @throws what the writer throws */
  get ended(): Promise<void> {
    return this.#ended.promise;
  }

  [Symbol.dispose](): void {
    this.#intake.socket.destroy();
  }

  #onBytes(): boolean {
    const window = this.#window;
    window.parsed(this.#parser.push(window.bytes, window.parseAt, window.writeAt));
    window.release(window.readOffset);
    this.#onProgress(this.#pages.seenBytes, this.#pages.totalBytes);
    this.#writer.drained().then(
      () => this.#intake.resume(),
      (error) => this.#ended.reject(error),
    );
    return false;
  }
}

/** Adds up for how long the guest was stopped, by QEMU's clock. */
class Stops {
  stoppedMs = 0;
  #sinceMs: number | undefined;

  onEvent({ name, timestampMs }: QmpEvent): void {
    if (name === "STOP") this.#sinceMs = timestampMs;
    if (name !== "RESUME" || this.#sinceMs === undefined) return;
    this.stoppedMs += timestampMs - this.#sinceMs;
    this.#sinceMs = undefined;
  }
}
