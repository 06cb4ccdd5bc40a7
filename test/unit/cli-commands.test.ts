import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { text } from "node:stream/consumers";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import packageJson from "../../package.json" with { type: "json" };
import { readPskFile } from "../../src/wire/psk.ts";

const GODWIT = resolve("bin/godwit");
let folder: string;
let keyFile: string;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "godwit-cli-"));
  keyFile = join(folder, "vm.key");
  expect(await godwit(["key", keyFile])).toEqual({ code: 0, stdout: "", stderr: "" });
});
afterAll(() => rmSync(folder, { recursive: true }));

interface Outcome {
  code: number | null;
  stdout: string;
  stderr: string;
}

async function run(file: string, args: readonly string[], env = process.env): Promise<Outcome> {
  const child = spawn(file, args, { cwd: folder, env, stdio: ["ignore", "pipe", "pipe"] });
  const [stdout, stderr, [code]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, "close")]);
  return { code, stdout, stderr };
}

const godwit = (args: readonly string[]) => run(GODWIT, args);

describe("bin/godwit", () => {
  test("finds its Node and itself from any folder, through links, whatever Node is on PATH", async () => {
    const link = join(folder, "link");
    const linkToLink = join(folder, "link2");
    symlinkSync(GODWIT, link);
    symlinkSync("link", linkToLink);
    const { code, stdout } = await run(linkToLink, ["--version"], { PATH: "/usr/bin:/bin" });
    expect([code, stdout]).toEqual([0, `${packageJson.version}\n`]);
  });

  test("says what to do where there is no Node 24", async () => {
    const checkout = join(folder, "checkout");
    const bin = join(checkout, "bin");
    await run("mkdir", ["-p", bin, join(folder, "path")]);
    writeFileSync(join(bin, "godwit"), readFileSync(GODWIT), { mode: 0o755 });
    writeFileSync(join(folder, "path", "node"), "#!/bin/sh\necho 20\n", { mode: 0o755 });
    const outcome = await run(join(bin, "godwit"), ["--version"], { PATH: `${join(folder, "path")}:/usr/bin:/bin` });
    const stderr = `godwit: there is no Node 24 here; nothing was changed; run \`npm ci\` in ${checkout}\n`;
    expect(outcome).toEqual({ code: 2, stdout: "", stderr });
  });
});

describe("usage errors are one line and exit 2", () => {
  test.each([
    [["teleport"], "unknown command 'teleport'"],
    [["send", "--to", "host-b"], "required option '--qmp <path>' not specified"],
    [["receive", "--qmp", "qmp", "--psk-file", "key"], "required option '--listen <address[:port]>' not specified"],
    [
      ["send", "--qmp", "qmp", "--psk-file", "key", "--to", "host-b", "--jsn"],
      "unknown option '--jsn' (Did you mean --json?)",
    ],
    [["send", "--qmp", "qmp", "--psk-file", "key", "--to", "host-b", "extra"], "too many arguments for 'send'"],
    [["send", "--to", "host-b:99999"], '"host-b:99999" is no address: expected a port between 1 and 65535'],
    [["send", "--to", "host-b", "--max-bandwidth", "-1"], 'the rate "-1" is no rate'],
    [["send", "--to", "host-b", "--max-bandwidth", "0"], 'the rate "0" is less than 1Mbit'],
    [["send", "--policy", "luck"], "Allowed choices are adaptive, qemu, nova,"],
    [["send", "--compress", "zip"], 'the compression "zip" is none of auto, none, lz4, zstd and zstd:1 to zstd:19'],
    [["send", "--compress", "zstd:20"], 'the compression "zstd:20" is none of'],
    [["receive", "--threads", "many"], '"many" is no number of worker threads: 0 to 16'],
    [["receive", "--listen", ""], '"" is no address'],
    [["key", "a", "b"], "too many arguments for 'key'"],
    [["receive", "--reconnect-for", "600h"], "--reconnect-for is more than 24 days"],
    [
      ["send", "--qmp", "q", "--psk-file", "k", "--to", "b", "--max-downtime", "0"],
      "--max-downtime must be more than 0",
    ],
    [["send", "--qmp", "q", "--psk-file", "k", "--to", "b", "--trace", "/nowhere/t"], "the trace can't be written"],
    [["send", "--qmp", "q", "--to", "b", "--psk-file", "/"], "the key file / can't be read: it is a folder"],
    [["plan", "--qmp", "", "--bandwidth", "1G"], "the path of the QMP socket is empty"],
  ])("%j", async (args, message) => {
    const { code, stdout, stderr } = await godwit(args);
    expect(stderr).toMatch(/^godwit: [^\n]*; nothing was changed[^\n]*\n$/);
    expect(stderr).toContain(message);
    expect([code, stdout]).toEqual([2, ""]);
  });

  test("a key file that is missing or open to others", async () => {
    const missing = await godwit(["send", "--qmp", "qmp", "--to", "host-b", "--psk-file", "none.key"]);
    expect([missing.code, missing.stdout]).toEqual([2, ""]);
    expect(missing.stderr).toMatch(/^godwit: there is no key file none.key; nothing was changed; [^\n]*\n$/);
    const open = join(folder, "open.key");
    writeFileSync(open, readFileSync(keyFile), { mode: 0o644 });
    const refused = await godwit(["receive", "--qmp", "qmp", "--listen", "127.0.0.1", "--psk-file", open]);
    expect([refused.code, refused.stdout]).toEqual([2, ""]);
    expect(refused.stderr).toMatch(/^godwit: others can read the key file [^\n]*; nothing was changed; [^\n]*\n$/);
  });

  test("a path that is no QMP socket", async () => {
    const { code, stdout, stderr } = await godwit([
      "send",
      "--qmp",
      keyFile,
      "--psk-file",
      keyFile,
      "--to",
      "127.0.0.1",
      "--json",
    ]);
    expect(stderr).toMatch(/^godwit: [^\n]* is not a socket; nothing was changed, [^\n]*; give --qmp [^\n]*\n$/);
    expect(code).toBe(2);
    const events = stdout
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(events.map(({ event }) => event)).toEqual(["error", "summary"]);
    expect(events[1]).toMatchObject({ role: "source", status: "refused" });
  });
});

