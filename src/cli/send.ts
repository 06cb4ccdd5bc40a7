import { Command, Option } from "commander";
import { NONE, type Packing } from "../compact/codec.ts";
import { POLICIES } from "../control/policies/all.ts";
import { migrateToPeer } from "../migration/source.ts";
import { assertTraceWritable } from "../migration/trace-recorder.ts";
import { stateDirOf } from "../store/state-dir.ts";
import type { Address } from "../wire/address.ts";
import { parseCompression } from "./compression.ts";
import { EXIT_CODES_HELP } from "./exit-codes.ts";
import {
  addressOption,
  allowOlderQemuOption,
  type CommonOptions,
  deltaCacheOption,
  diskOption,
  jsonOption,
  maxBandwidthOption,
  placeOf,
  qmpOption,
  reconnectForOption,
  type StoreOptions,
  stateDirOption,
  storeSizeOption,
  threadsOption,
} from "./options.ts";
import { addPromiseOptions, type PromiseOptions, promisesOf } from "./promise-options.ts";
import { runToExit } from "./run.ts";
import { addSecurityOptions } from "./security-options.ts";

interface SendOptions extends CommonOptions, StoreOptions, PromiseOptions {
  to: Address;
  maxBandwidth?: number;
  /** false: --no-compress. */
  compress: "auto" | Packing | false;
  diskRefs: boolean;
  checkpointRefs: boolean;
  policy: string;
  trace?: string;
  keepCheckpoint: boolean;
  quit?: true;
}

const HELP = `
Rates: a plain number is bytes per second; K, M, G (or KiB, MiB, GiB) are powers of 1024,
kB, MB, GB of 1000; kbit, Mbit, Gbit are bits.

Examples:
  godwit send --qmp /run/vm/qmp.sock --to host-b --psk-file vm.key
  godwit send --qmp /run/vm/qmp.sock --to 10.0.0.2:7750 --psk-file vm.key --max-bandwidth 500Mbit --quit
  godwit send --qmp /run/vm/qmp.sock --to host-b --tls-dir /etc/pki --json | tail -n 1
  godwit send --qmp /run/vm/qmp.sock --to host-b --psk-file vm.key --max-downtime 300 --on-stall throttle
  godwit send --qmp /run/vm/qmp.sock --to host-b --psk-file vm.key --deadline 10min --trace web1.trace
${EXIT_CODES_HELP}`;

export function sendCommand(): Command {
  const command = new Command("send")
    .description("move a VM from here to the `godwit receive` on another host")
    .addOption(qmpOption("source"))
    .addOption(addressOption("--to <address[:port]>", "where godwit receive listens; the port is 7747 unless given"));
  addSecurityOptions(command, "source")
    .addOption(jsonOption())
    .addOption(maxBandwidthOption())
    .addOption(compressOption())
    .option("--no-compress", "the same as --compress none")
    .addOption(threadsOption())
    .option("--no-disk-refs", "send pages whole that stand on a disk of the VM")
    .addOption(diskOption())
    .option("--no-checkpoint-refs", "send pages whole that stand in a checkpoint which the destination has kept")
    .addOption(deltaCacheOption())
    .addOption(allowOlderQemuOption())
    .addOption(reconnectForOption())
    .option("--keep-checkpoint", "keep the VM's memory here once it has left, for when it comes back", true)
    .option("--no-keep-checkpoint", "keep nothing of it")
    .addOption(stateDirOption())
    .addOption(storeSizeOption())
    .option("--quit", "end the source QEMU once the VM is at the destination");
  return addPromiseOptions(command)
    .addOption(policyOption())
    .option("--trace <file>", "record the migration, for godwit replay")
    .addHelpText("after", HELP)
    .action(send);
}

const policyOption = () =>
  new Option("--policy <name>", "what decides when the VM is switched over: godwit's own, or what others ship")
    .choices(Object.keys(POLICIES))
    .default("adaptive");

const compressOption = () =>
  new Option("--compress <codec>", "auto (by what is the bottleneck), none, lz4, zstd or zstd:LEVEL")
    .argParser(parseCompression)
    .default("auto" as const);

/** @throws CONTROL_BAD_LIMIT where what is asked for makes no sense; MIGRATION_TRACE_UNWRITABLE */
async function send(options: SendOptions): Promise<never> {
  if (options.trace !== undefined) await assertTraceWritable(options.trace);
  const promises = promisesOf(options, options.policy);
  const words = {
    waitingFor: "waiting until it is settled where the VM is",
    leftBehind:
      "the guest may be stopped here: unless the VM runs at the destination, end the QEMU there and type `cont` in the monitor here",
  };
  return runToExit("source", options, words, (surroundings) =>
    migrateToPeer({
      ...surroundings,
      qmpPath: options.qmp,
      to: options.to,
      maxBytesPerSecond: options.maxBandwidth,
      packing: options.compress || NONE,
      ...(options.threads !== undefined && { threads: options.threads }),
      diskReferences: options.diskRefs,
      diskPaths: options.disk,
      stateDir: stateDirOf(options.stateDir),
      checkpointReferences: options.checkpointRefs,
      deltaCacheBytes: options.deltaCache,
      policy: options.policy,
      promises,
      tracePath: options.trace,
      keepCheckpoint: options.keepCheckpoint ? placeOf(options) : undefined,
      allowOlderQemu: options.allowOlderQemu ?? false,
      reconnectForMs: options.reconnectFor,
      quit: options.quit ?? false,
    }),
  );
}
