import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { overviewLines, scoreLines } from "../../src/cli/replay-table.ts";
import { AdaptivePolicy } from "../../src/control/adaptive.ts";
import type { Score } from "../../src/control/simulation/compare.ts";
import { recordTrace } from "../../src/control/simulation/record.ts";
import { aScenario, randomPages } from "./support/scenarios.ts";

const GODWIT = resolve("bin/godwit");
let folder: string;
let trace: string;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "godwit-replay-"));
  trace = join(folder, "vm.trace");
  writeFileSync(
    trace,
    recordTrace(aScenario({ pages: 20_000, classes: [randomPages(4000, 2000)] }), new AdaptivePolicy()),
  );
});
afterAll(() => rmSync(folder, { recursive: true }));

function replay(...args: string[]): { code: number | null; stdout: string; stderr: string } {
  const { status: code, stdout, stderr } = spawnSync(GODWIT, ["replay", ...args], { cwd: folder, encoding: "utf8" });
  return { code, stdout, stderr };
}

describe("godwit replay", () => {
  test("of a trace: a line a policy", () => {
    const { code, stdout, stderr } = replay("vm.trace", "--policy", "all");
    expect([code, stderr]).toEqual([0, ""]);
    const lines = stdout.trimEnd().split("\n");
    expect(lines[0]).toMatch(
      /^workload {2,}policy {2,}ended {2,}total {2,}sent {2,}downtime {2,}throttled {2,}above the best$/,
    );
    expect(lines).toHaveLength(1 + 10);
    expect(lines[1]).toMatch(/^vm\.trace {2}adaptive {2,}yes /);
    expect(lines[2]).toMatch(/^vm\.trace {2}qemu {2,}0 of 1 .* - {2,}- {2,}-$/);
  });

  test("--json, --plot, --save", () => {
    const args = [
      "vm.trace",
      "--policy",
      "adaptive",
      "--policy",
      "xen",
      "--json",
      "--plot",
      "p.svg",
      "--save",
      "traces",
    ];
    const { code, stdout } = replay(...args);
    expect(code).toBe(0);
    const scores = stdout
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as Score);
    expect(scores.map(({ policy, ended, of }) => [policy, ended, of])).toEqual([
      ["adaptive", 1, 1],
      ["xen", 1, 1],
    ]);
    const svg = readFileSync(join(folder, "p.svg"), "utf8");
    expect(svg).toMatch(/^<svg .*<polyline .*<\/svg>\n$/s);
    expect(svg).not.toMatch(/NaN|Infinity|undefined/);
    const saved = readdirSync(join(folder, "traces")).sort();
    expect(saved).toEqual(["vm.trace-adaptive.trace", "vm.trace-xen.trace"]);
    expect(replay(join("traces", saved[1]!)).code).toBe(0);
  });

  test("with a promise: a deadline that leaves no time to look is kept", () => {
    const [plain, bound] = [[], ["--deadline", "25"]].map((args) => {
      const { stdout } = replay("vm.trace", "--json", ...args);
      return JSON.parse(stdout) as Score;
    });
    expect(plain!.totalMs).toBeGreaterThan(25_000);
    expect(bound!.totalMs).toBeLessThanOrEqual(25_000);
    expect(bound!.downtimeMs).toBeGreaterThan(plain!.downtimeMs!);
  });

  test("of the standard set: one load, and its plot", () => {
    const { code, stdout } = replay("--synthetic", "--load", "idle", "--policy", "nova", "--plot", "idle.svg");
    expect(code).toBe(0);
    expect(stdout.trimEnd().split("\n")).toHaveLength(1 + 8);
    const svg = readFileSync(join(folder, "idle.svg"), "utf8");
    expect(svg.match(/<circle /g)).toHaveLength(8 + 1);
    expect(svg).not.toMatch(/NaN|Infinity|undefined/);
  });

  test("a trace that is cut off is replayed, and said to be", () => {
    writeFileSync(join(folder, "cut.trace"), readFileSync(trace, "utf8").slice(0, -40));
    const { code, stderr } = replay("cut.trace");
    expect([code, stderr]).toEqual([
      0,
      expect.stringMatching(/^godwit: the trace cut.trace is not whole: line \d+ is cut off\n$/),
    ]);
  });

  test("a trace that tells of no load is left out, and named; of others of the same name the folder is named, too", () => {
    const lines = readFileSync(trace, "utf8").split("\n");
    writeFileSync(join(folder, "short.trace"), `${lines[0]}\n`);
    mkdirSync(join(folder, "other"));
    writeFileSync(join(folder, "other", "vm.trace"), lines.join("\n"));
    const { code, stdout, stderr } = replay("short.trace", "vm.trace", join("other", "vm.trace"));
    expect(stderr).toMatch(/\ngodwit: the trace short\.trace is left out: the trace ends before the first round does/);
    expect(stdout).toMatch(/\nvm\.trace +adaptive +yes .*\nother\/vm\.trace +adaptive +yes /);
    expect(code).toBe(0);
    const alone = replay("--check", "short.trace");
    expect(alone.stderr).toMatch(/short\.trace is left out: .*\ngodwit: --check needs traces of completed migrations/);
    expect(alone.code).toBe(2);
  });

  test.each<[string[], RegExp]>([
    [[], /there is nothing to replay: name a trace, or --synthetic/],
    [["none.trace"], /the trace none.trace can't be read: ENOENT/],
    [["."], /the trace \. can't be read: EISDIR/],
    [["vm.trace", "--policy", "vmware"], /there is no policy "vmware"; there are adaptive, /],
    [["vm.trace", "--load", "idle"], /--load is one of the standard set: add --synthetic/],
    [["--synthetic", "--load", "busy"], /argument 'busy' is invalid. Allowed choices are idle, /],
    [["p.key"], /p\.key: it is no trace/],
    [["vm.trace", "--policy", "nova", "--deadline", "90"], /the policy nova knows no --deadline: only adaptive keeps/],
    [
      ["vm.trace", "--max-downtime", "soon"],
      /the time "soon" is none: write 500, 500ms, 1\.5s; a plain number is in ms/,
    ],
    [["vm.trace", "--plot", "no/where.svg"], /no\/where\.svg can't be written: ENOENT/],
    [["vm.trace", "--save", "/proc/traces"], /\/proc\/traces can't be written: ENOENT/],
    [["vm.trace", "--check", "--policy", "all"], /option '--check' cannot be used with option '--policy <name>'/],
  ])("%j: one line, exit 2", (args, message) => {
    writeFileSync(join(folder, "p.key"), "godwit:00\n");
    const { code, stderr } = replay(...args);
    expect(stderr).toMatch(/^godwit: [^\n]*\n$/);
    expect(stderr).toMatch(message);
    expect(code).toBe(2);
  });

  test("--help has examples, policies, loads, exit codes", () => {
    const { code, stdout } = replay("--help");
    expect(code).toBe(0);
    for (const words of ["godwit replay vm.trace --policy all", "kubevirt-stall", "long-phases", "Exit codes:"]) {
      expect(stdout).toContain(words);
    }
  });
});

describe("tables", () => {
  const one: Score = {
    workload: "a",
    policy: "x",
    ended: 1,
    of: 1,
    totalMs: 5000,
    wireBytes: 2 ** 30,
    downtimeMs: 100,
    throttledMs: 0,
    regretMs: 20,
    predictedMs: 110,
    asPredicted: 1,
  };
  const scores: Score[] = [
    one,
    { ...one, policy: "y", downtimeMs: 150, throttledMs: 50 },
    { ...one, workload: "b", downtimeMs: 300, regretMs: -1 },
    { ...one, workload: "b", policy: "y", ended: 0, downtimeMs: null, regretMs: null },
  ];

  test("of scores", () => {
    expect(scoreLines(scores)).toEqual([
      "workload  policy   ended  total      sent  downtime  throttled  above the best",
      "a         x          yes  5.0 s  1.00 GiB    100 ms          -           20 ms",
      "a         y          yes  5.0 s  1.00 GiB    150 ms      50 ms           20 ms",
      "b         x          yes  5.0 s  1.00 GiB    300 ms          -          0.0 ms",
      "b         y       0 of 1  5.0 s  1.00 GiB         -          -               -",
    ]);
  });

  test("of all: one that does not end has lost", () => {
    expect(overviewLines(scores).slice(2)).toEqual([
      "policy   ended  total      sent  downtime  above the best  x / it  at worst",
      "x       2 of 2  5.0 s  1.00 GiB    300 ms           20 ms",
      "y       1 of 2  5.0 s  1.00 GiB    150 ms           20 ms    0.50      0.50",
    ]);
  });
});
