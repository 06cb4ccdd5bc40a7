import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { EventListener, MigrationEvent } from "../src/migration/events.ts";
import { formatAddress, parseAddress } from "../src/wire/address.ts";
import { formatPskFile, generatePsk } from "../src/wire/psk.ts";
import { blackoutMs } from "./blackout.ts";
import type { FaultyLink } from "./faulty-link.ts";
import type { Host } from "./hosts.ts";
import { temporaryFolder } from "./leftovers.ts";
import type { Pair } from "./pair.ts";
import { qemuNbd } from "./qemus.ts";

/** The command. */
export const PROGRAM = fileURLToPath(new URL("../bin/godwit", import.meta.url));
/** How long a command may take to do what is waited for. */
const TIMEOUT_MS = 120_000;

export interface GodwitExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** A `godwit` command that runs, as a user would run it. */
export interface GodwitProcess extends AsyncDisposable {
  readonly pid: number;
  /** What it printed with --json, so far. */
  readonly events: MigrationEvent[];
  /** Never rejects. */
  readonly exited: Promise<GodwitExit>;
  /** The first event of that name, waited for if need be. @throws Error when the command ends without it */
  event<N extends MigrationEvent["event"]>(name: N): Promise<Extract<MigrationEvent, { event: N }>>;
  kill(signal: NodeJS.Signals): void;
}

/**
 * Starts `godwit ARGS` on a host; `onEvent` is told of each event as it comes. Disposing it kills it.
 *
 * @param program what to run in place of godwit
 */
export function startGodwit(
  host: Host,
  args: readonly string[],
  onEvent?: EventListener,
  program: readonly string[] = [PROGRAM],
): GodwitProcess {
  // It must not outlive us, however we end; nor what it leaves when it is killed.
  const argv = host.command(["setpriv", "--pdeathsig", "KILL", ...program, ...args]);
  const runtime = temporaryFolder();
  const env = {
    ...process.env,
    XDG_RUNTIME_DIR: runtime.path,
    GODWIT_STATE_DIR: host.stateDir ?? join(runtime.path, "state"),
  };
  const child = spawn(argv[0]!, argv.slice(1), { stdio: ["ignore", "pipe", "pipe"], env });
  const events: MigrationEvent[] = [];
  const waiting = new Set<() => void>();
  let [stdout, stderr, rest] = ["", "", ""];
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
  });
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    stdout += text;
    const lines = (rest + text).split("\n");
    rest = lines.pop()!;
    for (const line of lines.filter((line) => line.startsWith("{"))) {
      const parsed = JSON.parse(line) as MigrationEvent;
      events.push(parsed);
      onEvent?.(parsed);
    }
    for (const look of [...waiting]) look();
  });
  const exited = new Promise<GodwitExit>((resolve) => {
    child.on("error", (error) => {
      stderr += error.message;
    });
    child.on("close", (code, signal) => resolve({ code, signal, stdout, stderr }));
  });
  const event: GodwitProcess["event"] = (name) =>
    new Promise((resolve, reject) => {
      const done = () => {
        clearTimeout(timer);
        waiting.delete(look);
      };
      const fail = (why: string) => {
        done();
        reject(new Error(`godwit ${args[0]} gave no event "${name}": ${why}; it said: ${stderr.trim() || "nothing"}`));
      };
      const look = () => {
        const found = events.find((candidate) => candidate.event === name);
        if (found === undefined) return;
        done();
        resolve(found as never);
      };
      const timer = setTimeout(() => fail(`${TIMEOUT_MS} ms passed`), TIMEOUT_MS);
      waiting.add(look);
      look();
      void exited.then(({ code, signal }) => fail(`it ended (${signal ?? code})`));
    });
  return {
    pid: child.pid ?? 0,
    events,
    exited,
    event,
    kill: (signal) => child.kill(signal),
    [Symbol.asyncDispose]: async () => {
      child.kill("SIGKILL");
      await exited;
      runtime[Symbol.dispose]();
    },
  };
}

