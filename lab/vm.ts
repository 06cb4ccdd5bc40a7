import { spawn } from "node:child_process";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { QmpClient } from "../src/qemu/qmp.ts";
import { type Accelerator, accelerator, acceleratorArguments } from "./accelerator.ts";
import { Console } from "./console.ts";
import { copyDisk, type Guest, guest, overlayDisk } from "./guest.ts";
import { type Host, localHost } from "./hosts.ts";
import { temporaryFolder } from "./leftovers.ts";
import { type QemuVersion, qemuCommand } from "./qemus.ts";

/** A load in the guest (guest/load.c): pages of `mib` MiB are written, and all of them checked, again and again. */
export interface Load {
  readonly mib: number;
  readonly pagesPerSecond: number;
  /** One word of a page of random contents is changed, the whole page gets new ones, or one word of a page of zeros is changed. */
  readonly pattern: "word" | "random" | "sparse";
  /** Default: one page after the other, round and round; else any page is the next. */
  readonly order?: "walk" | "random";
  /** Writing goes on and off; without it, it is always on. */
  readonly phases?: { readonly onMs: number; readonly offMs: number };
}

/** Options of {@link startVm}. */
export interface VmOptions {
  readonly name?: string;
  /** Default: this machine. */
  readonly host?: Host;
  readonly qemu?: QemuVersion;
  /** An alias ("q35", "pc") gets the richest CPU; a versioned type ("pc-q35-7.2") one that migrates between versions. */
  readonly machine?: string;
  /** The same for both QEMUs of a VM that moves; default: none. */
  readonly uuid?: string;
  readonly memoryMiB?: number;
  /**
   * Touches all of the guest's memory before it starts, as huge pages would have it: where this machine is a VM itself, the
   * first touch of a page may cost its own host more than godwit does.
   */
  readonly preallocated?: boolean;
  readonly cpus?: number;
  /** A disk image to use; default: a fresh copy of the guest's. */
  readonly disk?: string;
  /** Default: raw. A fresh qcow2 has the guest's disk as its backing file. */
  readonly diskFormat?: "raw" | "qcow2";
  readonly load?: Load;
  /** Reads the root file system into the page cache before the guest is ready. */
  readonly cached?: boolean;
  /** Does not wait until the guest is ready: only until it has begun to boot. Default: false. */
  readonly booting?: boolean;
  /** A migration's destination: `-incoming defer`. */
  readonly incoming?: boolean;
  /** `-S`: do not run by itself. Default: true for a destination, else false. */
  readonly paused?: boolean;
  readonly extraArgs?: readonly string[];
}

/** How a QEMU ended. */
export interface VmExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stderr: string;
}

/** A running QEMU. */
export interface Vm extends AsyncDisposable {
  readonly name: string;
  readonly host: Host;
  readonly pid: number;
  /** The monitor for the program under test; the lab keeps to its own. */
  readonly qmpPath: string;
  /** The lab's own monitor. */
  readonly qmp: QmpClient;
  readonly disk: string;
  readonly console: Console;
  /** The second serial port: a line every {@link TICK_PERIOD_MS} (guest/tick.c). */
  readonly ticks: Console;
  /** Never rejects. */
  readonly exited: Promise<VmExit>;
  /** Asks QEMU to end and waits for it; its disk stays until the VM is disposed. */
  quit(): Promise<VmExit>;
}

const READY_TIMEOUT_MS = 120_000;
/** What the guest says once its kernel runs (guest/initramfs-init), and once all that it was started with is at work (guest/init). */
const BEGUN = /^initramfs: started$/;
const READY = /^guest: ready$/;
const MONITOR_TIMEOUT_MS = 30_000;
const MAX_SOCKET_PATH_BYTES = 107; // unix(7), sun_path

/**
 * Starts a VM, and unless it is paused or a destination, waits until its guest is ready. Disposing it kills QEMU and
 * removes its folder.
 *
 * @throws Error with QEMU's own words when it ends early, or the console's last lines when the guest does not come up
 */
export async function startVm(options: VmOptions = {}): Promise<Vm> {
  const { host = localHost, name = "vm" } = options;
  await using stack = new AsyncDisposableStack();
  const folder = stack.use(temporaryFolder()).path;
  const paths = socketPaths(folder);
  const files = await guest();
  const { diskFormat = "raw", disk = join(folder, `disk.${diskFormat}`) } = options;
  if (options.disk === undefined) await (diskFormat === "raw" ? copyDisk : overlayDisk)(files.disk, disk);
  const console = await Console.listen(paths.console);
  stack.defer(() => console.end(new Error("the VM was disposed of")));
  const ticks = await Console.listen(paths.ticks);
  stack.defer(() => ticks.end(new Error("the VM was disposed of")));
  const command = await qemuCommand(options.qemu ?? "10.0");
  const args = qemuArguments({ ...options, disk }, files, await accelerator(), paths);
  // QEMU must not outlive us, however we end.
  const argv = host.command(["setpriv", "--pdeathsig", "KILL", ...command, ...args]);
  const child = spawn(argv[0]!, argv.slice(1), { stdio: ["ignore", "ignore", "pipe"] });
  let stderr = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr = (stderr + text).slice(-8000);
  });
  const exited = new Promise<VmExit>((resolve) => {
    child.on("error", (error) => {
      stderr += error.message;
    });
    child.on("close", (code, signal) => resolve({ code, signal, stderr }));
  });
  stack.defer(async () => {
    child.kill("SIGKILL");
    await exited;
  });
  void exited.then((exit) => {
    for (const port of [console, ticks]) port.end(new Error(exitText(name, exit)));
  });
  const qmp = stack.use(await connectMonitor(paths.lab, name, exited));
  if (!(options.incoming || options.paused)) await console.waitFor(options.booting ? BEGUN : READY, READY_TIMEOUT_MS);
  const quit = async () => {
    await qmp.execute("quit").catch(() => {}); // it may be gone already
    return exited;
  };
  const resources = stack.move();
  const dispose = () => resources.disposeAsync();
  const monitors = { qmpPath: paths.qmp, qmp };
  return {
    ...{ name, host, disk, console, ticks, exited, quit, ...monitors },
    pid: child.pid!,
    [Symbol.asyncDispose]: dispose,
  };
}

