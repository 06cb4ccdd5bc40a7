/** What needs a process of its own: signals, and readers that are slow or gone. */
import { type ChildProcessByStdio, spawn } from "node:child_process";
import { once } from "node:events";
import { resolve } from "node:path";
import type { Readable } from "node:stream";
import { text } from "node:stream/consumers";
import { expect, onTestFinished, test } from "vitest";

type Child = ChildProcessByStdio<null, Readable, Readable>;

/** Runs a script in the folder of the commands. */
function start(script: string): Child {
  const cwd = resolve("src/cli");
  const child = spawn("node", ["--input-type=module", "--eval", script], { cwd, stdio: ["ignore", "pipe", "pipe"] });
  onTestFinished(() => void child.kill("SIGKILL"));
  return child;
}

async function lineOf(stream: Readable): Promise<string> {
  const [chunk] = await once(stream, "data");
  return String(chunk).trimEnd();
}

const CANCELLABLE = `
  import { cancelOnSignals } from "./cancel.ts";
  const words = { waitingFor: "waiting", leftBehind: "look at both sides" };
  const cancellation = cancelOnSignals((line) => console.log(line), words);
  cancellation.signal.addEventListener("abort", () => console.log(cancellation.signal.reason.message, cancellation.cause));
  setInterval(() => {}, 1000);
  console.log("ready");`;

test.each([
  ["SIGINT", "cancelled by Ctrl-C SIGINT", 130],
  ["SIGTERM", "cancelled by SIGTERM SIGTERM", 143],
  ["SIGHUP", "cancelled by SIGHUP SIGHUP", 129],
] as const)(
  "the first %s cancels, the second is answered, the third ends the process",
  async (signal, reason, code) => {
    const child = start(CANCELLABLE);
    expect(await lineOf(child.stdout)).toBe("ready");
    child.kill(signal);
    expect(await lineOf(child.stdout)).toBe(reason);
    child.kill(signal);
    expect(await lineOf(child.stdout)).toBe("waiting; once more ends godwit at once, whatever it leaves behind");
    const lastWords = text(child.stderr);
    child.kill(signal);
    expect((await once(child, "close"))[0]).toBe(code);
    expect(await lastWords).toBe("godwit: ended at once; look at both sides\n");
  },
);

test("a reader that goes away does not end the process", async () => {
  const child = start(`
    import { openOutputs } from "./output.ts";
    const { stdout, stderr } = openOutputs();
    const timer = setInterval(() => stdout.write("more\\n"), 1);
    process.on("SIGTERM", async () => {
      clearInterval(timer);
      await stdout.drained();
      stderr.write("still here\\n");
      await stderr.drained();
      process.exit(7);
    });
    stdout.write("ready\\n");`);
  await lineOf(child.stdout);
  child.stdout.destroy();
  await once(child.stdout, "close");
  const said = text(child.stderr);
  child.kill("SIGTERM");
  expect((await once(child, "close"))[0]).toBe(7);
  expect(await said).toBe("still here\n");
});

test("a pipe that nobody reads holds nothing up, and gets no more progress than it takes", async () => {
  const child = start(`
    import { openReporter } from "./reporter.ts";
    const reporter = openReporter("destination", true);
    const event = { event: "receiving", elapsedMs: 1.23456, rawBytes: 0, wireBytes: 0, linkBytesPerSecond: 0 };
    for (let count = 0; count < 100_000; count++) reporter.onEvent(event);
    reporter.onEvent({ event: "warning", message: "after much progress" });
    await reporter.drained();`);
  expect(await lineOf(child.stderr)).toBe("godwit: after much progress");
  const lines = (await text(child.stdout)).trimEnd().split("\n");
  expect(lines.length).toBeLessThan(10_000);
  expect(JSON.parse(lines[0]!)).toMatchObject({ event: "receiving", elapsedMs: 1.235 });
  expect(JSON.parse(lines.at(-1)!)).toEqual({ event: "warning", message: "after much progress" });
});
