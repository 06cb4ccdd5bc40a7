/** Reads a disk image that another QEMU has open, in whatever format, through a qemu-nbd of our own. */

import { type ChildProcess, spawn } from "node:child_process";
import { setTimeout as delay } from "node:timers/promises";
import { GodwitError } from "../errors.ts";
import { NbdClient } from "./nbd.ts";

const START_TIMEOUT_MS = 10_000;
const POLL_MS = 10;
const WORDS_CHARACTERS = 2000;

export interface ImageServerOptions {
  /** What starts qemu-nbd; default: `qemu-nbd` on the PATH. */
  readonly command?: readonly string[];
  /** See `NbdOptions`. */
  readonly contexts?: readonly string[];
}

/** An image behind a qemu-nbd; disposing it ends that. */
export interface OpenImage extends AsyncDisposable {
  readonly client: NbdClient;
  /** More clients may connect, to the default export, while `client` is connected. */
  readonly socketPath: string;
  readonly pid: number;
}

/**
 * Starts a qemu-nbd that serves an image read-only, and connects to it. It ends when its last client has gone, so it does
 * not outlive this process, however that ends.
 *
 * @param name what `Disk.sharedName` says
 * @throws QMP_NBD_PROGRAM: it cannot be started, or it cannot open the image
 */
export async function openImage(
  name: string,
  socketPath: string,
  options: ImageServerOptions = {},
): Promise<OpenImage> {
  const { command = ["qemu-nbd"], contexts = [] } = options;
  const [program, ...args] = [...command, "--read-only", "--shared=0", `--socket=${socketPath}`, name] as const;
  const child = spawn(program!, args, { stdio: ["ignore", "ignore", "pipe"] });
  const exited = wordsAtExit(child);
  const kill = () => child.kill("SIGKILL");
  await using undo = new AsyncDisposableStack();
  undo.defer(async () => {
    kill();
    await exited;
  });
  process.on("exit", kill); // until its first client is there, it would not end with us
  const client = undo.use(await firstClient(socketPath, contexts, exited).finally(() => process.off("exit", kill)));
  const resources = undo.move();
  return { client, socketPath, pid: child.pid!, [Symbol.asyncDispose]: () => resources.disposeAsync() };
}

async function firstClient(
  socketPath: string,
  contexts: readonly string[],
  exited: Promise<string>,
): Promise<NbdClient> {
  let why: string | undefined;
  void exited.then((words) => {
    why = words;
  });
  for (const deadlineMs = performance.now() + START_TIMEOUT_MS; performance.now() < deadlineMs; ) {
    try {
      return await NbdClient.connect(socketPath, { contexts });
    } catch (error) {
      // It does not listen yet.
      if (!(error instanceof GodwitError && error.code === "QMP_NBD_CLOSED")) throw error;
    }
    await Promise.race([delay(POLL_MS), exited]);
    if (why !== undefined) throw new GodwitError("QMP_NBD_PROGRAM", `qemu-nbd does not serve the image: ${why}`);
  }
  throw new GodwitError("QMP_NBD_PROGRAM", "qemu-nbd does not listen", { timeoutMs: START_TIMEOUT_MS });
}

/** What it said, when it has ended or could not be started. */
function wordsAtExit(child: ChildProcess): Promise<string> {
  const { promise, resolve } = Promise.withResolvers<string>();
  let words = "";
  child.on("error", (error: NodeJS.ErrnoException) => {
    resolve(error.code === "ENOENT" ? "it is not on the PATH; QEMU's tools have it" : error.message);
  });
  // Null where no more files can be opened: then it was not started.
  child.stderr?.setEncoding("utf8").on("data", (text: string) => {
    words = (words + text).slice(-WORDS_CHARACTERS);
  });
  child.on("close", (code, signal) => resolve(words.trim() || `it ended (${signal ?? code})`));
  return promise;
}
