import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { readdir, readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { blackoutMs, TICK_PERIOD_MS } from "../../lab/blackout.ts";
import { artifactName, cached, cacheFolder } from "../../lab/cache.ts";
import type { ConsoleLine } from "../../lab/console.ts";
import { modulesWithDependencies } from "../../lab/guest.ts";
import { tokenBucket } from "../../lab/hosts.ts";
import { isOrphan } from "../../lab/leftovers.ts";
import { mirrorsOf } from "../../lab/packages.ts";
import { isAlive, processStamp } from "../../lab/processes.ts";
import { qemuArguments } from "../../lab/vm.ts";

test("the cache folder is GODWIT_LAB_CACHE, else XDG's, else ~/.cache", () => {
  expect(cacheFolder({ GODWIT_LAB_CACHE: "/a", XDG_CACHE_HOME: "/b" })).toBe("/a");
  expect(cacheFolder({ XDG_CACHE_HOME: "/b" })).toBe("/b/godwit-lab");
  expect(cacheFolder({})).toMatch(/\/\.cache\/godwit-lab$/);
});

function temporaryCache(): string {
  const folder = mkdtempSync(join(tmpdir(), "godwit-test-"));
  const before = process.env.GODWIT_LAB_CACHE;
  process.env.GODWIT_LAB_CACHE = folder;
  onTestFinished(() => {
    if (before === undefined) delete process.env.GODWIT_LAB_CACHE;
    else process.env.GODWIT_LAB_CACHE = before;
    rmSync(folder, { recursive: true });
  });
  return folder;
}

test("an artifact is built once, by one of those who want it, and anew for another recipe", async () => {
  const folder = temporaryCache();
  let builds = 0;
  const build = async (path: string) => writeFileSync(join(path, "n"), `${++builds}`);
  const paths = await Promise.all([1, 2, 3].map(() => cached("x", { version: 1 }, build)));
  expect(new Set(paths).size).toBe(1);
  expect(await readFile(join(paths[0]!, "n"), "utf8")).toBe("1");
  await cached("x", { version: 2 }, build);
  expect(builds).toBe(2);
  expect((await readdir(folder)).sort()).toEqual([1, 2].map((version) => artifactName("x", { version })).sort());
});

test("a build that fails leaves nothing, and a lock of a dead process holds nobody up", async () => {
  const folder = temporaryCache();
  const fails = cached("x", {}, async () => {
    throw new Error("no");
  });
  await expect(fails).rejects.toThrow("no");
  expect(await readdir(folder)).toEqual([]);
  writeFileSync(join(folder, `${artifactName("x", {})}.lock`), "1-0");
  await cached("x", {}, async () => {});
  expect(await readdir(folder)).toEqual([artifactName("x", {})]);
});

/** Another process that wants the artifact; `body` is what builds it in `folder`. */
async function builder(body: string): Promise<void> {
  const script = `
    const { cached } = await import(${JSON.stringify(new URL("../../lab/cache.ts", import.meta.url))});
    const { appendFileSync } = await import("node:fs");
    await cached("x", {}, async (folder) => { ${body} });`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", script], { stdio: "inherit" });
  await once(child, "close");
}

test("a builder that is killed leaves nothing that is used, and the next one removes it", async () => {
  const folder = temporaryCache();
  await builder(`appendFileSync(folder + "/n", "half"); process.kill(process.pid, "SIGKILL");`);
  const left = await readdir(folder);
  expect(left).toEqual([expect.stringMatching(/\.draft$/), `${artifactName("x", {})}.lock`].sort());
  const path = await cached("x", {}, async (draft) => writeFileSync(join(draft, "n"), "whole"));
  expect(await readFile(join(path, "n"), "utf8")).toBe("whole");
  expect(await readdir(folder)).toEqual([artifactName("x", {})]);
});

test("of two processes that want an artifact one builds", async () => {
  const folder = temporaryCache();
  const build = `appendFileSync(${JSON.stringify(join(folder, "builds"))}, "1"); appendFileSync(folder + "/n", "whole");`;
  await Promise.all([builder(build), builder(build)]);
  expect(await readFile(join(folder, "builds"), "utf8")).toBe("1");
  expect((await readdir(folder)).sort()).toEqual(["builds", artifactName("x", {})]);
});

test("a process is known by its id and start", () => {
  const mine = processStamp();
  expect(isAlive(mine)).toBe(true);
  expect(isAlive(`${process.pid}-1`)).toBe(false);
  expect(isAlive("nonsense")).toBe(false);
  expect(isOrphan(`godwit-lab-${mine}-x`)).toBe(false);
  expect(isOrphan(`godwit-lab-${process.pid}-1-x`)).toBe(true);
  expect(isOrphan("godwit-lab-x")).toBe(false);
  expect(isOrphan(`godwit-test-${mine}`)).toBe(false);
  expect(isOrphan(`godwit-test-${process.pid}-1-memory`)).toBe(true);
  expect(isOrphan("godwit-test-x1Yz2A")).toBe(false);
});

test("mirrors are those of the host's own release", () => {
  const targets = [
    "mirror+file:/etc/apt/mirrors.list bookworm main",
    "https://a.example/debian bookworm main",
    "https://a.example/debian bookworm main",
    "https://a.example/debian bookworm contrib",
    "https://a.example/debian-security bookworm-security main",
    "https://other.example/tool stable main",
    "",
  ].join("\n");
  expect(mirrorsOf(targets, "bookworm")).toEqual(["mirror+file:/etc/apt/mirrors.list", "https://a.example/debian"]);
});

test("modules come with all that they depend on", () => {
  const dep = "k/blk.ko: k/virtio.ko k/ring.ko\nk/virtio.ko: k/ring.ko\nk/ring.ko:\nk/other.ko: k/ring.ko\n";
  expect(modulesWithDependencies(dep, ["blk"])).toEqual(["k/blk.ko", "k/virtio.ko", "k/ring.ko"]);
  expect(() => modulesWithDependencies(dep, ["none"])).toThrow("no module none");
});

test("the bucket of a shaped link grows with its rate", () => {
  expect(tokenBucket(500e6)).toEqual(["rate", "500000000bit", "burst", "262144", "latency", "50ms"]);
  expect(tokenBucket(10e9)[3]).toBe("1250000");
});

test("a destination differs from its source only in -incoming and -S", () => {
  const files = { kernel: "/k", initrd: "/i", disk: "/d" };
  const paths = { qmp: "/q", lab: "/l", console: "/c", ticks: "/t" };
  const options = { disk: "/disk", load: { mib: 8, pagesPerSecond: 10, pattern: "word" } } as const;
  const source = qemuArguments(options, files, "tcg", paths);
  const destination = qemuArguments({ ...options, incoming: true }, files, "tcg", paths);
  expect(destination).toEqual([...source, "-incoming", "defer", "-S"]);
  expect(source.join(" ")).toContain("godwit.load=mib=8,rate=10,pattern=word");
});

test("a versioned machine type gets a CPU that all versions have", () => {
  const files = { kernel: "/k", initrd: "/i", disk: "/d" };
  const paths = { qmp: "/q", lab: "/l", console: "/c", ticks: "/t" };
  const cpu = (machine: string) => {
    const args = qemuArguments({ disk: "/disk", machine }, files, "tcg", paths);
    return args[args.indexOf("-cpu") + 1];
  };
  expect([cpu("q35"), cpu("pc"), cpu("pc-q35-7.2")]).toEqual(["max", "max", "qemu64"]);
});

function ticksFrom(fromMs: number, toMs: number): ConsoleLine[] {
  const lines: ConsoleLine[] = [];
  for (let atMs = fromMs; atMs <= toMs; atMs += TICK_PERIOD_MS) lines.push({ text: "", atMs });
  return lines;
}

test("the blackout is the largest gap around the switch-over, less a period", () => {
  expect(blackoutMs(ticksFrom(0, 1000), ticksFrom(1300, 2000))).toBe(290);
  expect(blackoutMs(ticksFrom(0, 1000), ticksFrom(1010, 2000))).toBe(0);
});

test("a stall just after the switch-over counts, one long before does not", () => {
  const stalled = [...ticksFrom(1100, 1200), ...ticksFrom(1700, 2500)];
  expect(blackoutMs(ticksFrom(0, 1000), stalled)).toBe(490);
  const before = [...ticksFrom(0, 1000), ...ticksFrom(4000, 6000)];
  expect(blackoutMs(before, ticksFrom(6100, 7000))).toBe(90);
});

test("without ticks there is no blackout to tell", () => {
  expect(() => blackoutMs([], ticksFrom(0, 10))).toThrow("source");
  expect(() => blackoutMs(ticksFrom(0, 10), [])).toThrow("destination");
});