interface SocketPaths {
  readonly qmp: string;
  readonly lab: string;
  readonly console: string;
  readonly ticks: string;
}

function socketPaths(folder: string): SocketPaths {
  const path = (name: string) => {
    const result = join(folder, name);
    if (Buffer.byteLength(result) <= MAX_SOCKET_PATH_BYTES) return result;
    throw new Error(`the path ${result} is too long for a unix socket; set TMPDIR to a shorter folder`);
  };
  return { qmp: path("qmp"), lab: path("lab"), console: path("console"), ticks: path("ticks") };
}

/** The arguments of QEMU; a source and its destination differ in nothing but `-incoming` and `-S`. */
export function qemuArguments(
  options: VmOptions & { readonly disk: string },
  files: Guest,
  accelerator: Accelerator,
  paths: SocketPaths,
): string[] {
  const { name = "vm", machine = "q35", memoryMiB = 512, cpus = 1, incoming = false, paused = incoming } = options;
  const file = { driver: "file", filename: options.disk };
  const disk = { driver: options.diskFormat ?? "raw", "node-name": "disk0", file };
  return [
    ...[
      "-name",
      name,
      ...(options.uuid ? ["-uuid", options.uuid] : []),
      "-nodefaults",
      "-no-user-config",
      "-display",
      "none",
      "-no-reboot",
    ],
    ...["-machine", machine, ...acceleratorArguments(accelerator), "-cpu", cpuModel(machine)],
    ...["-m", `${memoryMiB}`, "-smp", `${cpus}`],
    ...(options.preallocated ? preallocation(memoryMiB) : []),
    ...["-device", "VGA", "-device", "virtio-rng-pci"],
    ...["-blockdev", JSON.stringify(disk), "-device", "virtio-blk-pci,drive=disk0,id=virtio-disk0"],
    ...["-kernel", files.kernel, "-initrd", files.initrd, "-append", kernelCommandLine(options)],
    ...["-chardev", `socket,id=console,path=${paths.console}`, "-serial", "chardev:console"],
    ...["-chardev", `socket,id=ticks,path=${paths.ticks}`, "-serial", "chardev:ticks"],
    ...["-qmp", `unix:${paths.qmp},server=on,wait=off`, "-qmp", `unix:${paths.lab},server=on,wait=off`],
    ...(incoming ? ["-incoming", "defer"] : []),
    ...(paused ? ["-S"] : []),
    ...(options.extraArgs ?? []),
  ];
}

/** Under the name that the memory of q35 and pc has without it, so that the stream is the same. */
function preallocation(memoryMiB: number): string[] {
  const backend = `memory-backend-ram,id=pc.ram,size=${memoryMiB}M,prealloc=on`;
  return ["-object", backend, "-machine", "memory-backend=pc.ram"];
}

/** `max` is another CPU in every version of QEMU; qemu64 with a versioned machine type is the same in all. */
function cpuModel(machine: string): string {
  return /-\d+\.\d+$/.test(machine) ? "qemu64" : "max";
}

function kernelCommandLine({ load, cached }: VmOptions): string {
  // no_timer_check, as Fedora's cloud images and libguestfs have it: where the host's cores are busy, the kernel sees too few ticks
  // of the timer while it looks at it, and panics ("IO-APIC + timer doesn't work").
  const words = ["console=ttyS0", "quiet", "panic=-1", "no_timer_check"];
  if (cached) words.push("godwit.cache=1");
  if (load) words.push(`godwit.load=${loadText(load)}`);
  return words.join(" ");
}

function loadText({ mib, pagesPerSecond, pattern, order = "walk", phases }: Load): string {
  const text = `mib=${mib},rate=${pagesPerSecond},pattern=${pattern},order=${order}`;
  return phases ? `${text},on=${phases.onMs},off=${phases.offMs}` : text;
}

async function connectMonitor(path: string, name: string, exited: Promise<VmExit>): Promise<QmpClient> {
  const early = exited.then((exit) => {
    throw new Error(exitText(name, exit));
  });
  early.catch(() => {}); // heard only until the monitor answers
  const deadlineMs = performance.now() + MONITOR_TIMEOUT_MS;
  for (;;) {
    try {
      return await Promise.race([early, QmpClient.connect(path, { timeoutMs: MONITOR_TIMEOUT_MS })]);
    } catch (error) {
      // Not there yet, or QEMU is about to end: then its own words are worth more.
      if (performance.now() > deadlineMs) throw error;
      await Promise.race([early, delay(10)]);
    }
  }
}

function exitText(name: string, { code, signal, stderr }: VmExit): string {
  const words = stderr.trim();
  return `the QEMU of ${name} ended (${signal ?? code})${words ? `: ${words}` : ""}`;
}
