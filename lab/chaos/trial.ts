import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import type { MigrationEvent } from "../../src/migration/events.ts";
import { formatAddress } from "../../src/wire/address.ts";
import { type FaultyLink, startFaultyLink } from "../faulty-link.ts";
import { type GodwitExit, type GodwitProcess, keyFile, startGodwit } from "../godwit.ts";
import { createHosts, type Host, type Hosts } from "../hosts.ts";
import { temporaryFolder } from "../leftovers.ts";
import { startSavedVm } from "../saved-vm.ts";
import { startVm, type Vm, type VmOptions } from "../vm.ts";
import { cleanWalks } from "../walks.ts";
import { inHardship } from "./hardship.ts";
import { type Fault, PARTS, type Part, type Plan, STEPS } from "./plan.ts";
import { Watch } from "./watch.ts";

/** What the VM is; the QEMUs that take it have the same. */
const VM = {
  uuid: "6f0d3f4e-6f77-4974-8000-676f64776977",
  memoryMiB: 256,
  machine: "q35",
  load: { mib: 32, pagesPerSecond: 1500, pattern: "word" },
} as const satisfies VmOptions;
/** Without hosts of their own, stages of one machine are told apart by their process. */
const PORT = 20_000 + (process.pid % 20_000);
/** Slow enough for faults in the middle, where hosts have a link of their own. */
const RATE_BITS_PER_SECOND = 400e6;
/** A migration that is left alone has long ended by then. */
export const SETTLED_MS = 120_000;
const WALKS = 2;

/** What happens in a trial, with its times; also for people. */
export class Log {
  readonly lines: string[] = [];
  readonly #startMs = performance.now();

  say(text: string): void {
    this.lines.push(`${((performance.now() - this.#startMs) / 1000).toFixed(3).padStart(8)}  ${text}`);
  }
}

/** Two hosts and what is between them: for one trial after the other. */
export interface Stage extends AsyncDisposable {
  readonly hosts: Hosts;
  readonly link: FaultyLink;
}

export async function openStage(): Promise<Stage> {
  await using stack = new AsyncDisposableStack();
  const hosts = stack.use(await createHosts());
  if (hosts.isolated) await hosts.setRate(RATE_BITS_PER_SECOND);
  const link = stack.use(await startFaultyLink(hosts.source));
  const resources = stack.move();
  return { hosts, link, [Symbol.asyncDispose]: () => resources.disposeAsync() };
}

/** A migration under way, and what a person would have at hand. */
export class Trial implements AsyncDisposable {
  readonly log: Log;
  readonly plan: Plan;
  readonly watch = new Watch();
  readonly source: Vm;
  readonly destination: Vm;
  readonly link: FaultyLink;
  readonly #resources: AsyncDisposableStack;
  readonly #hosts: { readonly source: Host; readonly destination: Host };
  readonly #keyPath: string;
  #programs: { send?: GodwitProcess; receive?: GodwitProcess } = {};

  private constructor(
    parts: Pick<Trial, "plan" | "log" | "source" | "destination" | "link">,
    hosts: { readonly source: Host; readonly destination: Host },
    keyPath: string,
    resources: AsyncDisposableStack,
  ) {
    this.plan = parts.plan;
    this.log = parts.log;
    this.source = parts.source;
    this.destination = parts.destination;
    this.link = parts.link;
    this.#hosts = hosts;
    this.#keyPath = keyPath;
    this.#resources = resources;
  }

  /** The guest runs at the source, a QEMU waits at the destination, and nothing else has begun. */
  static async prepare(plan: Plan, { hosts: lab, link }: Stage, log: Log): Promise<Trial> {
    await using stack = new AsyncDisposableStack();
    const folder = stack.use(temporaryFolder()).path;
    const withState = (host: Host, name: string): Host => ({ ...host, stateDir: join(folder, name) });
    const hosts = { source: withState(lab.source, "s"), destination: withState(lab.destination, "d") };
    const source = stack.use(await startSavedVm({ ...VM, name: "source", host: hosts.source, paused: true }));
    const waiting = { ...VM, name: "destination", host: hosts.destination, disk: source.disk, incoming: true };
    const destination = stack.use(await startVm(waiting));
    await link.heal();
    await link.leadTo({ host: hosts.destination.address, port: PORT });
    await link.setUsualDelay(plan.linkDelayMs);
    const key = keyFile();
    stack.defer(() => key[Symbol.dispose]());
    const parts = { plan, log, source, destination, link };
    const trial = new Trial(parts, hosts, key.path, stack.move());
    trial.watch.add(source);
    trial.watch.add(destination);
    await source.qmp.execute("cont");
    return trial;
  }

