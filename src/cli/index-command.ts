import Table from "cli-table3";
import { Command } from "commander";
import { indexDisks } from "../migration/index-disks.ts";
import { removeBitmap } from "../qemu/dirty-bitmap.ts";
import { QmpClient } from "../qemu/qmp.ts";
import { IndexStore } from "../store/index-store.ts";
import { stateDirOf } from "../store/state-dir.ts";
import { cancelOnSignals } from "./cancel.ts";
import { exitNow } from "./exit.ts";
import { EXIT, signalExitCode } from "./exit-codes.ts";
import { formatBytes, formatCount, oneLine } from "./format.ts";
import { openIndexReporter } from "./index-view.ts";
import { diskOption, jsonOption, stateDirOption } from "./options.ts";
import { openOutputs } from "./output.ts";

interface IndexOptions {
  qmp?: string;
  stateDir?: string;
  disk?: ReadonlyMap<string, string>;
  json?: true;
}

/** Digits of an id that are shown: enough to tell the indexes of a host from each other. */
const SHOWN_DIGITS = 12;

const HELP = `
An index says what stands on a disk, block by block, so that \`godwit send\` need not send what the destination can read there.
\`send\` builds one by itself and keeps it; built ahead, the migration begins sooner. What did not change since the last time is
not read again: files tell by their times, and a running QEMU notes what its guest writes (in a dirty bitmap that is not kept
with the image, and does not move with the VM).

Exit codes:
  0              all disks are indexed
  1              a disk could not be read to its end, or its index could not be kept
  2              refused: nothing was done (also: wrong options)
  129, 130, 143  ended by SIGHUP, SIGINT (Ctrl-C), SIGTERM: what was read by then is kept

Examples:
  godwit index --qmp /run/vm/qmp.sock
  godwit index --qmp /run/vm/qmp.sock --disk virtio-disk0=/dev/vg/web1 --json
  godwit index list
  godwit index delete 3f7a0b`;

export function indexCommand(): Command {
  const list = new Command("list")
    .description("show the indexes that this host keeps")
    .addOption(stateDirOption())
    .addOption(jsonOption())
    .action((_options, command: Command) => listIndexes(command.optsWithGlobals()));
  const remove = new Command("delete")
    .description("delete indexes; what uses one builds it anew")
    .argument("<id...>", "ids that `list` shows, or how they begin")
    .option("--qmp <path>", "QMP socket of the QEMU that runs the VM: it stops noting what its guest writes")
    .addOption(stateDirOption())
    .action((ids: string[], _options, command: Command) => deleteIndexes(ids, command.optsWithGlobals()));
  return new Command("index")
    .description("look through the disks of a VM ahead of a migration")
    .option("--qmp <path>", "QMP socket of the QEMU that runs the VM")
    .addOption(diskOption())
    .addOption(stateDirOption())
    .addOption(jsonOption())
    .addHelpText("after", HELP)
    .addCommand(list)
    .addCommand(remove)
    .action(index);
}

async function index(options: IndexOptions, command: Command): Promise<void> {
  if (options.qmp === undefined) command.error("error: required option '--qmp <path>' not specified");
  const reporter = openIndexReporter(options.json ?? false);
  let code: number;
  {
    using cancellation = cancelOnSignals(reporter.say, {
      waitingFor: "keeping what was read",
      leftBehind: "the next `godwit index` removes what this one may have left in QEMU: an NBD export, a dirty bitmap",
    });
    const { status } = await indexDisks({
      qmpPath: options.qmp!,
      stateDir: stateDirOf(options.stateDir),
      diskPaths: options.disk,
      signal: cancellation.signal,
      onEvent: reporter.onEvent,
    });
    if (status === "cancelled") code = cancellation.cause ? signalExitCode(cancellation.cause) : EXIT.failed;
    else code = EXIT[status];
  }
  await reporter.drained();
  exitNow(code);
}

async function listIndexes({ stateDir, json }: IndexOptions): Promise<void> {
  const { stdout } = openOutputs();
  const infos = await (await IndexStore.open(stateDirOf(stateDir))).list();
  if (json) {
    for (const { id, about, sizeBytes, hashes, storedBytes, why } of infos) {
      const { vm, vmName, disk, image, savedMs, bitmap } = about ?? {};
      const line = { id, vm, vmName, disk, image, sizeBytes, blocks: hashes, storedBytes, savedMs, bitmap, why };
      stdout.write(`${JSON.stringify(line)}\n`);
    }
    return stdout.drained();
  }
  const table = new Table({
    head: ["id", "VM", "disk", "size", "blocks", "takes", "saved"],
    style: { head: [], border: [] },
  });
  for (const { id, about, sizeBytes, hashes, storedBytes, why } of infos) {
    const shown = id.slice(0, SHOWN_DIGITS);
    if (about === undefined) table.push([shown, { colSpan: 6, content: `is of no use: ${why}` }]);
    else {
      const saved = new Date(about.savedMs).toISOString().slice(0, 16).replace("T", " ");
      const [vm, disk] = [oneLine(about.vmName ?? about.vm), oneLine(about.disk)];
      table.push([shown, vm, disk, formatBytes(sizeBytes), formatCount(hashes), formatBytes(storedBytes), saved]);
    }
  }
  stdout.write(infos.length === 0 ? "no indexes\n" : `${table.toString()}\n`);
  return stdout.drained();
}

/** @throws STORE_INDEX_NONE, STORE_INDEX_AMBIGUOUS, before any is deleted */
async function deleteIndexes(ids: readonly string[], { stateDir, qmp: qmpPath }: IndexOptions): Promise<void> {
  const store = await IndexStore.open(stateDirOf(stateDir));
  const wanted = await store.locate(ids);
  using qmp = qmpPath === undefined ? undefined : await QmpClient.connect(qmpPath);
  const { stdout } = openOutputs();
  for (const index of wanted) {
    const { id, about } = index;
    await store.delete(index);
    if (qmp && about?.bitmap) await removeBitmap(qmp, about.bitmap);
    const what = about === undefined ? "" : `, of disk ${about.disk} of ${about.vmName ?? about.vm}`;
    stdout.write(`deleted ${id.slice(0, SHOWN_DIGITS)}${oneLine(what)}\n`);
  }
  return stdout.drained();
}
