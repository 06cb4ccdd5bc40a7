/**
 * The QMP commands and events that godwit uses, as QEMU's qapi/*.json declares them. Members that godwit does not read
 * are left out; members that only newer QEMUs have are optional.
 */

/** qapi/run-state.json, RunState. */
export type RunState =
  | "debug"
  | "inmigrate"
  | "internal-error"
  | "io-error"
  | "paused"
  | "postmigrate"
  | "prelaunch"
  | "finish-migrate"
  | "restore-vm"
  | "running"
  | "save-vm"
  | "shutdown"
  | "suspended"
  | "watchdog"
  | "guest-panicked"
  | "colo";

/** qapi/migration.json, MigrationStatus. */
export type MigrationStatus =
  | "none"
  | "setup"
  | "cancelling"
  | "cancelled"
  | "active"
  | "postcopy-device"
  | "postcopy-active"
  | "postcopy-paused"
  | "postcopy-recover-setup"
  | "postcopy-recover"
  | "completed"
  | "failing"
  | "failed"
  | "colo"
  | "pre-switchover"
  | "device"
  | "wait-unplug";

/** qapi/control.json, VersionInfo. */
export interface VersionInfo {
  readonly qemu: { readonly major: number; readonly minor: number; readonly micro: number };
  readonly package: string;
}

/** qapi/block-core.json, BlockInfo. */
export interface BlockInfo {
  /** Name of a `-drive`; empty for a device that uses a `-blockdev`. */
  readonly device: string;
  /** Id of the device, or its QOM path if it has none; absent for a drive that no device uses. */
  readonly qdev?: string;
  readonly removable: boolean;
  /** Absent while there is no medium. */
  readonly inserted?: BlockDeviceInfo;
}

/** qapi/block-core.json, BlockDeviceInfo. */
export interface BlockDeviceInfo {
  readonly file: string;
  readonly "node-name"?: string;
  readonly ro: boolean;
  readonly drv: string;
  readonly image: ImageInfo;
  readonly "dirty-bitmaps"?: readonly BlockDirtyInfo[];
}

/** qapi/block-core.json, BlockDirtyInfo. */
export interface BlockDirtyInfo {
  readonly name?: string;
  /** Bytes that it has marked. */
  readonly count: number;
  /** Whether it notes writes. */
  readonly recording: boolean;
}

/** qapi/block-core.json, ImageInfo. */
export interface ImageInfo {
  /** A plain name if that alone opens the image as it is open here, else `json:` and all options that matter. */
  readonly filename: string;
  readonly format: string;
  readonly "virtual-size": number;
  readonly "backing-image"?: ImageInfo;
  /** For qcow2, `data-file` may name a file that holds the content. */
  readonly "format-specific"?: { readonly data?: { readonly "data-file"?: string } };
}

/** qapi/block-export.json, BlockExportOptions of an NBD export. */
export interface NbdExportOptions {
  readonly type: "nbd";
  readonly id: string;
  readonly "node-name": string;
  readonly name: string;
  readonly writable: boolean;
  /** Dirty bitmaps of the node, disabled ones, to offer as metadata contexts. */
  readonly bitmaps?: readonly string[];
}

/** qapi/block-core.json, BlockDirtyBitmap. */
export interface DirtyBitmapName {
  readonly node: string;
  readonly name: string;
}

/** qapi/migration.json, MigrationInfo. Times in milliseconds. */
export interface MigrationInfo {
  /** Absent before the first migration. */
  readonly status?: MigrationStatus;
  readonly ram?: MigrationRamInfo;
  /** Pages sent with XBZRLE, and compressed (before 9.1); both only where that is switched on. */
  readonly "xbzrle-cache"?: { readonly pages: number };
  readonly compression?: { readonly pages: number };
  readonly "total-time"?: number;
  readonly "expected-downtime"?: number;
  readonly downtime?: number;
  readonly "setup-time"?: number;
  readonly "cpu-throttle-percentage"?: number;
  readonly "error-desc"?: string;
  readonly "blocked-reasons"?: readonly string[];
  /** Where an incoming migration listens. */
  readonly "socket-address"?: readonly { readonly type: string }[];
}

/** qapi/migration.json, MigrationStats ("MigrationRAM" in later versions). */
export interface MigrationRamInfo {
  readonly transferred: number;
  readonly remaining: number;
  readonly total: number;
  /** Pages of zeros. */
  readonly duplicate: number;
  readonly normal: number;
  readonly "normal-bytes": number;
  readonly "dirty-pages-rate": number;
  readonly mbps: number;
  readonly "dirty-sync-count": number;
  readonly "page-size": number;
}

