/**
 * What a QEMU's migration settings have to be for all of a VM to go in one plain stream over one socket. Management sets them for its
 * own migrations, and may have left them, or given them on QEMU's command line (-global migration.NAME=VALUE).
 */

import { GodwitError } from "../errors.ts";
import { migrationCapabilities } from "./migrate.ts";
import type { QmpClient } from "./qmp.ts";

/**
 * Capabilities that are off while a migration goes through godwit, at both ends (QEMU qapi/migration.json, MigrationCapability).
 * With `multifd` a destination waits for more sockets for ever; with `x-ignore-shared` or `mapped-ram` memory does not stand in the
 * stream; with `postcopy-ram` or `compress` at one end only, the destination gives up; the page cache serves better than `xbzrle`, as
 * whole pages can become references too. QEMU throttles the guest by itself with `auto-converge` or `dirty-limit`.
 */
export const PLAIN_STREAM: Readonly<Record<string, boolean>> = Object.fromEntries(
  [
    ...["multifd", "zero-copy-send", "mapped-ram", "x-ignore-shared"],
    ...["postcopy-ram", "postcopy-preempt", "release-ram"],
    ...["compress", "xbzrle", "auto-converge", "dirty-limit"],
  ].map((name) => [name, false]),
);

/** Capabilities with which whoever set them means something else than to move a VM, and its memory only. */
const OTHER_AIMS: Readonly<Record<string, string>> = {
  "background-snapshot": "with which it saves the VM instead of moving it",
  "x-colo": "with which the VM goes on at both ends",
  block: "with which it copies disks, and godwit moves none",
};

/** Parameters, where QEMU has them, that have to be as they are by default, and why. */
const PLAIN_PARAMETERS = [
  ["mode", "normal", "or else it stops the guest before it sends anything"],
  ["tls-creds", "", "as the stream goes to a socket of this host, and is encrypted by godwit"],
] as const;

/**
 * Checks that a QEMU is not set to a way of migration that godwit can't set it back from without asking.
 *
 * @throws GodwitError QMP_CAPABILITY, QMP_PARAMETER
 */
export async function assertPlainStream(qmp: QmpClient): Promise<void> {
  const capabilities = await migrationCapabilities(qmp);
  for (const [capability, why] of Object.entries(OTHER_AIMS)) {
    if (!capabilities.get(capability)) continue;
    throw new GodwitError("QMP_CAPABILITY", `QEMU's migration capability ${capability} is on, ${why}`, { capability });
  }
  const parameters = await qmp.execute("query-migrate-parameters");
  for (const [parameter, wanted, why] of PLAIN_PARAMETERS) {
    const value = parameters[parameter];
    if (value === undefined || value === wanted) continue;
    const message = `QEMU's migration parameter ${parameter} is "${value}", and has to be "${wanted}", ${why}`;
    throw new GodwitError("QMP_PARAMETER", message, { parameter, value });
  }
}
