import { Command, Option } from "commander";
import { GodwitError } from "../errors.ts";
import type { Deed } from "../migration/resolve/advice.ts";
import { resolveSession } from "../migration/resolve/resolve.ts";
import { stateDirOf } from "../store/state-dir.ts";
import { type Address, parseAddress } from "../wire/address.ts";
import { complain } from "./complain.ts";
import { EXIT } from "./exit-codes.ts";
import { jsonDocumentOption, stateDirOption } from "./options.ts";
import { openOutputs } from "./output.ts";
import { addSecurityOptions, type SecurityOptions, securityOf } from "./security-options.ts";
import { resolutionLines } from "./session-lines.ts";

interface ResolveOptions extends SecurityOptions {
  to?: Address;
  resumeSource?: true;
  runDestination?: true;
  close?: true;
  iKnow?: true;
  qmp?: string;
  stateDir?: string;
  json?: true;
}

/** For how long the destination is tried to be reached. */
const ASK_MS = 10_000;

const HELP = `
ID is what \`godwit status\` shows, or its first digits; ID.source or ID.destination where both ends are on this host. Without an
action nothing is changed. What needs --i-know can't be known from here: look at the other host first. Never let both run.

Exit codes:
  0  explained, or done
  1  it was begun and did not come to its end: QEMU did not do it
  2  nothing was done: not safe, not vouched for, no such session, a godwit is at it

Examples:
  godwit resolve 3fa94c01
  godwit resolve 3fa94c01 --resume-source --psk-file vm.key     # asks the destination
  godwit resolve 3fa94c01 --run-destination --i-know --qmp /run/vm/qmp.sock
  godwit resolve 3fa94c01 --close                               # its QEMU has ended`;

export function resolveCommand(): Command {
  const command = new Command("resolve")
    .description("say who owns the VM of a migration that has not ended, and settle it")
    .argument("<id>", "the session")
    .addOption(new Option("--resume-source", "let the guest go on here, at the source").conflicts("runDestination"))
    .addOption(new Option("--run-destination", "let the guest run here, at the destination"))
    .addOption(
      new Option("--close", "note that nothing is left to do at this end").conflicts([
        "resumeSource",
        "runDestination",
      ]),
    )
    .option("--i-know", "vouch for what can't be known from here")
    .option("--qmp <path>", "QMP socket of this end's QEMU (default: where it was)")
    .addOption(
      new Option("--to <address[:port]>", "where the destination listens (default: where it did)").argParser(
        parseAddress,
      ),
    );
  return addSecurityOptions(command, "source")
    .addOption(stateDirOption())
    .addOption(jsonDocumentOption())
    .addHelpText("after", HELP)
    .action(resolve);
}

function actionOf({ resumeSource, runDestination, close }: ResolveOptions): Deed | null {
  if (resumeSource) return "resume-source";
  if (runDestination) return "run-destination";
  return close ? "close" : null;
}

/** How to ask the destination, if it may be asked. @throws what securityOf throws */
async function askOf(options: ResolveOptions) {
  if (!(options.pskFile ?? options.tlsDir ?? options.insecureNoTls)) return undefined;
  const security = await securityOf(options, "source");
  return { security, reconnectForMs: ASK_MS, ...(options.to && { to: options.to }) };
}

async function resolve(id: string, options: ResolveOptions): Promise<void> {
  const { stdout, stderr } = openOutputs();
  const action = actionOf(options);
  const ask = await askOf(options);
  try {
    const resolution = await resolveSession({
      stateDir: stateDirOf(options.stateDir),
      id,
      action,
      iKnow: options.iKnow ?? false,
      qmpPath: options.qmp,
      ask,
      warn: (message) => stderr.write(`godwit: ${message}\n`),
    });
    stdout.write(options.json ? `${JSON.stringify(resolution)}\n` : `${resolutionLines(resolution).join("\n")}\n`);
  } catch (error) {
    const wasBegun =
      error instanceof GodwitError &&
      !/^(STORE_SESSION|STORE_STATE|STORE_BUSY|STORE_JOURNAL|MIGRATION_UNSAFE|MIGRATION_NOT_VOUCHED)/.test(error.code);
    if (wasBegun) complain(error, "look at `godwit resolve` once more before anything else", EXIT.failed);
    else complain(error, "nothing was changed", EXIT.refused);
  }
  await stdout.drained();
}
