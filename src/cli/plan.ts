import { getPriority, setPriority } from "node:os";
import { Command, Option } from "commander";
import { GodwitError, messageOf } from "../errors.ts";
import { type PlanStep, planMigration } from "../migration/plan/plan.ts";
import { stateDirOf } from "../store/state-dir.ts";
import { type Address, parseAddress } from "../wire/address.ts";
import type { ConnectOptions } from "../wire/transport.ts";
import { cancelOnSignals } from "./cancel.ts";
import { complain } from "./complain.ts";
import { EXIT, exitCodeOf } from "./exit-codes.ts";
import { oneLine } from "./format.ts";
import {
  allowOlderQemuOption,
  jsonDocumentOption,
  maxBandwidthOption,
  qmpOption,
  stateDirOption,
  threadsOption,
} from "./options.ts";
import { openOutputs } from "./output.ts";
import { planDocument, planLines, verdictOf } from "./plan-report.ts";
import { openProgressLine } from "./progress-line.ts";
import { addPromiseOptions, type PromiseOptions, promisesOf } from "./promise-options.ts";
import { parseRate } from "./rate.ts";
import { addSecurityOptions, INSECURE, type SecurityOptions, securityOf } from "./security-options.ts";

/** As nice(1) gives it by default. */
const NICENESS = 10;
/** The migration would not come to what was asked for. */
const WILL_NOT_EXIT = 4;

const HELP = `
Looks at the VM and the link for some ten seconds, and says what \`godwit send\` would come to: time, downtime and bytes, each with the
interval in which nine of ten are expected, and whether what is asked for can be kept. Nothing is begun, and nothing is changed; the
guest goes on. With --to, a \`godwit receive\` must listen there: the link to it is filled for a second and a half.

Exit codes:
  0              what is asked for will be kept, or most likely
  1              it could not be measured
  2              refused: the two VMs do not match, the VM can't be migrated, or wrong options
  4              what is asked for will most likely not be kept
  129, 130, 143  cancelled by SIGHUP, SIGINT (Ctrl-C), SIGTERM

Examples:
  godwit plan --qmp /run/vm/qmp.sock --to host-b --psk-file vm.key
  godwit plan --qmp /run/vm/qmp.sock --bandwidth 1Gbit --max-downtime 300
  godwit plan --qmp /run/vm/qmp.sock --bandwidth 10Gbit --json | jq .predicted.downtimeMs`;

interface PlanCommandOptions extends PromiseOptions, SecurityOptions {
  qmp: string;
  to?: Address;
  bandwidth?: number;
  maxBandwidth?: number;
  threads?: number;
  diskRefs: boolean;
  allowOlderQemu?: true;
  stateDir?: string;
  json?: true;
}

const STEPS: Readonly<Record<PlanStep, string>> = {
  link: "measuring the link",
  memory: "looking at some of the guest's memory",
  "dirty-rate": "measuring what the guest writes",
  disks: "looking up what stands on its disks",
  prediction: "predicting",
};

export function planCommand(): Command {
  const command = new Command("plan")
    .description("predict a migration without beginning one")
    .addOption(qmpOption("source"))
    .addOption(new Option("--to <address[:port]>", "where godwit receive listens").argParser(parseAddress))
    .addOption(
      new Option("--bandwidth <rate>", "what the link carries, instead of measuring it: 60M, 60MB, 500Mbit")
        .argParser(parseRate)
        .conflicts("to"),
    )
    .addOption(maxBandwidthOption());
  return addPromiseOptions(addSecurityOptions(command, "source"))
    .option("--no-disk-refs", "as for send: pages are sent whole that stand on a disk of the VM")
    .addOption(threadsOption())
    .addOption(allowOlderQemuOption())
    .addOption(stateDirOption())
    .addOption(jsonDocumentOption())
    .addHelpText("after", HELP)
    .action(plan);
}

/** Behind the link nothing is measured that hangs on our own pace: the guest's vCPUs may want the cores. */
function letOthersGoFirst(): void {
  setPriority(Math.max(NICENESS, getPriority()));
}

async function plan(options: PlanCommandOptions): Promise<void> {
  const promises = promisesOf(options);
  const to = await whereTo(options);
  const { stdout, stderr } = openOutputs();
  if (to?.security.kind === "none") stderr.write(`godwit: ${INSECURE}\n`);
  if (to === undefined) letOthersGoFirst();
  using progress = openProgressLine();
  const words = { waitingFor: "waiting for QEMU's answer", leftBehind: "nothing was changed" };
  using cancellation = cancelOnSignals((line) => stderr.write(`godwit: ${line}\n`), words);
  const { signal } = cancellation;
  try {
    const report = await planMigration({
      qmpPath: options.qmp,
      to,
      bytesPerSecond: options.bandwidth,
      maxBytesPerSecond: options.maxBandwidth,
      promises,
      diskReferences: options.diskRefs,
      stateDir: stateDirOf(options.stateDir),
      threads: options.threads,
      allowOlderQemu: options.allowOlderQemu ?? false,
      signal,
      onWarning: (message) => stderr.write(`godwit: ${oneLine(message)}\n`),
      onStep: (step) => {
        progress.show(`${STEPS[step]} …`);
        if (step === "memory") letOthersGoFirst();
      },
    });
    progress[Symbol.dispose]();
    stdout.write(
      options.json ? `${JSON.stringify(planDocument(report), null, 2)}\n` : `${planLines(report).join("\n")}\n`,
    );
    process.exitCode = verdictOf(report.prediction.asked) === "no" ? WILL_NOT_EXIT : EXIT.completed;
  } catch (error) {
    const isCancelled = signal.aborted && (error === signal.reason || isCancelledConnect(error));
    const what = isCancelled ? new GodwitError("MIGRATION_CANCELLED", messageOf(signal.reason)) : error;
    const code = isRefusal(error) ? EXIT.refused : EXIT.failed;
    complain(what, "nothing was changed", isCancelled ? exitCodeOf("cancelled", cancellation.cause) : code);
  }
}

/** @throws CLI_PLAN_LINK, and what securityOf throws */
async function whereTo(options: PlanCommandOptions): Promise<ConnectOptions | undefined> {
  if (options.to !== undefined) return { ...options.to, security: await securityOf(options, "source") };
  if (options.bandwidth !== undefined) return undefined;
  throw new GodwitError("CLI_PLAN_LINK", "say where to with --to, or what the link carries with --bandwidth");
}

function isCancelledConnect(error: unknown): boolean {
  return error instanceof GodwitError && error.code === "WIRE_CANCELLED";
}

/** What would refuse the migration too. */
function isRefusal(error: unknown): boolean {
  const code = error instanceof GodwitError ? error.code : "";
  return /^(QMP_(WRONG_STATE|CAPABILITY|PARAMETER|NO_SOCKET|REFUSED|PERMISSION|NOT_QMP|BUSY)|PEER_REFUSED|PEER_PAGE_FORMAT|MIGRATION_MISMATCH)$/.test(
    code,
  );
}
