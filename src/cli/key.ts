import { closeSync, fchmodSync, fsyncSync, openSync, unlinkSync, writeSync } from "node:fs";
import { Command } from "commander";
import { GodwitError, messageOf } from "../errors.ts";
import { formatPskFile, generatePsk } from "../wire/psk.ts";

const HELP = `
Both ends need the same key; whoever has it can take or send VMs. Only its owner may be able to read it.

Examples:
  godwit key vm.key && scp -p vm.key host-b:
  godwit key | ssh host-b 'umask 077 && cat > vm.key'`;

export function keyCommand(): Command {
  return new Command("key")
    .description("make a new key for --psk-file")
    .argument("[file]", "where to write it, with mode 0600; to stdout without it or for -", "-")
    .addHelpText("after", HELP)
    .action(key);
}

function key(path: string): void {
  const text = formatPskFile(generatePsk());
  if (path !== "-") return writeNew(path, text);
  try {
    writeSync(1, text);
  } catch (cause) {
    throw notWritten("stdout", cause);
  }
}

/** @throws CLI_KEY_EXISTS, CLI_KEY_NOT_WRITTEN */
function writeNew(path: string, text: string): void {
  let file: number;
  try {
    file = openSync(path, "wx", 0o600);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== "EEXIST") throw notWritten(path, cause);
    const message = `${path} exists already: choose another name, or remove it first if nothing uses it`;
    throw new GodwitError("CLI_KEY_EXISTS", message, { path }, { cause });
  }
  try {
    fchmodSync(file, 0o600); // An odd umask may have taken more than it should.
    writeSync(file, text);
    fsyncSync(file);
  } catch (cause) {
    unlinkSync(path);
    throw notWritten(path, cause);
  } finally {
    closeSync(file);
  }
}

function notWritten(path: string, cause: unknown): GodwitError {
  return new GodwitError("CLI_KEY_NOT_WRITTEN", `the key can't be written: ${messageOf(cause)}`, { path }, { cause });
}
