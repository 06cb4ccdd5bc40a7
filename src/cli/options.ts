import { Option } from "commander";
import { parseAddress } from "../wire/address.ts";
import { readPskFile } from "../wire/psk.ts";
import type { Security } from "../wire/transport.ts";
import { parseThreads } from "./compression.ts";
import { parseRate } from "./rate.ts";
import { parseSize } from "./size.ts";

/** What `send` and `receive` have in common. */
export interface CommonOptions {
  qmp: string;
  pskFile: string;
  json?: true;
  allowOlderQemu?: true;
  threads?: number;
  deltaCache?: number;
}

export function qmpOption(side: "source" | "destination"): Option {
  return new Option("--qmp <path>", `QMP socket of the ${side} QEMU`).makeOptionMandatory();
}

export function addressOption(flags: string, description: string): Option {
  return new Option(flags, description).argParser(parseAddress).makeOptionMandatory();
}

export const pskFileOption = () =>
  new Option("--psk-file <file>", "key that both ends have (godwit key makes one)").makeOptionMandatory();

export const jsonOption = () => new Option("--json", "write JSON events, one a line, the summary last");

export const deltaCacheOption = () =>
  new Option(
    "--delta-cache <size>",
    "memory for pages that were sent, of which changes are sent later: 512M, 0 for none (default: 512M, or half of the VM's memory)",
  ).argParser(parseSize);

export const allowOlderQemuOption = () =>
  new Option("--allow-older-qemu", "let the VM go to a QEMU older than its own, which may fail");

export const stateDirOption = () =>
  new Option(
    "--state-dir <folder>",
    "what this host keeps: indexes and checkpoints (default: $GODWIT_STATE_DIR, else /var/lib/godwit for root, $XDG_STATE_HOME/godwit for others)",
  );

export const threadsOption = () =>
  new Option(
    "--threads <n>",
    "worker threads for compression; 0: none (default: the cores but one, from 1 to 8)",
  ).argParser(parseThreads);

export const maxBandwidthOption = () =>
  new Option("--max-bandwidth <rate>", "limit for the link while the guest runs: 60M, 60MB, 500Mbit").argParser(
    parseRate,
  );

/** @throws WIRE_PSK_MISSING, WIRE_PSK_PERMISSIONS, WIRE_PSK_FORMAT */
export function securityOf({ pskFile }: CommonOptions): Security {
  return { kind: "psk", psk: readPskFile(pskFile) };
}