/** qapi/machine.json, MemoryDeviceInfo: memory that is plugged in as a device, of which `memdev` (a QOM path) is the backend. */
export interface MemoryDevice {
  readonly type: string;
  /** Bytes; `max-size` of a virtio-mem only, whose `size` is what the guest has plugged of it by now. */
  readonly data: { readonly memdev?: string; readonly size?: number; readonly "max-size"?: number };
}

/** qapi/migration.json, DirtyRateInfo. */
export interface DirtyRateInfo {
  readonly status: "unstarted" | "measuring" | "measured";
  /** MiB per second, cut off to whole ones. Absent until it is measured. */
  readonly "dirty-rate"?: number;
  readonly "calc-time": number;
  /** Since 8.2; before it, seconds. */
  readonly "calc-time-unit"?: "second" | "millisecond";
  /** Per GiB; 0 in other modes. */
  readonly "sample-pages": number;
  readonly mode: "page-sampling" | "dirty-ring" | "dirty-bitmap";
}

/** One entry of query-migrate-capabilities. A string: every QEMU has others. */
export interface MigrationCapabilityState {
  readonly capability: string;
  readonly state: boolean;
}

/** qapi/migration.json, MigrationParameters, as far as godwit reads or sets them. */
export interface MigrationParameters {
  /** Milliseconds. */
  readonly "downtime-limit"?: number;
  /** Bytes per second; 0 is no limit. */
  readonly "max-bandwidth"?: number;
  /** Bytes per second; 0 lets QEMU estimate. Since 8.2. */
  readonly "avail-switchover-bandwidth"?: number;
  readonly "cpu-throttle-initial"?: number;
  readonly "cpu-throttle-increment"?: number;
  readonly "cpu-throttle-tailslow"?: boolean;
  readonly "max-cpu-throttle"?: number;
  readonly "throttle-trigger-threshold"?: number;
  readonly "announce-initial"?: number;
  readonly "announce-max"?: number;
  readonly "announce-rounds"?: number;
  readonly "announce-step"?: number;
  /** The id of an object; empty for none. */
  readonly "tls-creds"?: string;
  /** Since 8.2. */
  readonly mode?: string;
}

type None = Readonly<Record<string, never>>;
type NoArguments = None | undefined;