test("help explains each command, with examples and exit codes", async () => {
  for (const command of ["send", "receive"]) {
    const { code, stdout } = await godwit([command, "--help"]);
    expect(code).toBe(0);
    expect(stdout).toContain(`godwit ${command} --qmp`);
    expect(stdout).toContain("in doubt: look at both sides");
  }
  const bare = await godwit([]);
  expect([bare.code, bare.stdout]).toEqual([2, ""]);
  expect(bare.stderr).toContain("Usage: godwit");
});

describe("godwit key", () => {
  test("writes a key that only its owner can read, whatever the umask", async () => {
    const path = join(folder, "umask.key");
    const script = 'umask 777; exec "$0" key "$1"';
    expect((await run("/bin/sh", ["-c", script, GODWIT, path])).code).toBe(0);
    expect(statSync(path).mode & 0o7777).toBe(0o600);
    expect(readPskFile(path).key).toHaveLength(32);
    expect(readPskFile(path).key).not.toEqual(readPskFile(keyFile).key);
  });

  test("never overwrites", async () => {
    const before = readFileSync(keyFile, "utf8");
    const { code, stdout, stderr } = await godwit(["key", keyFile]);
    expect([code, stdout]).toEqual([2, ""]);
    expect(stderr).toMatch(/^godwit: [^\n]* exists already: [^\n]*; nothing was changed\n$/);
    expect(readFileSync(keyFile, "utf8")).toBe(before);
  });

  test("says in one line why it can't write", async () => {
    const { code, stderr } = await godwit(["key", join(folder, "nowhere", "vm.key")]);
    expect(code).toBe(2);
    expect(stderr).toMatch(/^godwit: the key can't be written: [^\n]*; nothing was changed\n$/);
  });

  test.each([[[]], [["-"]]])("writes to stdout with %j", async (args) => {
    const { code, stdout, stderr } = await godwit(["key", ...args]);
    expect([code, stderr]).toEqual([0, ""]);
    expect(stdout).toMatch(/^godwit:[0-9a-f]{64}\n$/);
  });
});

describe("status and resolve", () => {
  test("a host without sessions", async () => {
    const state = ["--state-dir", join(folder, "state")];
    const stdout = `no sessions in ${join(folder, "state")}\n`;
    expect(await godwit(["status", ...state])).toEqual({ code: 0, stdout, stderr: "" });
    expect(await godwit(["status", "--json", ...state])).toEqual({ code: 0, stdout: "[]\n", stderr: "" });
    const none = await godwit(["resolve", "3fa9", "--resume-source", ...state]);
    expect([none.code, none.stdout]).toEqual([2, ""]);
    expect(none.stderr).toMatch(/^godwit: there is no session 3fa9 in .*; nothing was changed; godwit status shows/);
  });

  test("what could not be written was not said", async () => {
    const full = await run("/bin/sh", [
      "-c",
      '"$0" status --state-dir "$1" > /dev/full',
      GODWIT,
      join(folder, "state"),
    ]);
    expect(full).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^godwit: the output is cut short: [^\n]*\n$/),
    });
  });

  test("what can be asked for is one thing", async () => {
    const both = await godwit(["resolve", "3fa9", "--resume-source", "--run-destination"]);
    expect([both.code, both.stdout]).toEqual([2, ""]);
    expect(both.stderr).toContain("cannot be used with");
  });
});
