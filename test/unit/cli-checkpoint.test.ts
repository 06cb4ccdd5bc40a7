import { spawn } from "node:child_process";
import { once } from "node:events";
import { truncateSync } from "node:fs";
import { resolve } from "node:path";
import { text } from "node:stream/consumers";
import { expect, test } from "vitest";
import { savedLine } from "../../src/cli/checkpoint-report.ts";
import { parseSize } from "../../src/cli/size.ts";
import { openCheckpoints } from "../../src/migration/open-checkpoints.ts";
import { filesOf, keep, stateFolder } from "./support/checkpoint-stores.ts";

const GODWIT = resolve("bin/godwit");

interface Outcome {
  code: number | null;
  stdout: string;
  stderr: string;
}

async function checkpoint(stateDir: string, ...args: readonly string[]): Promise<Outcome> {
  const env = { ...process.env, GODWIT_STATE_DIR: stateDir, TZ: "UTC" };
  const child = spawn(GODWIT, ["checkpoint", ...args], { env, stdio: ["ignore", "pipe", "pipe"] });
  const [stdout, stderr, [code]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, "close")]);
  return { code, stdout, stderr };
}

async function json(stateDir: string, ...args: readonly string[]): Promise<unknown> {
  const { code, stdout, stderr } = await checkpoint(stateDir, ...args, "--json");
  expect([code, stderr]).toEqual([0, ""]);
  return JSON.parse(stdout);
}

/** Two checkpoints of one VM, the later one with more in it. */
async function twoCheckpoints() {
  const stateDir = await stateFolder();
  const store = await openCheckpoints(stateDir);
  const older = await keep(store, 100);
  const newer = await keep(store, 300);
  return { stateDir, store, older, newer };
}

test("list and show", async () => {
  const { stateDir, store, older, newer } = await twoCheckpoints();
  const { checkpoints, ...rest } = (await json(stateDir, "list")) as { checkpoints: object[] };
  expect(rest).toEqual({ path: store.path, storedBytes: await store.storedBytes() });
  expect(checkpoints).toEqual([
    { ...newer, storedBytes: expect.any(Number), sharedBytes: expect.any(Number) },
    { ...older, storedBytes: expect.any(Number), sharedBytes: expect.any(Number) },
  ]);
  expect(await json(stateDir, "show", older.id.slice(0, 11))).toEqual(checkpoints[1]);

  const { stdout } = await checkpoint(stateDir, "list");
  expect(stdout.split("\n")).toEqual([
    expect.stringMatching(/^id +VM +taken +by +state +memory +on disk +shared$/),
    expect.stringMatching(
      new RegExp(`^${newer.id}  a   \\d{4}-\\d\\d-\\d\\d \\d\\d:\\d\\d  save  whole  1.17 MiB .*iB$`),
    ),
    expect.stringMatching(new RegExp(`^${older.id} `)),
    expect.stringMatching(`^2 checkpoints, .*iB in ${store.path}$`),
    "",
  ]);
  const shown = await checkpoint(stateDir, "show", older.id);
  expect(shown.stdout).toMatch(/^checkpoint [0-9a-f]{12} of a\n {2}identity {2}name:a\n/);
  expect(shown.stdout).toContain("  memory    100 pages (400 KiB) of 16.0 MiB are not zero\n");
});

test("check tells what is damaged, and leaves the rest alone", async () => {
  const { stateDir, store, older, newer } = await twoCheckpoints();
  expect(await checkpoint(stateDir, "check", older.id)).toEqual({
    code: 0,
    stdout: `${older.id}  whole, 100 pages\n`,
    stderr: "",
  });
  truncateSync((await filesOf(store, `${newer.id}.checkpoint`))[0]!, 100);
  const { code, stdout } = await checkpoint(stateDir, "check");
  expect(code).toBe(1);
  expect(stdout).toContain(`${older.id}  whole, 100 pages\n`);
  expect(stdout).toMatch(new RegExp(`^${newer.id}  DAMAGED, .*$`, "m"));
});

