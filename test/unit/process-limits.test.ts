import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import * as net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, expect, test } from "vitest";
import { connect } from "../../src/wire/transport.ts";
import { passes } from "./support/passes.ts";

const undo: (() => unknown)[] = [];
afterEach(async () => {
  for (const action of undo.splice(0).reverse()) await action();
});

const supportOf = (name: string) => fileURLToPath(new URL(`support/${name}`, import.meta.url));
/** Where dumps go to: a file beside the process, or a program of the system's, which a test can't look into. */
const isDumpAFile =
  /^[\w.%-]+\s*$/.test(readFileSync("/proc/sys/kernel/core_pattern", "utf8")) &&
  /^Max core file size\s+\S+\s+unlimited/m.test(readFileSync("/proc/self/limits", "utf8"));

/** Whether the core dump of a process that a signal ends holds its memory. */
function dump(signal: string, isKept: boolean): { ended: string | null; bytes: number; holds: boolean } {
  const folder = mkdtempSync(join(tmpdir(), "godwit-core-"));
  try {
    const args = [process.execPath, supportOf("dump-core.ts"), signal, isKept ? "kept" : "dumped"];
    const options = { cwd: folder, stdio: "ignore" } as const;
    const ended = spawnSync("/bin/sh", ["-c", 'ulimit -c unlimited && exec "$0" "$@"', ...args], options).signal;
    const [file] = readdirSync(folder);
    const core = file === undefined ? Buffer.alloc(0) : readFileSync(join(folder, file));
    return { ended, bytes: core.length, holds: core.includes("yromem-tseug") };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

test.runIf(isDumpAFile).each(["SIGABRT", "SIGSEGV"])("a core dump after %s holds no guest memory", (signal) => {
  const { ended, bytes, holds } = dump(signal, true);
  expect([ended, bytes > 0, holds]).toEqual([signal, true, false]);
});

test.runIf(isDumpAFile)("without that, it would", () => {
  expect(dump("SIGABRT", false)).toMatchObject({ ended: "SIGABRT", holds: true });
});

test("every command keeps memory out of dumps, and has no debugger to open", async () => {
  const godwit = fileURLToPath(new URL("../../bin/godwit", import.meta.url));
  const child = spawn(godwit, ["inspect", "-"]); // waits for its input
  undo.push(() => child.kill("SIGKILL"));
  const filter = () => Number(`0x${readFileSync(`/proc/${child.pid}/coredump_filter`, "utf8")}`);
  await passes(() => expect(filter()).toBe(0));
  expect(readFileSync(`/proc/${child.pid}/cmdline`, "utf8")).toContain("\0--disable-sigusr1\0");
});

test("out of file descriptors: strangers are dropped, what is open goes on, and later all is as before", async () => {
  const command = ["-c", 'ulimit -n 96 && exec "$0" "$@"', process.execPath, supportOf("few-files.ts")];
  const child = spawn("/bin/sh", command, { stdio: ["ignore", "inherit", "inherit", "ipc"] });
  undo.push(() => child.kill("SIGKILL"));
  const told = async (message?: string) => {
    if (message !== undefined) child.send(message);
    return (await once(child, "message"))[0] as { port: number; taken: number };
  };
  const { port } = await told();
  const security = { kind: "psk", psk: { identity: "few-files", key: Buffer.alloc(32, 7) } } as const;
  const echoing = async () => {
    const connection = await connect({ host: "127.0.0.1", port, security });
    undo.push(() => connection.destroy());
    let answered = "";
    connection.receive((chunk) => {
      answered += Buffer.from(chunk).toString();
    });
    return async (word: string) => {
      connection.write([Buffer.from(word)]);
      await passes(() => expect(answered).toContain(word));
    };
  };
  const running = await echoing();
  await running("before");
  expect((await told("take")).taken).toBeGreaterThan(10);
  for (let i = 0; i < 3; i++) {
    const stranger = net.connect({ host: "127.0.0.1", port });
    undo.push(() => stranger.destroy());
    stranger.on("error", () => {});
    await new Promise((resolve) => stranger.once("close", resolve));
  }
  await running("meanwhile");
  expect((await told("on")).taken).toBe(0);
  await (await echoing())("later");
  await running("still");
});
