import { Command, CommanderError } from "commander";
import packageJson from "../../package.json" with { type: "json" };
import { checkpointCommand } from "./checkpoint.ts";
import { complain } from "./complain.ts";
import { EXIT, EXIT_CODES_HELP } from "./exit-codes.ts";
import { indexCommand } from "./index-command.ts";
import { inspectCommand } from "./inspect.ts";
import { keyCommand } from "./key.ts";
import { errorLine } from "./lines.ts";
import { planCommand } from "./plan.ts";
import { keepMemoryOutOfDumps } from "./process-limits.ts";
import { receiveCommand } from "./receive.ts";
import { replayCommand } from "./replay.ts";
import { resolveCommand } from "./resolve.ts";
import { sendCommand } from "./send.ts";
import { statusCommand } from "./status.ts";

const HELP = `
Examples:
  godwit key vm.key                                                       # once; both hosts need it
  godwit receive --qmp dst.qmp --listen 10.0.0.2 --psk-file vm.key        # on host B
  godwit send    --qmp src.qmp --to 10.0.0.2     --psk-file vm.key        # on host A
${EXIT_CODES_HELP}

docs/commands.md has the rest: the live view, the JSON events, what is measured.`;

const program = new Command("godwit")
  .description("Moves a running QEMU/KVM virtual machine to another host.")
  .version(packageJson.version)
  .addHelpText("after", HELP)
  .addCommand(sendCommand())
  .addCommand(receiveCommand())
  .addCommand(statusCommand())
  .addCommand(resolveCommand())
  .addCommand(checkpointCommand())
  .addCommand(keyCommand())
  .addCommand(indexCommand())
  .addCommand(inspectCommand())
  .addCommand(planCommand())
  .addCommand(replayCommand());

/** Usage errors are one line, like all others. */
function configure(command: Command, name: string): void {
  command.exitOverride().configureOutput({
    outputError: (text, write) => {
      const message = text.replace(/^error: /, "").replaceAll(/\s*\n\s*/g, " ");
      write(`${errorLine(message.trim(), "nothing was changed", `see ${name} --help`)}\n`);
    },
  });
  for (const child of command.commands) configure(child, `${name} ${child.name()}`);
}
configure(program, "godwit");
keepMemoryOutOfDumps();

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) {
    process.exitCode = error.exitCode === 0 ? 0 : EXIT.refused;
  } else {
    // The commands that change nothing anyway need not say so.
    const isHarmless = ["inspect", "replay"].includes(process.argv[2] ?? "");
    complain(error, isHarmless ? "" : "nothing was changed", EXIT.refused);
  }
}
