import { Command, InvalidArgumentError, Option } from "commander";
import { indexCheckpoint, indexImages, type SavedImage } from "../migration/saved-places.ts";
import { isImageFormat } from "../qemu/disks.ts";
import { stateDirOf } from "../store/state-dir.ts";
import type { Inspection } from "../stream/inspection.ts";
import { reportLines } from "./inspect-report.ts";
import { inspectFile, nameOf } from "./inspect-stream.ts";
import { stateDirOption } from "./options.ts";
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
  godwit inspect vm.stream --disk vm.raw                # what of it stands on the disk
  godwit inspect vm.stream --disk qcow2:vm.qcow2 --zstd
  godwit inspect vm.stream --checkpoint 3f2a            # what of it this host has kept
  zstd -dc vm.stream.zst | godwit inspect --json - | jq .pages`;

export function inspectCommand(): Command {
  return new Command("inspect")
    .description("show what a saved migration stream holds")
    .argument("<file>", "the saved stream; - for standard input")
    .option("--json", "write one JSON document")
    .addOption(imageOption())
    .option(
      "--checkpoint <id>",
      "send pages that stand in this checkpoint (godwit checkpoint list) as references to it",
    )
    .addOption(stateDirOption())
    .option(
      "--zstd",
      "also pack what would be sent with zstd, as `send` does on a slow link; reads at 0.2 GB/s a thread",
    )
    .addHelpText("after", HELP)
    .action(inspect);
}

interface InspectArguments {
  json?: true;
  zstd?: true;
  disk?: SavedImage[];
  checkpoint?: string;
  stateDir?: string;
}

/** Repeatable; a format is named, never guessed from what a guest may have written. */
function imageOption(): Option {
  return new Option(
    "--disk <[format:]path>",
    "send pages that stand on this disk as references to it; raw unless a format is given: qcow2:vm.img; may be repeated",
  ).argParser((text: string, images: SavedImage[] = []) => {
    const [, format = "raw", path = text] = /^([a-z0-9]+):(.+)$/.exec(text) ?? [];
    if (path === "") throw new InvalidArgumentError("give a path.");
    if (!isImageFormat(format)) throw new InvalidArgumentError(`${format} is no format of images.`);
    return [...images, { format, path }];
  });
}

/** @throws CLI_INSPECT_UNREADABLE, CLI_INSPECT_EMPTY, and what indexImages and indexCheckpoint throw */
async function inspect(path: string, args: InspectArguments): Promise<void> {
  const { json, zstd = false, disk = [], checkpoint } = args;
  const { stdout, stderr } = openOutputs();
  const kept = checkpoint === undefined ? undefined : await indexCheckpoint(stateDirOf(args.stateDir), checkpoint);
  const places = [kept, await indexImages(disk)].filter((each) => each !== undefined);
  const report = await inspectFile(path, { zstd, places });
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
