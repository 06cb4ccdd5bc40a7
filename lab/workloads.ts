/** What guests do while they move, and how each is found to be well afterwards. */
import { answerOf } from "./ask.ts";
import type { PairOptions } from "./pair.ts";
import type { Load, Vm } from "./vm.ts";
import { assertUnbroken, cleanWalks } from "./walks.ts";

/** Finds out, wherever the VM now runs, whether its guest is well. @throws Error with what is wrong */
export type GuestCheck = (vm: Vm) => Promise<void>;

export interface Workload {
  /** In a few words. */
  readonly what: string;
  readonly vm: Pick<PairOptions, "memoryMiB" | "cached" | "booting" | "load">;
  /** Puts the guest to work once it is ready, as far as it is not yet. */
  begin(vm: Vm): Promise<GuestCheck>;
}

/** One page, as QEMU writes it: header and contents (migration/ram.c, save_normal_page). */
const RAW_PAGE_BYTES = 4104;
const IDLE_MIB = 1024;
const STRESS_MIB = 128;

/** The workloads of the evaluation, for a link of so many bits per second. */
export const WORKLOADS = {
  idle: () => ({
    what: "idle, root file system read",
    vm: { memoryMiB: IDLE_MIB, cached: true },
    begin: idle,
  }),
  words: () => ({
    what: "one word in each of 300 MiB of pages, 60,000 pages/s",
    ...walked(1024, { mib: 300, pagesPerSecond: 60_000, pattern: "sparse" }),
  }),
  "random-0.5": (link) => random(link, 0.5),
  "random-1": (link) => random(link, 1),
  "random-2": (link) => random(link, 2),
  "random-4": (link) => random(link, 4),
  phases: (link) => random(link, 2, { onMs: 3000, offMs: 2000 }),
  boot: () => ({
    what: "moved while it boots",
    // Reads its root file system, then fills its pages, before it is ready.
    ...walked(1024, { mib: 64, pagesPerSecond: 1000, pattern: "random" }),
    vm: { memoryMiB: 1024, cached: true, booting: true, load: { mib: 64, pagesPerSecond: 1000, pattern: "random" } },
  }),
  stress: () => ({
    what: `stress-ng --vm 1 --vm-bytes ${STRESS_MIB}M --verify`,
    vm: { memoryMiB: 512 },
    begin: stress,
  }),
  redis: () => ({ what: "redis-server, written to by redis-benchmark", vm: { memoryMiB: 512 }, begin: redis }),
} as const satisfies Record<string, (linkBitsPerSecond: number) => Workload>;

export type WorkloadName = keyof typeof WORKLOADS;

/** A guest with the lab's own load, which checks all its pages by itself. */
function walked(memoryMiB: number, load: Load): Pick<Workload, "vm" | "begin"> {
  return { vm: { memoryMiB, load }, begin: async () => (vm) => cleanWalks(vm, 1) };
}

/** Whole pages of random bytes, written at random so many times faster than the link carries them; two seconds' worth of pages. */
function random(linkBitsPerSecond: number, times: number, phases?: Load["phases"]): Workload {
  const bytesPerSecond = linkBitsPerSecond / 8;
  const mib = Math.min(256, Math.max(32, 2 ** Math.round(Math.log2((2 * bytesPerSecond) / 2 ** 20))));
  const pagesPerSecond = Math.round((times * bytesPerSecond) / RAW_PAGE_BYTES);
  const load: Load = { mib, pagesPerSecond, pattern: "random", order: "random", ...(phases && { phases }) };
  const when = phases ? `, ${phases.onMs / 1000} s on, ${phases.offMs / 1000} s off` : "";
  const what = `random pages of ${mib} MiB at ${times} times the link${when}`;
  return { what, ...walked(mib > 128 ? 1024 : 512, load) };
}

/** What it has read is still what it was. */
async function idle(vm: Vm): Promise<GuestCheck> {
  const fingerprint = "busybox md5sum /usr/bin/* | busybox md5sum";
  const before = await answerOf(vm, fingerprint);
  return async (moved) => {
    assertSame("programs in the page cache", before, await answerOf(moved, fingerprint));
    assertUnbroken(moved);
  };
}

async function stress(vm: Vm): Promise<GuestCheck> {
  const command = `stress-ng --vm 1 --vm-bytes ${STRESS_MIB}M --vm-keep --verify --timeout 0`;
  vm.console.send(`${command} >/run/stress.log 2>&1 & stress=$!`);
  await answerOf(vm, `until grep -q dispatching /run/stress.log; do sleep 0.1; done; sleep 2`);
  return async (moved) => {
    moved.console.send("kill -TERM $stress; wait $stress; code=$?");
    assertSame("stress-ng's exit code", "0", await answerOf(moved, "echo $code"));
    const failed = await answerOf(moved, "grep -i -E 'fail|error' /run/stress.log | head -n 1");
    assertSame("what stress-ng complains of", "", failed);
    assertUnbroken(moved);
  };
}

const REDIS = "redis-server --save '' --appendonly no --daemonize yes --bind 127.0.0.1 >/dev/null";
const REDIS_KEYS = 10_000;
/** A load that sets keys at random, and stays within them. */
const REDIS_LOAD = `redis-benchmark -t set -r ${REDIS_KEYS} -n 2000000000 -d 1000 -c 4 -P 8 -q >/run/redis-benchmark.log 2>&1`;
/** A key as redis-benchmark names it, and one that it leaves alone; each value is 1000 bytes. In Lua, i being its number. */
const SET_KEY = "string.format('key:%012d', i)";
const STILL_KEY = "string.format('still:%d', i)";
const VALUE = "string.rep(redis.sha1hex(i), 25)";
const forAllKeys = (body: string) => `for i = 0, ${REDIS_KEYS - 1} do ${body} end`;
const REDIS_FILL = `${forAllKeys(`redis.call('mset', ${SET_KEY}, ${VALUE}, ${STILL_KEY}, ${VALUE})`)} return 'filled'`;
const REDIS_DIGEST = `local s = '' ${forAllKeys(`s = redis.sha1hex(s .. redis.call('get', ${STILL_KEY}))`)} return s`;
const REDIS_LENGTHS = `local n = 0 ${forAllKeys(`n = n + redis.call('strlen', ${SET_KEY})`)} return n`;

async function redis(vm: Vm): Promise<GuestCheck> {
  const run = (moved: Vm, lua: string) => answerOf(moved, `redis-cli --raw eval "${lua}" 0`);
  await answerOf(vm, `${REDIS}; until redis-cli ping | grep -q PONG; do sleep 0.1; done`);
  assertSame("redis' answer", "filled", await run(vm, REDIS_FILL));
  const before = await run(vm, REDIS_DIGEST);
  vm.console.send(`${REDIS_LOAD} & redis_load=$!`);
  return async (moved) => {
    assertSame("redis' answer", "PONG", await answerOf(moved, "redis-cli ping"));
    assertSame("the load on redis", "alive", await answerOf(moved, "kill -0 $redis_load && echo alive"));
    moved.console.send("kill $redis_load; wait $redis_load");
    assertSame("the values that nobody has set", before, await run(moved, REDIS_DIGEST));
    assertSame("bytes of the others", `${REDIS_KEYS * 1000}`, await run(moved, REDIS_LENGTHS));
    assertUnbroken(moved);
  };
}

function assertSame(what: string, expected: string, found: string): void {
  if (found !== expected) throw new Error(`the guest is broken: ${what}: expected "${expected}", found "${found}"`);
}