  /** As {@link prepare}; and the migration has begun. */
  static async begin(...args: Parameters<typeof Trial.prepare>): Promise<Trial> {
    const trial = await Trial.prepare(...args);
    try {
      const listening = trial.startProgram("receive").event("listening");
      const isRefused = await listening.then(
        () => false,
        (error) => {
          if (trial.plan.fault.kind !== "hardship") throw error;
          return true;
        },
      );
      if (!isRefused) trial.startProgram("send");
      return trial;
    } catch (error) {
      await trial[Symbol.asyncDispose]();
      throw error;
    }
  }

  program(name: "send" | "receive"): GodwitProcess | undefined {
    return this.#programs[name];
  }

  /** As a user starts it, or starts it again. */
  startProgram(name: "send" | "receive"): GodwitProcess {
    const vm = name === "send" ? this.source : this.destination;
    const at = { host: this.#hosts.destination.address, port: PORT };
    const peer = name === "send" ? ["--to", formatAddress(this.link.address)] : ["--listen", formatAddress(at)];
    const patience = ["--reconnect-for", `${this.plan.reconnectForS}s`];
    const args = [name, "--qmp", vm.qmpPath, ...peer, ...patience, "--psk-file", this.#keyPath, "--json"];
    return this.#start(name, name === "send" ? [...args, "--no-keep-checkpoint"] : args);
  }

  /** Runs a short command to its end, on the host of one of the QEMUs. */
  async run(at: "source" | "destination", args: readonly string[]): Promise<GodwitExit> {
    await using command = startGodwit(this.#hosts[at], args);
    const exit = await command.exited;
    this.log.say(`godwit ${args.join(" ")} (${at}): ${exit.signal ?? exit.code} ${(exit.stdout + exit.stderr).trim()}`);
    return exit;
  }

  #start(name: "send" | "receive", args: readonly string[]): GodwitProcess {
    this.log.say(`godwit ${args.join(" ")}`);
    const { fault } = this.plan;
    const command = fault.kind === "hardship" && fault.part === name ? inHardship(fault.hardship) : undefined;
    const onEvent = (event: MigrationEvent) => {
      if (!QUIET.includes(event.event)) this.log.say(`${name}: ${JSON.stringify(event).slice(0, 400)}`);
    };
    const program = startGodwit(this.#hosts[name === "send" ? "source" : "destination"], args, onEvent, command);
    void program.exited.then(({ code, signal, stderr }) => {
      this.log.say(`${name} ended: ${signal ?? code} ${stderr.trim()}`);
    });
    this.#resources.use(program);
    this.#programs = { ...this.#programs, [name]: program };
    return program;
  }

  /** Does what the plan says; resolves when the fault is over. A step that is never reached is no fault. */
  async strike(): Promise<void> {
    const [name, event] = STEPS[this.plan.step];
    const isReached = await this.program(name)
      ?.event(event)
      .then(
        () => true,
        () => false,
      );
    if (!isReached) return this.log.say(`the step ${this.plan.step} was not reached`);
    await delay(this.plan.delayMs);
    const { fault } = this.plan;
    this.log.say(`FAULT: ${JSON.stringify(fault)}`);
    if (fault.kind === "kill") return this.#signal(fault.part, "SIGKILL");
    if (fault.kind === "hardship") return this.#jump(fault);
    if (fault.kind === "freeze") {
      this.#signal(fault.part, "SIGSTOP");
      await delay(fault.ms);
      this.#signal(fault.part, "SIGCONT");
    } else {
      await this.link.set(fault.fault);
      await delay(fault.ms);
      await this.link.heal();
    }
    this.log.say("the fault is over");
  }

  /** The other hardships began with the program. */
  async #jump({ part, hardship }: Extract<Fault, { kind: "hardship" }>): Promise<void> {
    if (hardship !== "clock jumps") return;
    this.#signal(part, "SIGUSR2");
    await this.program(part)!
      .event("summary")
      .catch(() => {});
  }

  #signal(part: Part, signal: NodeJS.Signals): void {
    const pid = { "source QEMU": this.source, "destination QEMU": this.destination, ...this.#programs }[part]?.pid;
    // Only what is still ours: an id may be used again once its process was waited for.
    if (pid !== undefined && isOurs(pid)) process.kill(pid, signal);
  }

  /** The guest's own checks of its memory, and that of the two QEMUs only this one runs it. */
  async judge(runs: Vm): Promise<void> {
    await cleanWalks(runs, WALKS);
    const verdict = this.watch.verdict();
    if (verdict !== undefined) throw new Error(verdict);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // A frozen process does not end.
    for (const part of PARTS) this.#signal(part, "SIGCONT");
    await this.#resources.disposeAsync();
    await this.watch[Symbol.asyncDispose]();
  }
}

const QUIET: readonly string[] = ["progress", "receiving", "codec", "limit", "decision", "predicted"];

function isOurs(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1] === String(process.pid);
  } catch {
    return false;
  }
}