/** A command's arguments and what it returns; `arguments` includes undefined where none are needed. */
export interface QmpCommands {
  qmp_capabilities: { arguments: { enable?: readonly string[] } | undefined; returns: None };
  "query-commands": { arguments: NoArguments; returns: readonly { readonly name: string }[] };
  "query-version": { arguments: NoArguments; returns: VersionInfo };
  "query-status": { arguments: NoArguments; returns: { readonly running: boolean; readonly status: RunState } };
  "query-name": { arguments: NoArguments; returns: { readonly name?: string } };
  "query-uuid": { arguments: NoArguments; returns: { readonly UUID: string } };
  "query-machines": {
    arguments: NoArguments;
    returns: readonly { readonly name: string; readonly alias?: string; readonly "is-default"?: boolean }[];
  };
  "query-memory-size-summary": {
    arguments: NoArguments;
    returns: { readonly "base-memory": number; readonly "plugged-memory"?: number };
  };
  /** A backend without an id was not made with -object (since 5.0 the machine's own has one too). */
  "query-memdev": { arguments: NoArguments; returns: readonly { readonly id?: string }[] };
  "query-memory-devices": { arguments: NoArguments; returns: readonly MemoryDevice[] };
  "query-cpus-fast": {
    arguments: NoArguments;
    returns: readonly { readonly "cpu-index": number; readonly "qom-path": string; readonly "thread-id": number }[];
  };
  "query-block": { arguments: NoArguments; returns: readonly BlockInfo[] };
  "query-named-block-nodes": { arguments: { flat?: boolean } | undefined; returns: readonly BlockDeviceInfo[] };
  "query-migrate": { arguments: NoArguments; returns: MigrationInfo };
  "query-migrate-capabilities": { arguments: NoArguments; returns: readonly MigrationCapabilityState[] };
  "migrate-set-capabilities": {
    arguments: { capabilities: readonly MigrationCapabilityState[] };
    returns: None;
  };
  "query-migrate-parameters": { arguments: NoArguments; returns: MigrationParameters };
  "migrate-set-parameters": { arguments: MigrationParameters; returns: None };
  "calc-dirty-rate": {
    arguments: {
      "calc-time": number;
      "calc-time-unit"?: "second" | "millisecond";
      "sample-pages"?: number;
      mode?: DirtyRateInfo["mode"];
    };
    returns: None;
  };
  "query-dirty-rate": { arguments: NoArguments; returns: DirtyRateInfo };
  "nbd-server-start": {
    arguments: { addr: { readonly type: "unix"; readonly data: { readonly path: string } } };
    returns: None;
  };
  "nbd-server-stop": { arguments: NoArguments; returns: None };
  "block-export-add": { arguments: NbdExportOptions; returns: None };
  "block-export-del": { arguments: { id: string; mode?: "safe" | "hard" }; returns: None };
  "block-dirty-bitmap-remove": { arguments: DirtyBitmapName; returns: None };
  "block-dirty-bitmap-add": { arguments: DirtyBitmapName; returns: None };
  "block-dirty-bitmap-disable": { arguments: DirtyBitmapName; returns: None };
  "block-dirty-bitmap-enable": { arguments: DirtyBitmapName; returns: None };
  "block-dirty-bitmap-merge": {
    arguments: { node: string; target: string; bitmaps: readonly string[] };
    returns: None;
  };
  "query-block-exports": { arguments: NoArguments; returns: readonly { readonly id: string }[] };
  "human-monitor-command": { arguments: { readonly "command-line": string }; returns: string };
  /** Writes `size` bytes of guest-physical memory from `val` on into a file, which is made anew. */
  pmemsave: {
    arguments: { readonly val: number; readonly size: number; readonly filename: string };
    returns: None;
  };
  migrate: { arguments: { uri: string; resume?: boolean }; returns: None };
  migrate_cancel: { arguments: NoArguments; returns: None };
  "migrate-continue": { arguments: { state: "pre-switchover" }; returns: None };
  /** With exit-on-error false (since 9.1) a QEMU that could not load the VM lives on, to say why by error-desc. */
  "migrate-incoming": { arguments: { uri: string; "exit-on-error"?: boolean }; returns: None };
  cont: { arguments: NoArguments; returns: None };
  stop: { arguments: NoArguments; returns: None };
  quit: { arguments: NoArguments; returns: None };
  "qom-get": { arguments: { path: string; property: string }; returns: unknown };
  "qom-list": {
    arguments: { path: string };
    returns: readonly { readonly name: string; readonly type: string }[];
  };
}

export type QmpCommandName = keyof QmpCommands;

/** What follows the command's name in `execute`: arguments may be left out only where the command needs none. */
export type ExecuteParameters<N extends QmpCommandName, Options> = undefined extends QmpCommands[N]["arguments"]
  ? [args?: QmpCommands[N]["arguments"], options?: Options]
  : [args: QmpCommands[N]["arguments"], options?: Options];

/** An event's data. Events of other names are not delivered. */
export interface QmpEvents {
  STOP: None;
  RESUME: None;
  SHUTDOWN: { readonly guest: boolean; readonly reason: string };
  RESET: { readonly guest: boolean; readonly reason: string };
  POWERDOWN: None;
  SUSPEND: None;
  WAKEUP: None;
  GUEST_PANICKED: { readonly action: string };
  BLOCK_IO_ERROR: { readonly device: string; readonly operation: string; readonly action: string };
  MIGRATION: { readonly status: MigrationStatus };
  MIGRATION_PASS: { readonly pass: number };
}

export type QmpEventName = keyof QmpEvents;

/** An event: its name, its data, when QEMU saw it (Unix time) and when godwit read it (`performance.now()`). */
export interface QmpEventOf<N extends QmpEventName> {
  readonly name: N;
  readonly data: QmpEvents[N];
  readonly timestampMs: number;
  readonly receivedMs: number;
}

/** Any of the events; narrows by `name`. */
export type QmpEvent = { [N in QmpEventName]: QmpEventOf<N> }[QmpEventName];

const EVENT_NAMES: Readonly<Record<QmpEventName, true>> = {
  STOP: true,
  RESUME: true,
  SHUTDOWN: true,
  RESET: true,
  POWERDOWN: true,
  SUSPEND: true,
  WAKEUP: true,
  GUEST_PANICKED: true,
  BLOCK_IO_ERROR: true,
  MIGRATION: true,
  MIGRATION_PASS: true,
};

/** Whether godwit knows the event. */
export function isQmpEventName(name: string): name is QmpEventName {
  return Object.hasOwn(EVENT_NAMES, name);
}
