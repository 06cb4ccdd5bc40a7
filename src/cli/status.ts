import { Command } from "commander";
import { listSessions } from "../migration/resolve/resolve.ts";
import { stateDirOf } from "../store/state-dir.ts";
import { jsonDocumentOption, stateDirOption } from "./options.ts";
import { openOutputs } from "./output.ts";
import { statusLines } from "./session-lines.ts";

const HELP = `
A session is one migration, as this end of it has noted. "open" is one that is not settled: a godwit is at it, or \`godwit resolve\` says
what can be done. "VM is": whose the VM is, as far as this end knows.

Examples:
  godwit status
  godwit status --json | jq -r '.[] | select(.settled | not) | .id'`;

export function statusCommand(): Command {
  return new Command("status")
    .description("show the migrations of this host, and who owns their VMs")
    .addOption(stateDirOption())
    .addOption(jsonDocumentOption())
    .addHelpText("after", HELP)
    .action(status);
}

async function status({ stateDir, json }: { stateDir?: string; json?: true }): Promise<void> {
  const folder = stateDirOf(stateDir);
  const sessions = await listSessions(folder);
  const { stdout } = openOutputs();
  stdout.write(json ? `${JSON.stringify(sessions)}\n` : `${statusLines(sessions, folder).join("\n")}\n`);
  await stdout.drained();
}
