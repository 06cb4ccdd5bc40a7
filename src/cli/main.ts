import { Command, CommanderError } from "commander";
import packageJson from "../../package.json" with { type: "json" };
import { GodwitError } from "../errors.ts";
import { specificAdviceFor } from "../migration/advice.ts";
import { EXIT, EXIT_CODES_HELP } from "./exit-codes.ts";
import { inspectCommand } from "./inspect.ts";
import { keyCommand } from "./key.ts";
import { errorLine } from "./lines.ts";
import { receiveCommand } from "./receive.ts";
import { replayCommand } from "./replay.ts";
import { sendCommand } from "./send.ts";

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
  .addCommand(keyCommand())
  .addCommand(inspectCommand())
  .addCommand(replayCommand());

/** Usage errors are one line, like all others. */
for (const command of [program, ...program.commands]) {
  const name = command === program ? "godwit" : `godwit ${command.name()}`;
  command.exitOverride().configureOutput({
    outputError: (text, write) => {
      const message = text.replace(/^error: /, "").replaceAll(/\s*\n\s*/g, " ");
      write(`${errorLine(message.trim(), "nothing was changed", `see ${name} --help`)}\n`);
    },
  });
}

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) {
    process.exitCode = error.exitCode === 0 ? 0 : EXIT.refused;
  } else if (error instanceof GodwitError) {
    // The commands that change nothing anyway need not say so.
    const vm = /^(CLI_INSPECT|CLI_REPLAY|CONTROL)_/.test(error.code) ? "" : "nothing was changed";
    process.stderr.write(`${errorLine(error.message, vm, specificAdviceFor(error, "source") ?? "")}\n`);
    process.exitCode = EXIT.refused;
  } else throw error;
}
