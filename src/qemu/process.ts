/** Which process a QEMU is, so that a restarted program knows whether it is still the one of its journal. */
import { readFile } from "node:fs/promises";
import type { QmpClient } from "./qmp.ts";

/** A process by a thread of it: thread ids come again, but not with the same start within one boot. */
export interface QemuProcess {
  /** Of the first vCPU, as the host's kernel has it. */
  readonly threadId: number;
  /** When it began, in clock ticks since boot. */
  readonly startTicks: string;
  readonly boot: string;
}

/** The process of a QEMU; null where it can't be told, such as for one in another PID namespace. */
export async function readProcess(qmp: QmpClient): Promise<QemuProcess | null> {
  const [cpu] = await qmp.execute("query-cpus-fast");
  const threadId = cpu?.["thread-id"];
  if (threadId === undefined) return null;
  try {
    const command = await readFile(`/proc/${threadId}/cmdline`, "latin1");
    // Another namespace's id may be somebody else here.
    if (!/qemu|kvm/.test(command.split("\0", 1)[0]!)) return null;
    return { threadId, startTicks: await startOf(threadId), boot: await bootId() };
  } catch {
    return null;
  }
}

export function isSameProcess(a: QemuProcess | null, b: QemuProcess | null): boolean {
  return a !== null && b !== null && a.threadId === b.threadId && a.startTicks === b.startTicks && a.boot === b.boot;
}

/** Whether a process has certainly ended. */
export async function hasEnded({ threadId, startTicks, boot }: QemuProcess): Promise<boolean> {
  if (boot !== (await bootId())) return true;
  try {
    return (await startOf(threadId)) !== startTicks;
  } catch (error) {
    return ["ENOENT", "ESRCH"].includes((error as NodeJS.ErrnoException).code ?? "");
  }
}

/** Field 22 of /proc/PID/stat, whose second one may hold spaces (proc(5)); a thread has a folder there too. */
async function startOf(threadId: number): Promise<string> {
  const status = await readFile(`/proc/${threadId}/stat`, "latin1");
  return status.slice(status.lastIndexOf(")") + 2).split(" ")[19]!;
}

async function bootId(): Promise<string> {
  return (await readFile("/proc/sys/kernel/random/boot_id", "latin1")).trim();
}