test("delete takes several, each once, and gc gives back what is not needed", async () => {
  const { stateDir, store, older, newer } = await twoCheckpoints();
  const deleted = await json(stateDir, "delete", older.id, older.id.slice(0, 10));
  expect(deleted).toEqual({ deleted: [older.id], freedBytes: expect.any(Number) });
  expect(await store.list()).toMatchObject([{ id: newer.id }]);
  expect(await json(stateDir, "gc")).toMatchObject({ freedBytes: 0, busyVms: 0, maxBytes: store.maxBytes });
  expect(await json(stateDir, "gc", "--store-size", "1K")).toMatchObject({ storedBytes: 0, maxBytes: 1024 });
  const { stdout } = await checkpoint(stateDir, "list");
  expect(stdout).toBe(`there are no checkpoints in ${store.path}\n`);
});

test("what can't be done is one line, and nothing is changed", async () => {
  const { stateDir, store, older } = await twoCheckpoints();
  const cases = [
    [["show", "none"], /^godwit: there is no checkpoint none; nothing was changed; godwit checkpoint list shows/],
    [["delete", older.id, "none"], /^godwit: there is no checkpoint none; nothing was changed; /],
    [["delete", ""], /^godwit: there is no checkpoint ; nothing was changed; /],
    [["delete"], /^godwit: missing required argument 'id'; nothing was changed; see godwit checkpoint delete --help/],
    [["gc", "--store-size", "20Gb"], /^godwit: the size "20Gb" is none: .*; nothing was changed/],
    [
      ["list", "--state-dir", "/dev/null/x"],
      /^godwit: the state folder .* can't be used: .*; nothing was changed; name /,
    ],
    [["lost"], /^godwit: unknown command 'lost'.*; nothing was changed; see godwit checkpoint --help/],
    [["save"], /^godwit: required option '--qmp <path>' not specified; nothing was changed; /],
  ] as const;
  const outcomes = await Promise.all(cases.map(([args]) => checkpoint(stateDir, ...args)));
  for (const [i, { code, stdout, stderr }] of outcomes.entries()) {
    expect([code, stdout]).toEqual([2, ""]);
    expect(stderr).toMatch(cases[i]![1]);
    expect(stderr.trimEnd()).not.toContain("\n");
  }
  expect(await store.list()).toHaveLength(2);
  const save = await checkpoint(stateDir, "save", "--qmp", "/dev/null/qmp");
  expect([save.code, save.stdout]).toEqual([1, ""]);
  expect(save.stderr).toMatch(/^godwit: .*; no checkpoint was saved, and the VM is as before; check the path/);
});

test("help explains, with examples", async () => {
  const { code, stdout } = await checkpoint("/dev/null", "--help");
  expect(code).toBe(0);
  expect(stdout).toContain("godwit checkpoint save --qmp");
  expect(stdout).toContain("deleting checkpoints is always safe");
});

test("sizes", () => {
  expect(["0", "1024", "20G", "20GiB", "1.5 K", "20GB", "2T"].map(parseSize)).toEqual([
    0,
    1024,
    20 * 2 ** 30,
    20 * 2 ** 30,
    1536,
    20e9,
    2 ** 41,
  ]);
  for (const bad of ["", "G", "-1", "1e9", "20Gb", "20gig", "9999999T", "1..5"]) expect(() => parseSize(bad)).toThrow();
});

test("what was saved says whether the VM stood still", async () => {
  const { newer } = await twoCheckpoints();
  const line = (stoppedMs: number | null) => savedLine({ checkpoint: newer, ms: 1234, stoppedMs });
  expect(line(0)).toMatch(
    /^checkpoint [0-9a-f]{12} of a: 300 pages, .* on the disk, in 1.2 s; the VM was not stopped$/,
  );
  expect(line(12.34)).toMatch(/; the VM was stopped for 12 ms$/);
  expect(line(null)).toMatch(/; the VM does not run, as before$/);
});
