import { spawn } from "node:child_process";

/** Options of {@link run}. */
export interface RunOptions {
  readonly cwd?: string;
  readonly env?: NodeJS.ProcessEnv;
  /** Written to the command's standard input. */
  readonly input?: string;
}

/**
 * Runs a command to its end and returns what it printed.
 *
 * @throws Error with the last lines of its standard error when it cannot be started or ends with another code than 0.
 */
export function run(argv: readonly string[], options: RunOptions = {}): Promise<string> {
  const [command, ...args] = argv as [string, ...string[]];
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd: options.cwd, env: options.env, stdio: "pipe" });
    let stdout = "";
    let stderr = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      stdout += text;
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr = (stderr + text).slice(-4000);
    });
    child.stdin.on("error", () => {}); // a command that ends early says why by its exit code
    child.stdin.end(options.input ?? "");
    child.on("error", (cause) => reject(new Error(`cannot run ${command}`, { cause })));
    child.on("close", (code, signal) => {
      if (code === 0) resolve(stdout);
      else
        reject(new Error(`${argv.join(" ")} ended with ${signal ?? code}: ${(stderr || stdout).trim().slice(-2000)}`));
    });
  });
}
