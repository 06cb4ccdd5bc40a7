import { Command } from "commander";
import { receiveFromPeer } from "../migration/destination.ts";
import { openCheckpoints } from "../migration/open-checkpoints.ts";
import { stateDirOf } from "../store/state-dir.ts";
import type { Address } from "../wire/address.ts";
import { EXIT_CODES_HELP } from "./exit-codes.ts";
import {
  addressOption,
  allowOlderQemuOption,
  type CommonOptions,
  deltaCacheOption,
  diskOption,
  jsonOption,
  qmpOption,
  reconnectForOption,
  stateDirOption,
  threadsOption,
} from "./options.ts";
import { runToExit } from "./run.ts";
import { addSecurityOptions } from "./security-options.ts";

interface ReceiveOptions extends CommonOptions {
  listen: Address;
  vm?: string;
  once?: true;
  checkpointRefs: boolean;
  stateDir?: string;
}

const HELP = `
Start the destination QEMU like the source's, with \`-incoming defer -S\` added.

Examples:
  godwit receive --qmp /run/vm/qmp.sock --listen 10.0.0.2 --psk-file vm.key
  godwit receive --qmp /run/vm/qmp.sock --listen [::]:7750 --psk-file vm.key --once --json
  godwit receive --qmp /run/vm/qmp.sock --listen 10.0.0.2 --tls-dir /etc/pki --allow-peer host-a --vm web1
${EXIT_CODES_HELP}`;

export function receiveCommand(): Command {
  const command = new Command("receive")
    .description("take a VM that `godwit send` moves here, and run it")
    .addOption(qmpOption("destination"))
    .addOption(addressOption("--listen <address[:port]>", "where to listen; the port is 7747 unless given"));
  return addSecurityOptions(command, "destination")
    .option("--vm <name|uuid>", "take that VM only (default: any that fits the QEMU)")
    .addOption(jsonOption())
    .option("--once", "end after the first attempt, even if it was refused")
    .addOption(threadsOption())
    .option("--no-checkpoint-refs", "take pages whole that stand in a checkpoint which was kept here")
    .addOption(stateDirOption())
    .addOption(deltaCacheOption())
    .addOption(diskOption())
    .addOption(allowOlderQemuOption())
    .addOption(reconnectForOption())
    .addHelpText("after", HELP)
    .action(receive);
}

function receive(options: ReceiveOptions): Promise<never> {
  const words = {
    waitingFor: "waiting until it is settled where the VM is",
    leftBehind:
      "unless the VM runs here, end this QEMU, which may hold a copy of it, and see that the guest goes on at the source",
  };
  return runToExit("destination", options, words, (surroundings) =>
    receiveFromPeer({
      ...surroundings,
      qmpPath: options.qmp,
      listen: options.listen,
      vm: options.vm,
      once: options.once ?? false,
      diskPaths: options.disk,
      openCheckpoints: options.checkpointRefs ? () => openCheckpoints(stateDirOf(options.stateDir)) : undefined,
      deltaCacheBytes: options.deltaCache,
      allowOlderQemu: options.allowOlderQemu ?? false,
      reconnectForMs: options.reconnectFor,
      stateDir: stateDirOf(options.stateDir),
      ...(options.threads !== undefined && { threads: options.threads }),
    }),
  );
}
