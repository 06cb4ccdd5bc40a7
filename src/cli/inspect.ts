import { Command } from "commander";
import type { Inspection } from "../stream/inspection.ts";
import { reportLines } from "./inspect-report.ts";
import { inspectFile, nameOf } from "./inspect-stream.ts";
import { openOutputs } from "./output.ts";

const HELP = `
A stream is saved by QEMU (migrate "exec:cat > FILE", or "file:FILE"), or recorded on its way.

Rounds: a stream does not mark where QEMU looked for dirty pages. Between two such looks QEMU sends a page at most once, so a
page that comes again begins a new round, and so do the pages sent after the VM has stopped. There may have been more rounds.

Exit codes:
  0  the stream is complete
  1  it is cut off, or no migration stream
  2  it can't be read (also: wrong options)

Examples:
  godwit inspect vm.stream
  zstd -dc vm.stream.zst | godwit inspect --json - | jq .pages`;

export function inspectCommand(): Command {
  return new Command("inspect")
    .description("show what a saved migration stream holds")
    .argument("<file>", "the saved stream; - for standard input")
    .option("--json", "write one JSON document")
    .option(
      "--zstd",
      "also pack what would be sent with zstd, as `send` does on a slow link; reads at 0.2 GB/s a thread",
    )
    .addHelpText("after", HELP)
    .action(inspect);
}

/** @throws CLI_INSPECT_UNREADABLE, CLI_INSPECT_EMPTY */
async function inspect(path: string, { json, zstd = false }: { json?: true; zstd?: boolean }): Promise<void> {
  const { stdout, stderr } = openOutputs();
  const report = await inspectFile(path, { zstd });
  if (json) stdout.write(`${JSON.stringify(report, null, 2)}\n`);
  else if (report.isStream) stdout.write(`${reportLines(nameOf(path), report).join("\n")}\n`);
  const complaint = complaintOf(report);
  if (complaint) stderr.write(`godwit: ${nameOf(path)} ${complaint}\n`);
  process.exitCode = complaint ? 1 : 0;
}

/** What is wrong with the stream as a whole, if anything is. */
function complaintOf({ isStream, isComplete, bytes, lost }: Inspection): string | undefined {
  if (!isStream) return `is no QEMU migration stream: ${lost[0]?.why ?? `it has only ${bytes} bytes`}`;
  if (!isComplete) return "is cut off: the end of the stream is missing";
  return undefined;
}
