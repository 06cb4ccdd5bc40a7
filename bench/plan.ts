/** What `godwit plan` costs the guest, whose load writes as fast as it can: while a plan is made, and while none is, in turn. */
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
  /** Of the vCPU's CPU time. */
  pagesPerCpuSecond: number;
  pagesPerSecond: number;
  /** Share of the time in which the vCPU's thread neither ran nor waited for a core: QEMU held it up. */
  heldUp: number;
}

/** How the work stands: pages written, and the vCPU thread's times (ns, /proc/PID/task/TID/schedstat: proc_pid_schedstat, fs/proc/base.c). */
function standOf(vm: Vm, threadId: number) {
  const last = vm.console.lines.findLast(({ text }) => WALK.test(text))!;
  const [ranNs, waitedNs] = readFileSync(`/proc/${vm.pid}/task/${threadId}/schedstat`, "utf8").split(" ").map(Number);
  const atMs = performance.now();
  return { atMs, walkMs: last.atMs, pages: Number(WALK.exec(last.text)![1]), ranNs: ranNs!, waitedNs: waitedNs! };
}

function workBetween(a: ReturnType<typeof standOf>, b: ReturnType<typeof standOf>): Work {
  const [ms, ranMs, waitedMs] = [b.atMs - a.atMs, (b.ranNs - a.ranNs) / 1e6, (b.waitedNs - a.waitedNs) / 1e6];
  const pagesPerSecond = ((b.pages - a.pages) * 1000) / (b.walkMs - a.walkMs);
  return {
    pagesPerSecond,
    pagesPerCpuSecond: (pagesPerSecond * ms) / ranMs,
    heldUp: Math.max(0, ms - ranMs - waitedMs) / ms,
  };
}

export async function bench(): Promise<string> {
  await using vm = await startVm({ memoryMiB: 512, load, preallocated: true });
  const threadId = (await vm.qmp.execute("query-cpus-fast"))[0]!["thread-id"];
  const pairs: { without: Work; with: Work }[] = [];
  for (let run = 0; run < RUNS; run++) {
    await delay(SETTLE_MS);
    const before = standOf(vm, threadId);
    await using plan = startGodwit(vm.host, ["plan", "--qmp", vm.qmpPath, "--bandwidth", "1Gbit", "--no-disk-refs"]);
    const { code, stderr } = await plan.exited;
    if (code !== 0) throw new Error(stderr);
    const after = standOf(vm, threadId);
    await delay(after.atMs - before.atMs);
    pairs.push({ with: workBetween(before, after), without: workBetween(after, standOf(vm, threadId)) });
  }
  assertUnbroken(vm);
  const row = (title: string, of: (work: Work) => string): string[][] =>
    pairs.map((pair, i) => [i === 0 ? title : "", of(pair.without), of(pair.with)]);
  const percent = (share: number) => `${(share * 100).toFixed(2)} %`;
  const loss = (of: (work: Work) => number) =>
    percent(median(pairs.map((pair) => 1 - of(pair.with) / of(pair.without))));
  return table([
    ["a guest that writes as fast as it can", "alone", "while a plan is made"],
    ...row("vCPU held up by QEMU", ({ heldUp }) => percent(heldUp)),
    ...row("pages written per second", ({ pagesPerSecond }) => `${Math.round(pagesPerSecond)}`),
    ...row("pages written per second of the vCPU", ({ pagesPerCpuSecond }) => `${Math.round(pagesPerCpuSecond)}`),
    ["less, per second, median", "", loss(({ pagesPerSecond }) => pagesPerSecond)],
    ["less, per second of the vCPU, median", "", loss(({ pagesPerCpuSecond }) => pagesPerCpuSecond)],
  ]);
}

if (import.meta.main) console.log(await bench());
