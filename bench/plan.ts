/**
 * What `godwit plan` costs the guest, whose load writes as fast as it can: while a plan is made, while none is, and while something else
 * computes on another core, in turn. The last tells what neighbours cost on this machine whatever they do: cores share caches, and more.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { startGodwit } from "../lab/godwit.ts";
import { startVm, type Vm } from "../lab/vm.ts";
import { assertUnbroken } from "../lab/walks.ts";
import { median, table } from "./support.ts";

const RUNS = Number(process.env.GODWIT_PLAN_RUNS ?? 5);
const load = { mib: 32, pagesPerSecond: 100_000_000, pattern: "word" } as const;
const WALK = /^load: walk \d+ clean pages=\d+ versions=(\d+)/;
const SETTLE_MS = 1000;

/** What the guest got done in a time. */
interface Work {
  readonly pagesPerSecond: number;
  /** Share of the time in which the vCPU's thread neither ran nor waited for a core: QEMU held it up. */
  readonly heldUp: number;
  /** Share of the time in which it waited for a core. */
  readonly waited: number;
}

/** Of one turn. */
type Turn = Readonly<Record<"alone" | "plan" | "neighbour", Work>>;

/** How the work stands: pages written, and the vCPU thread's times (ns, /proc/PID/task/TID/schedstat: proc_pid_schedstat, fs/proc/base.c). */
function standOf(vm: Vm, threadId: number) {
  const last = vm.console.lines.findLast(({ text }) => WALK.test(text))!;
  const [ranNs, waitedNs] = readFileSync(`/proc/${vm.pid}/task/${threadId}/schedstat`, "utf8").split(" ").map(Number);
  const atMs = performance.now();
  return { atMs, walkMs: last.atMs, pages: Number(WALK.exec(last.text)![1]), ranNs: ranNs!, waitedNs: waitedNs! };
}

async function plan(vm: Vm): Promise<void> {
  await using made = startGodwit(vm.host, ["plan", "--qmp", vm.qmpPath, "--bandwidth", "1Gbit", "--no-disk-refs"]);
  const { code, stderr } = await made.exited;
  if (code !== 0) throw new Error(stderr);
}

/** As nice as a plan is. */
async function compute(ms: number): Promise<void> {
  const loop = spawn("nice", ["sh", "-c", "while :; do :; done"], { stdio: "ignore" });
  await delay(ms);
  loop.kill("SIGKILL");
  await once(loop, "close");
}

export async function bench(): Promise<string> {
  await using vm = await startVm({ memoryMiB: 512, load, preallocated: true });
  const threadId = (await vm.qmp.execute("query-cpus-fast"))[0]!["thread-id"];
  const workDuring = async (what: () => Promise<void>): Promise<Work & { ms: number }> => {
    await delay(SETTLE_MS);
    const a = standOf(vm, threadId);
    await what();
    const b = standOf(vm, threadId);
    const [ms, ranMs, waitedMs] = [b.atMs - a.atMs, (b.ranNs - a.ranNs) / 1e6, (b.waitedNs - a.waitedNs) / 1e6];
    const pagesPerSecond = ((b.pages - a.pages) * 1000) / (b.walkMs - a.walkMs);
    return { ms, pagesPerSecond, waited: waitedMs / ms, heldUp: Math.max(0, ms - ranMs - waitedMs) / ms };
  };
  const turns: Turn[] = [];
  for (let run = 0; run < RUNS; run++) {
    const planned = await workDuring(() => plan(vm));
    const neighbour = await workDuring(() => compute(planned.ms));
    turns.push({ plan: planned, neighbour, alone: await workDuring(() => delay(planned.ms)) });
  }
  assertUnbroken(vm);
  const row = (title: string, of: (work: Work, alone: Work) => string): string[][] =>
    turns.map(({ alone, plan, neighbour }, i) => {
      const works = [alone, plan, neighbour].map((work) => of(work, alone));
      return [i === 0 ? title : "", ...works];
    });
  const medians = (title: string, of: (work: Work, alone: Work) => number): string[] => {
    const cell = (name: keyof Turn) => percent(median(turns.map((turn) => of(turn[name], turn.alone))));
    return [`${title}, median`, cell("alone"), cell("plan"), cell("neighbour")];
  };
  return table([
    ["a guest that writes as fast as it can", "alone", "while a plan is made", "beside a busy loop"],
    ...row("vCPU held up by QEMU", ({ heldUp }) => percent(heldUp)),
    medians("vCPU held up by QEMU", ({ heldUp }) => heldUp),
    ...row("vCPU waited for a core", ({ waited }) => percent(waited)),
    medians("vCPU waited for a core", ({ waited }) => waited),
    ...row("pages written per second", ({ pagesPerSecond }) => `${Math.round(pagesPerSecond)}`),
    medians("less than alone", (work, alone) => 1 - work.pagesPerSecond / alone.pagesPerSecond),
  ]);
}

function percent(share: number): string {
  return `${(share * 100).toFixed(2)} %`;
}

if (import.meta.main) console.log(await bench());
