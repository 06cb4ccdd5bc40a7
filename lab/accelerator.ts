import { spawn } from "node:child_process";
import { accessSync, constants, readFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { cached } from "./cache.ts";
import { guest } from "./guest.ts";
import { qemuCommand } from "./qemus.ts";

/** What runs the guest's instructions. */
export type Accelerator = "kvm" | "tcg";

const PROBE_TIMEOUT_MS = 5_000;
let found: Promise<Accelerator> | undefined;

/**
 * KVM where it really works, else TCG. /dev/kvm alone proves nothing: there are hosts where a VM can be made but no
 * stock kernel runs, so the guest's kernel is started under KVM until its first program prints. The answer is kept for
 * as long as this kernel runs.
 */
export function accelerator(): Promise<Accelerator> {
  found ??= kvmWorks().then((works) => (works ? "kvm" : "tcg"));
  return found;
}

/** QEMU's arguments for an accelerator. */
export function acceleratorArguments(accelerator: Accelerator): string[] {
  return ["-accel", accelerator === "kvm" ? "kvm" : "tcg,thread=multi"];
}

async function kvmWorks(): Promise<boolean> {
  try {
    accessSync("/dev/kvm", constants.R_OK | constants.W_OK);
  } catch {
    return false;
  }
  const boot = readFileSync("/proc/sys/kernel/random/boot_id", "utf8");
  const probe = await cached("kvm", { boot }, async (folder) => {
    await writeFile(join(folder, "works.json"), JSON.stringify(await probeKvm()));
  });
  return JSON.parse(readFileSync(join(probe, "works.json"), "utf8")) === true;
}

async function probeKvm(): Promise<boolean> {
  const { kernel, initrd } = await guest();
  const machine = ["-M", "q35", "-cpu", "max", "-m", "256", ...acceleratorArguments("kvm")];
  const boot = ["-kernel", kernel, "-initrd", initrd, "-append", "console=ttyS0 quiet"];
  const quiet = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"];
  const [command, ...args] = [...(await qemuCommand("10.0")), ...machine, ...boot, ...quiet] as [string, ...string[]];
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "ignore"] });
  return new Promise((resolve) => {
    let output = "";
    let works = false;
    const timer = setTimeout(() => child.kill("SIGKILL"), PROBE_TIMEOUT_MS);
    child.stdout.on("data", (chunk: Buffer) => {
      output += chunk;
      works = output.includes("initramfs: started");
      if (works) child.kill("SIGKILL");
    });
    child.on("error", () => {}); // 'close' follows
    child.on("close", () => {
      clearTimeout(timer);
      resolve(works);
    });
  });
}
