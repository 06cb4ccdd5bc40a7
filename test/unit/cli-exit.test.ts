import { execFile, execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";

const module = new URL("../../src/cli/exit.ts", import.meta.url);

test.each(["", "void open(process.argv[1]);"])(
  "ends with its code, also while a read never returns: %s",
  async (read) => {
    const folder = mkdtempSync(join(tmpdir(), "godwit-exit-"));
    onTestFinished(() => rmSync(folder, { recursive: true }));
    const fifo = join(folder, "fifo");
    execFileSync("mkfifo", [fifo]);
    const script = `
    const { open } = await import("node:fs/promises");
    const { exitNow } = await import("${module}");
    process.on("exit", (code) => console.log("exit", code));
    ${read}
    setTimeout(() => exitNow(143), 50);`;
    const args = ["--disable-warning=ExperimentalWarning", "-e", script, fifo];
    const outcome = await new Promise((resolve) => {
      execFile(process.execPath, args, { timeout: 10_000, killSignal: "SIGKILL" }, (error, stdout, stderr) =>
        resolve({ code: error?.code, stdout, stderr }),
      );
    });
    expect(outcome).toEqual({ code: 143, stdout: "exit 143\n", stderr: "" });
  },
);
