import { Command } from "commander";
import { GodwitError } from "../errors.ts";
import { openCheckpoints } from "../migration/open-checkpoints.ts";
import type { CheckpointInfo } from "../store/checkpoint-folder.ts";
import type { CheckpointStore } from "../store/checkpoint-store.ts";
import { checkLine, deletedLine, freedLine, listLines, showLines } from "./checkpoint-report.ts";
import { checkpointSaveCommand } from "./checkpoint-save.ts";
import { complain } from "./complain.ts";
import { EXIT } from "./exit-codes.ts";
import { formatCount } from "./format.ts";
import { jsonDocumentOption, placeOf, type StoreOptions, stateDirOption, storeSizeOption } from "./options.ts";
import { openOutputs } from "./output.ts";
import { openProgressLine } from "./progress-line.ts";

const HELP = `
A checkpoint is the memory of a VM at a moment. When the VM comes back to this host, pages that are still the same are read
from it, and not sent. \`godwit send\` keeps one by itself. All of it is a cache: deleting checkpoints is always safe.

ID is what \`list\` shows, or its first digits.

Exit codes:
  0              done
  1              it failed; check: something is damaged
  2              nothing was done: wrong options, no such checkpoint, no access to the state folder
  129, 130, 143  save: cancelled by SIGHUP, SIGINT (Ctrl-C), SIGTERM

Examples:
  godwit checkpoint save --qmp /run/vm/qmp.sock        # of a VM that runs, and runs on
  godwit checkpoint list
  godwit checkpoint check && godwit checkpoint gc --store-size 20G
  godwit checkpoint delete 3fa9 c07d
  godwit checkpoint list --json | jq -r '.checkpoints[] | select(.vmName == "web1") | .id'`;

interface Options extends StoreOptions {
  json?: true;
}

export function checkpointCommand(): Command {
  const command = new Command("checkpoint")
    .description("the memory of VMs, kept here for when they come back")
    .addHelpText("after", HELP)
    .addCommand(checkpointSaveCommand());
  const add = (usage: string, description: string) =>
    command.command(usage).description(description).addOption(stateDirOption()).addOption(jsonDocumentOption());
  add("list", "show all checkpoints").action(list);
  add("show <id>", "show one checkpoint").action(show);
  add("check [id...]", "read checkpoints, all if none is named, and compare every page with its checksums").action(
    check,
  );
  add("delete <id...>", "delete checkpoints").action(remove);
  add("gc", "remove what no checkpoint needs and, if the store is above its size, the checkpoints used longest ago")
    .addOption(storeSizeOption())
    .action(gc);
  return command;
}

async function list(options: Options): Promise<void> {
  const store = await openStore(options);
  const checkpoints = await store.list();
  const storedBytes = await store.storedBytes();
  print(options, { path: store.path, storedBytes, checkpoints }, listLines(checkpoints, storedBytes, store.path));
}

async function show(prefix: string, options: Options): Promise<void> {
  const store = await openStore(options);
  const { id } = await store.find(prefix);
  const checkpoint = (await store.list()).find((listed) => listed.id === id);
  if (checkpoint === undefined)
    throw new GodwitError("STORE_CHECKPOINT_NONE", `checkpoint ${id} has just gone`, { id });
  print(options, checkpoint, showLines(checkpoint));
}

async function check(prefixes: readonly string[], options: Options): Promise<void> {
  const store = await openStore(options);
  const checkpoints: readonly CheckpointInfo[] =
    prefixes.length > 0 ? await findAll(store, prefixes) : await store.list();
  const checks = [];
  for (const { id } of checkpoints) {
    using progress = openProgressLine();
    const onProgress = (pages: number, of: number) =>
      progress.show(`checking ${id}: ${formatCount(pages)} of ${formatCount(of)} pages`);
    checks.push(await store.check(id, onProgress));
  }
  print(options, { checks }, checks.length > 0 ? checks.map(checkLine) : ["there are no checkpoints"]);
  if (checks.some(({ problems }) => problems.length > 0)) process.exitCode = EXIT.failed;
}

async function remove(prefixes: readonly string[], options: Options): Promise<void> {
  const store = await openStore(options);
  const wanted = await findAll(store, prefixes);
  const deleted: string[] = [];
  let freedBytes = 0;
  try {
    for (const { id } of wanted) {
      freedBytes += (await store.delete(id)).freedBytes;
      deleted.push(id);
    }
  } catch (error) {
    complain(error, `${deleted.length} of ${wanted.length} checkpoints were deleted`, EXIT.failed);
  }
  print(options, { deleted, freedBytes }, deleted.map(deletedLine).concat(freedLine({ freedBytes, busyVms: 0 })));
}

async function gc(options: Options): Promise<void> {
  const store = await openStore(options);
  try {
    const freed = await store.gc();
    print(options, { ...freed, storedBytes: await store.storedBytes(), maxBytes: store.maxBytes }, [freedLine(freed)]);
  } catch (error) {
    complain(error, "something may have been removed already", EXIT.failed);
  }
}

function openStore(options: Options): Promise<CheckpointStore> {
  const { stateDir, ...size } = placeOf(options);
  return openCheckpoints(stateDir, size);
}

/** Each once. @throws STORE_CHECKPOINT_NONE, STORE_CHECKPOINT_AMBIGUOUS */
async function findAll(store: CheckpointStore, prefixes: readonly string[]): Promise<CheckpointInfo[]> {
  const found = new Map<string, CheckpointInfo>();
  for (const prefix of prefixes) {
    const info = await store.find(prefix);
    found.set(info.id, info);
  }
  return [...found.values()];
}

/** One JSON document, or lines for people. */
function print({ json }: Options, document: object, lines: readonly string[]): void {
  openOutputs().stdout.write(json ? `${JSON.stringify(document, null, 2)}\n` : `${lines.join("\n")}\n`);
}
