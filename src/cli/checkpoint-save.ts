import { Command, Option } from "commander";
import { GodwitError, messageOf } from "../errors.ts";
import { saveCheckpoint } from "../migration/checkpoint-save.ts";
import { cancelOnSignals } from "./cancel.ts";
import { savedLine } from "./checkpoint-report.ts";
import { complain } from "./complain.ts";
import { EXIT, exitCodeOf } from "./exit-codes.ts";
import { formatBytes, oneLine } from "./format.ts";
import { jsonDocumentOption, placeOf, type StoreOptions, stateDirOption, storeSizeOption } from "./options.ts";
import { openOutputs } from "./output.ts";
import { openProgressLine } from "./progress-line.ts";

const HELP = `
QEMU migrates the VM to godwit, which gives that up when it has seen every page: the guest is not stopped, but by a QEMU before
8.1 for some ms. What the guest writes meanwhile may be missing. A VM that is paused, or has left, is read as it stands.

Examples:
  godwit checkpoint save --qmp /run/vm/qmp.sock
  godwit checkpoint save --qmp /run/vm/qmp.sock --json | jq .stoppedMs`;

interface SaveOptions extends StoreOptions {
  qmp: string;
  json?: true;
}

export function checkpointSaveCommand(): Command {
  return new Command("save")
    .description("save a checkpoint of a VM, which goes on as before")
    .addOption(new Option("--qmp <path>", "QMP socket of the VM's QEMU").makeOptionMandatory())
    .addOption(stateDirOption())
    .addOption(storeSizeOption())
    .addOption(jsonDocumentOption())
    .addHelpText("after", HELP)
    .action(save);
}

async function save(options: SaveOptions): Promise<void> {
  const { stdout, stderr } = openOutputs();
  using progress = openProgressLine();
  const words = {
    waitingFor: "waiting for QEMU to be as before",
    leftBehind: "QEMU may be left with other migration settings",
  };
  using cancellation = cancelOnSignals((line) => stderr.write(`godwit: ${line}\n`), words);
  try {
    const saved = await saveCheckpoint({
      qmpPath: options.qmp,
      place: placeOf(options),
      signal: cancellation.signal,
      onWarning: (message) => stderr.write(`godwit: ${oneLine(message)}\n`),
      onProgress: (done, total) => progress.show(`saving: ${formatBytes(done)} of ${formatBytes(total)}`),
    });
    const { checkpoint, ...times } = saved;
    stdout.write(options.json ? `${JSON.stringify({ ...checkpoint, ...times }, null, 2)}\n` : `${savedLine(saved)}\n`);
  } catch (error) {
    const isCancelled = cancellation.signal.aborted && error === cancellation.signal.reason;
    const what = isCancelled ? new GodwitError("MIGRATION_CANCELLED", messageOf(error)) : error;
    const code = error instanceof GodwitError && error.code === "STORE_STATE_DIR" ? EXIT.refused : EXIT.failed;
    complain(what, consequenceOf(error), isCancelled ? exitCodeOf("cancelled", cancellation.cause) : code);
  }
}

/** What a failure means for the VM. */
function consequenceOf(error: unknown): string {
  const code = error instanceof GodwitError ? error.code : "";
  if (code === "QMP_CLOSED" || code === "MIGRATION_NOT_RESUMED")
    return "no checkpoint was saved, and the VM may not run";
  return "no checkpoint was saved, and the VM is as before";
}
