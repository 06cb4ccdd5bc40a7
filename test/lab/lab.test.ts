/** The lab with real QEMUs: what its other users rely on. */
import { mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { createHosts, type Host } from "../../lab/hosts.ts";
import { run } from "../../lab/run.ts";
import { startSavedVm } from "../../lab/saved-vm.ts";
import { NeverEnded, STOCK_MODES, stockMigration } from "../../lab/stock.ts";
import { startTap } from "../../lab/tap.ts";
import { startVm } from "../../lab/vm.ts";
import { cleanWalks } from "../../lab/walks.ts";
import { QmpClient } from "../../src/qemu/qmp.ts";
import { CACHED, SMALL_LOAD, startPair } from "../real/support/pair.ts";

const isRoot = process.getuid?.() === 0;
/** As that of identity.test.ts, so that one guest is saved for both. */
const load = { mib: 64, pagesPerSecond: 2000, pattern: "random" } as const;

test.each(["q35", "pc"])("a busy guest on %s survives a stock migration", { timeout: 180_000 }, async (machine) => {
  await using pair = await startPair({ machine, load, ...(isRoot && { rateBitsPerSecond: 500e6 }) });
  const { source, destination } = pair;
  await cleanWalks(source, 1);
  const result = await stockMigration(source, destination);
  expect(result.rounds).toBeGreaterThan(1);
  expect(result.rawBytes).toBeGreaterThan(load.mib * 2 ** 20);
  expect(result.blackoutMs).toBeGreaterThan(0);
  await cleanWalks(destination, 2);
  expect(await source.quit()).toMatchObject({ code: 0 });
});

test.each(["xbzrle", "multifd, zstd"] as const)("a guest survives QEMU's %s", { timeout: 180_000 }, async (mode) => {
  await using pair = await startPair({ load: { mib: 32, pagesPerSecond: 10_000, pattern: "sparse" } });
  const result = await stockMigration(pair.source, pair.destination, STOCK_MODES[mode]);
  // Of each page's 4 KiB only a few bytes are not zero.
  if (mode === "multifd, zstd") expect(result.rawBytes).toBeLessThan(PLAIN_BYTES);
  await cleanWalks(pair.destination, 2);
});

/** What a guest of 512 MiB takes at least without compression. */
const PLAIN_BYTES = 100 * 2 ** 20;

test.runIf(isRoot)("a stock migration that never ends is given up", { timeout: 180_000 }, async () => {
  const load = { mib: 64, pagesPerSecond: 20_000, pattern: "random" } as const;
  await using pair = await startPair({ memoryMiB: 256, load, rateBitsPerSecond: 100e6 });
  const moved = stockMigration(pair.source, pair.destination, { timeoutMs: 3000 });
  await expect(moved).rejects.toThrow(NeverEnded);
  await cleanWalks(pair.source, 1);
});

test("a guest moves from QEMU 7.2 to 10.0", { timeout: 180_000 }, async () => {
  await using pair = await startPair({ qemu: "7.2", destinationQemu: "10.0", machine: "pc-q35-7.2" });
  await pair.source.ticks.waitFor(/\d/, 60_000);
  await pair.source.qmp.execute("stop"); // under TCG, QEMU 7.2 loses what its guest writes while it moves
  await stockMigration(pair.source, pair.destination);
  pair.destination.console.send("echo still here | tr a-z A-Z");
  await pair.destination.console.waitFor(/^STILL HERE$/, 60_000);
});

test("a busy guest goes there and back", { timeout: 180_000 }, async () => {
  await using pair = await startPair({ load: SMALL_LOAD });
  await stockMigration(pair.source, pair.destination);
  await cleanWalks(pair.destination, 1);
  const back = await pair.back();
  expect(await pair.source.exited).toMatchObject({ code: 0 });
  expect(back.source.pid).toBe(pair.destination.pid);
  expect(back.hosts.destination).toBe(pair.hosts.source);
  await stockMigration(back.source, back.destination);
  await cleanWalks(back.destination, 1);
});

test("a guest with its root file system in the page cache says so", { timeout: 180_000 }, async () => {
  await using vm = await startSavedVm(CACHED);
  const cachedKiB = async () => {
    vm.console.send("grep ^Cached /proc/meminfo");
    return Number((await vm.console.waitFor(/^Cached: +(\d+) kB/, 60_000))[1]);
  };
  expect(await cachedKiB()).toBeGreaterThan(150 * 1024);
});

test.each(["walk", "random"] as const)("the guest finds a whole page of an old version, order %s", async (order) => {
  await using vm = await startSavedVm({ load: { mib: 4, pagesPerSecond: 1500, pattern: "random", order } });
  await cleanWalks(vm, 1);
  vm.console.send(`python3 -c '${PUT_BACK_AN_OLD_PAGE}'`);
  await vm.console.waitFor(/^load: ERROR page=5 word=1 /, 60_000);
  await expect(cleanWalks(vm, 1)).rejects.toThrow("ERROR page=5");
});

/** Takes page 5 of the load's 4 MiB and puts it back when it has been written again; so often that a walk comes by before the next write. */
const PUT_BACK_AN_OLD_PAGE = [
  "import glob",
  'pid = next(p for p in glob.glob("/proc/[0-9]*") if open(p + "/comm").read() == "load\\n")',
  'ranges = [[int(x, 16) for x in l.split()[0].split("-")] for l in open(pid + "/maps")]',
  "page = next(a for a, b in ranges if b - a == 4 << 20) + 5 * 4096",
  'memory = open(pid + "/mem", "r+b", 0)',
  "read = lambda: (memory.seek(page), memory.read(4096))[1]",
  "put_back = lambda old: (next(1 for _ in iter(int, 1) if read() != old), memory.seek(page), memory.write(old))",
  "[put_back(read()) for _ in range(20)]",
].join("; ");

test("taps at both ends see the same bytes, and what was recorded is those", { timeout: 180_000 }, async () => {
  const folder = mkdtempSync(join(tmpdir(), "godwit-test-"));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  await using pair = await startPair({ memoryMiB: 256, saved: false }); // one that boots
  const recordTo = join(folder, "recorded");
  await using sourceTap = await startTap({ qmpPath: pair.source.qmpPath, direction: "source", recordTo });
  await using destinationTap = await startTap({ qmpPath: pair.destination.qmpPath, direction: "destination" });
  using source = await QmpClient.connect(sourceTap.qmpPath);
  using destination = await QmpClient.connect(destinationTap.qmpPath);
  for (const qmp of [source, destination]) {
    const capabilities = ["events", "return-path"].map((capability) => ({ capability, state: true }));
    await qmp.execute("migrate-set-capabilities", { capabilities });
  }
  const uri = `unix:${join(folder, "stream")}`;
  await destination.execute("migrate-incoming", { uri });
  const completed = source.waitForEvent("MIGRATION", ({ data }) => data.status === "completed", { timeoutMs: 60_000 });
  await source.execute("migrate", { uri });
  await completed;
  const seen = await sourceTap.digest();
  expect(await destinationTap.digest()).toEqual(seen);
  expect(seen.bytes).toBeGreaterThan(10e6);
  expect(seen.returnBytes).toBeGreaterThan(0);
  expect(statSync(recordTo).size).toBe(seen.bytes);
});

/** What the bucket lets through at once is above the rate. */
const BUCKET = 1.1;

test.runIf(isRoot)("the rate of a link can be changed and taken away", { timeout: 120_000 }, async () => {
  await using hosts = await createHosts({ rateBitsPerSecond: 40e6 });
  const rate = () => transferBytesPerSecond(hosts.source, hosts.destination);
  // Programs that wait for a core are slower than the link, now and then; never faster.
  const comesTo = (bytesPerSecond: number) => expect.poll(rate, { timeout: 30_000 }).toBeGreaterThan(bytesPerSecond);
  await comesTo(20e6 / 8);
  expect(await rate()).toBeLessThan((40e6 / 8) * BUCKET);
  await hosts.setRate(160e6);
  await comesTo(80e6 / 8);
  expect(await rate()).toBeLessThan((160e6 / 8) * BUCKET);
  await hosts.setRate(undefined);
  await comesTo(320e6 / 8);
});

/** Sends 8 MiB over TCP from one host to the other: from the first byte's leaving to the last one's coming, by one clock. */
async function transferBytesPerSecond(from: Host, to: Host): Promise<number> {
  const bytes = 8 * 2 ** 20;
  const receive = `
    const server = net.createServer((socket) => socket.on("end", () => {
      console.log(Date.now());
      server.close();
      socket.end();
    }).resume());
    server.listen(5000, "${to.address}");`;
  const send = `
    const connect = () => net.connect(5000, "${to.address}")
      .on("error", () => setTimeout(connect, 20))
      .on("connect", function () { console.log(Date.now()); this.end(Buffer.alloc(${bytes})); this.resume(); });
    connect();`;
  const node = (script: string) => [process.execPath, "-e", `const net = require("node:net"); ${script}`];
  const received = run(to.command(node(receive)));
  const startMs = Number(await run(from.command(node(send))));
  return (bytes / (Number(await received) - startMs)) * 1000;
}

test("a QEMU that cannot start says why", { timeout: 60_000 }, async () => {
  await expect(startVm({ extraArgs: ["-device", "no-such-device"] })).rejects.toThrow(/no-such-device/);
});