/** A new key in a file of its own, gone when disposed. */
export function keyFile(): { path: string } & Disposable {
  const folder = temporaryFolder();
  const path = join(folder.path, "key.psk");
  writeFileSync(path, formatPskFile(generatePsk()), { mode: 0o600 });
  return { path, [Symbol.dispose]: () => folder[Symbol.dispose]() };
}

export interface MigrationOptions {
  /** Monitors to use instead of the VMs' own, such as a tap's. */
  readonly sourceQmp?: string;
  readonly destinationQmp?: string;
  readonly sendArgs?: readonly string[];
  readonly receiveArgs?: readonly string[];
  /** What to run in place of godwit at the destination. */
  readonly receiveProgram?: readonly string[] | undefined;
  /** Is told of each event of `send` as it comes. */
  readonly onEvent?: EventListener;
  /** How the two ends know each other, as options; default: by a key of their own. */
  readonly security?: { readonly send: readonly string[]; readonly receive: readonly string[] };
  /** A link of the source's host that `send` goes through. */
  readonly through?: FaultyLink;
}

/** `godwit receive` and `godwit send`, started for a pair. */
export interface Migration extends AsyncDisposable {
  readonly send: GodwitProcess;
  readonly receive: GodwitProcess;
  /** The key of both, unless another security was asked for. */
  readonly pskPath: string;
}

/** Starts `receive` at the pair's destination, and `send` at its source once that listens. */
export async function startMigration(pair: Pair, options: MigrationOptions = {}): Promise<Migration> {
  await using stack = new AsyncDisposableStack();
  const key = keyFile();
  stack.defer(() => key[Symbol.dispose]());
  const address = `${pair.hosts.destination.address}:${port++}`;
  const byKey = ["--psk-file", key.path];
  const security = options.security ?? { send: byKey, receive: byKey };
  const receiveQmp = ["--qmp", options.destinationQmp ?? pair.destination.qmpPath];
  const receiveArgs = [
    "receive",
    ...receiveQmp,
    "--listen",
    address,
    "--json",
    ...security.receive,
    ...(options.receiveArgs ?? []),
  ];
  const receive = stack.use(startGodwit(pair.hosts.destination, receiveArgs, undefined, options.receiveProgram));
  await receive.event("listening");
  const sendQmp = ["--qmp", options.sourceQmp ?? pair.source.qmpPath];
  await options.through?.leadTo(parseAddress(address));
  const to = options.through === undefined ? address : formatAddress(options.through.address);
  const sendArgs = ["send", ...sendQmp, "--to", to, "--json", ...security.send, ...(options.sendArgs ?? [])];
  const tools = stack.use(await toolFolder());
  const program = ["env", `PATH=${tools.path}:${process.env.PATH}`, PROGRAM];
  const send = stack.use(startGodwit(pair.hosts.source, sendArgs, options.onEvent, program));
  const resources = stack.move();
  return { send, receive, pskPath: key.path, [Symbol.asyncDispose]: () => resources.disposeAsync() };
}

/** A folder for the PATH with the lab's qemu-nbd in it, as hosts of VMs have one. */
async function toolFolder(): Promise<{ readonly path: string } & Disposable> {
  const folder = temporaryFolder();
  const command = (await qemuNbd()).map((word) => `'${word}'`).join(" ");
  writeFileSync(join(folder.path, "qemu-nbd"), `#!/bin/sh\nexec ${command} "$@"\n`, { mode: 0o755 });
  return folder;
}

/** Pairs without a network of their own share this machine's ports, and so do test files that run at the same time. */
let port = 17_747 + 1000 * (Number(process.env.VITEST_POOL_ID ?? 1) - 1);

const TICKS_AFTER = 20;

/** The blackout of a migration that has just ended, once the destination has ticked for a while. */
export async function blackoutOf({ source, destination }: Pair): Promise<number> {
  for (let seen = 0; seen < TICKS_AFTER; seen = destination.ticks.lines.length)
    await destination.ticks.waitFor(/\d/, TIMEOUT_MS, seen);
  return blackoutMs(source.ticks.lines, destination.ticks.lines);
}
