import { GodwitError, messageOf } from "../errors.ts";
import type { MigrationEvent } from "./events.ts";

export type Side = "source" | "destination";

/** What to do about an error, in one clause. By code; the side decides where it differs. */
const ADVICE: Readonly<Record<string, string | Readonly<Record<Side, string>>>> = {
  QMP_NO_SOCKET: "check the path, and that QEMU was started with -qmp unix:PATH,server=on,wait=off",
  QMP_REFUSED: "QEMU has ended or never listened there; check that it runs",
  QMP_PERMISSION: "run godwit as root or as the user that QEMU runs as",
  QMP_NOT_QMP: "give --qmp the path of a QMP monitor, not of an HMP monitor, a serial port or the like",
  QMP_BUSY: "end the other client, or give QEMU a second -qmp for godwit",
  QMP_WRONG_STATE: {
    source: "give --qmp the monitor of a VM that runs or is paused, and that nothing keeps from being migrated",
    destination: "start the destination QEMU afresh with -incoming defer -S",
  },
  QMP_CAPABILITY: "switch it off with migrate-set-capabilities",
  QMP_PARAMETER: "set it with migrate-set-parameters",
  WIRE_UNREACHABLE: "start godwit receive there, and check the address, the port and the firewall",
  WIRE_WRONG_KEY: "use the same key file at both ends (godwit key makes one)",
  WIRE_CERTIFICATE: "see docs/commands.md, Certificates",
  WIRE_PEER_NAME: "see docs/commands.md, Certificates",
  WIRE_TLS_FILES: "see docs/commands.md, Certificates",
  WIRE_TLS_PERMISSIONS: "chmod 600 it; if others may have read it, issue a new certificate with a new key",
  WIRE_NOT_TLS: "check the port: something else than godwit receive listens there",
  WIRE_PORT_TAKEN: "choose another port with --listen ADDR:PORT, or end what listens there",
  WIRE_VERSION: "use the same version of godwit at both ends",
  PEER_NO_PROBE: "update godwit at the destination, or give --bandwidth instead of --to",
  PEER_PAGE_FORMAT: "use the same version of godwit at both ends",
  WIRE_CLOSED: {
    source:
      "see what godwit receive says there; then start the destination QEMU and godwit receive again, and try again",
    destination: "see what godwit send says there; then start the destination QEMU and godwit receive again",
  },
  MIGRATION_LINK_LOST: {
    source:
      "see what is wrong with the network, or give --reconnect-for more time; then start the destination afresh, and try again",
    destination:
      "see what is wrong with the network, or give --reconnect-for more time; then start the destination QEMU afresh",
  },
  STORE_STATE_DIR: "name a folder of your own with --state-dir or GODWIT_STATE_DIR",
  STORE_NOT_WRITABLE: "check who owns the state folder, or name another one with --state-dir",
  STORE_FULL: "make room on that file system, or name a folder on another one with --state-dir",
  STORE_TOO_BIG: "allow more with --store-size",
  STORE_BUSY: "wait for the other godwit to end",
  STORE_SESSION_NONE: "godwit status shows what there is",
  STORE_SESSION_AMBIGUOUS: "give more digits of the id, or its end",
  STORE_JOURNAL_DAMAGED:
    "godwit can't know who owns the VM: look at both QEMUs; where neither runs it, end the one and type `cont` in the monitor of the other; then remove the journal",
  STORE_JOURNAL_UNREADABLE: "check who may read it; godwit runs as the user that wrote it",
  STORE_JOURNAL_NEWER: "use the godwit that wrote it, or a newer one",
  STORE_CHECKPOINT_NONE: "godwit checkpoint list shows what there is",
  STORE_CHECKPOINT_AMBIGUOUS: "give more digits of the id",
  STORE_CHECKPOINT_NEWER: "use a newer godwit, or delete it",
  STORE_CHECKPOINT_DAMAGED: "delete it",
  STORE_CHECKPOINT_FOREIGN: "delete it",
  STORE_INDEX_NONE: "godwit index list shows what there is",
  STORE_INDEX_AMBIGUOUS: "give more digits of the id",
  STORE_DISK_OPEN: "check the path, and who may read it",
  MIGRATION_NO_DISK: "name one that it has, or leave --disk out",
  QMP_MEMORY_MAP: "please report this, with QEMU's version and machine type",
  MIGRATION_NO_IDENTITY: "start QEMU with -uuid or -name",
  MIGRATION_MEMORY_UNREAD: "check that QEMU and godwit see the same /run",
  MIGRATION_NOT_RESUMED: "look at QEMU's log, and type `cont` in its monitor",
  MIGRATION_MISMATCH: "start the destination QEMU with the same machine type, memory, CPUs and disks",
  MIGRATION_SOURCE_FAILED: "see the reason above and QEMU's log; then start the destination QEMU afresh and try again",
  MIGRATION_SOURCE_GONE: "start it again from its disk; the destination QEMU has to be started afresh",
  MIGRATION_DESTINATION_FAILED: "see QEMU's log at the destination; start it with the same devices, memory and CPU",
  MIGRATION_DESTINATION_GONE: "see QEMU's log at the destination, and start it afresh",
  PEER_ABORTED: {
    source: "see what godwit receive says there; then start the destination QEMU and godwit receive again",
    destination: "see what godwit send says there; then start the destination QEMU and godwit receive again",
  },
  MIGRATION_UNSETTLED: "look at the destination: never let both run",
  MIGRATION_OTHER_VM: "name that VM with --vm, if it is wanted",
  WIRE_PSK_MISSING: "make a key with godwit key, and copy it to both hosts",
  WIRE_PSK_FORMAT: "make a key with godwit key, and copy it to both hosts",
  WIRE_PSK_PERMISSIONS: "chmod 600 it; if others may have read it, make a new one with godwit key",
  WIRE_BAD_ADDRESS: "give ADDR, ADDR:PORT or [IPV6]:PORT",
  QMP_CLOSED: "check that QEMU still runs, and see its log",
  CONTROL_GIVEN_UP:
    "ask for less with --max-downtime, --deadline or --max-bytes, or let --on-stall give something else up",
  MIGRATION_TRACE_UNWRITABLE: "name another file with --trace",
  PEER_REFUSED: "change what it names, and try again",
};

const OTHERWISE: Readonly<Record<Side, string>> = {
  source: "start the destination QEMU and godwit receive again, and try again",
  destination: "start the destination QEMU afresh, and godwit receive again",
};

/** Where it is not known who has the VM, whatever has led to it. */
const IN_DOUBT: Readonly<Record<Side, string>> = {
  source: "start godwit send again, which asks the destination, or see godwit resolve; never let both run",
  destination: "start godwit receive again, which waits for the source, or see godwit resolve; never let both run",
};

/** What to do about `error`, in one clause, for whoever runs godwit at that side; undefined where only it itself tells. */
export function specificAdviceFor(error: unknown, side: Side): string | undefined {
  const advice = error instanceof GodwitError ? ADVICE[error.code] : undefined;
  return typeof advice === "object" ? advice[side] : advice;
}

/** The event of an error that has ended a migration; `vm` says what it means for the VM. */
export function errorEvent(
  error: unknown,
  vm: string,
  side: Side,
  isInDoubt = false,
): Extract<MigrationEvent, { event: "error" }> {
  const code = error instanceof GodwitError ? error.code : "MIGRATION_FAILED";
  const advice = isInDoubt ? IN_DOUBT[side] : (specificAdviceFor(error, side) ?? OTHERWISE[side]);
  return { event: "error", code, message: messageOf(error), vm, advice };
}
