import { InvalidArgumentError, Option } from "commander";
import { GodwitError } from "../errors.ts";
import type { CheckpointPlace } from "../migration/checkpoint-take.ts";
import type { DiskPaths } from "../migration/disk-paths.ts";
import { RECONNECT_FOR_MS } from "../migration/link.ts";
import { stateDirOf } from "../store/state-dir.ts";
import { parseAddress } from "../wire/address.ts";
import { parseThreads } from "./compression.ts";
import { parseDuration } from "./duration.ts";
import { parseRate } from "./rate.ts";
import type { SecurityOptions } from "./security-options.ts";
import { parseSize } from "./size.ts";

/** What `send` and `receive` have in common. */
export interface CommonOptions extends SecurityOptions {
  qmp: string;
  json?: true;
  allowOlderQemu?: true;
  disk?: DiskPaths;
  threads?: number;
  deltaCache?: number;
  reconnectFor: number;
}

export function qmpOption(side: "source" | "destination"): Option {
  return new Option("--qmp <path>", `QMP socket of the ${side} QEMU`).makeOptionMandatory();
}

export function addressOption(flags: string, description: string): Option {
  return new Option(flags, description).argParser(parseAddress).makeOptionMandatory();
}

export const jsonOption = () => new Option("--json", "write JSON events, one a line, the summary last");

export const deltaCacheOption = () =>
  new Option(
    "--delta-cache <size>",
    "memory for pages that were sent, of which changes are sent later: 512M, 0 for none (default: 512M, or half of the VM's memory)",
  ).argParser(parseSize);

export const jsonDocumentOption = () => new Option("--json", "write one JSON document");

export const allowOlderQemuOption = () =>
  new Option("--allow-older-qemu", "let the VM go to a QEMU older than its own, which may fail");

/** setTimeout's (Node); what is longer would end at once. */
const MAX_TIMER_MS = 2 ** 31 - 1;

function parseReconnectFor(text: string): number {
  const ms = parseDuration(text, "s");
  if (ms <= MAX_TIMER_MS) return ms;
  throw new GodwitError("CLI_BAD_DURATION", "--reconnect-for is more than 24 days, the most that is allowed", { text });
}

/** Milliseconds. */
export const reconnectForOption = () =>
  new Option(
    "--reconnect-for <s>",
    "how long the other end is waited for when the connection is lost: 90, 10min; 0: not at all",
  )
    .argParser(parseReconnectFor)
    .default(RECONNECT_FOR_MS, "10min");

export const stateDirOption = () =>
  new Option(
    "--state-dir <folder>",
    "what this host keeps: indexes, checkpoints, journals of migrations (default: $GODWIT_STATE_DIR, else /var/lib/godwit for root, $XDG_STATE_HOME/godwit for others)",
  );

/** Repeatable; the value is a map. */
export const diskOption = () =>
  new Option(
    "--disk <node=path>",
    "read that disk of the VM (its id, or a node name) at this path; may be repeated",
  ).argParser((text: string, paths: Map<string, string> = new Map()) => {
    const at = text.indexOf("=");
    const [name, path] = [text.slice(0, Math.max(at, 0)), text.slice(at + 1)];
    if (name === "" || path === "") throw new InvalidArgumentError("give NODE=PATH: a disk and where to read it.");
    if (paths.has(name)) throw new InvalidArgumentError(`disk ${name} is given twice.`);
    return paths.set(name, path);
  });

export const threadsOption = () =>
  new Option(
    "--threads <n>",
    "worker threads for compression; 0: none (default: the cores but one, from 1 to 8)",
  ).argParser(parseThreads);

export const storeSizeOption = () =>
  new Option(
    "--store-size <size>",
    "what all checkpoints of this host may take, those used longest ago going first: 20G (default: a tenth of the file system)",
  ).argParser(parseSize);

export interface StoreOptions {
  stateDir?: string;
  storeSize?: number;
}

export function placeOf({ stateDir, storeSize }: StoreOptions): CheckpointPlace {
  return { stateDir: stateDirOf(stateDir), ...(storeSize !== undefined && { maxBytes: storeSize }) };
}

export const maxBandwidthOption = () =>
  new Option("--max-bandwidth <rate>", "limit for the link while the guest runs: 60M, 60MB, 500Mbit").argParser(
    parseRate,
  );
