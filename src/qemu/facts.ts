/**
 * What must be alike at both ends before a VM may move. QEMU itself checks most of it too, but only after the guest has
 * been streamed, and in words about ramblocks.
 */

import { z } from "zod";
import { GodwitError } from "../errors.ts";
import type { BlockInfo, MemoryDevice } from "./commands.ts";
import type { QmpClient } from "./qmp.ts";

/** Facts come from the peer too and are shown to people: no control characters, nothing that reorders text. */
const text = (maxLength: number) =>
  z
    .string()
    .max(maxLength)
    .regex(/^[^\p{Cc}\p{Bidi_Control}]*$/u);
const count = z.int().nonnegative();

const blockDeviceSchema = z.strictObject({
  id: text(512).min(1),
  readOnly: z.boolean(),
  /** null: no medium. */
  virtualSizeBytes: count.nullable(),
});

/** Facts as they stand in messages between the two ends. */
export const vmFactsSchema = z.strictObject({
  qemuVersion: z.strictObject({ major: count, minor: count, micro: count, package: text(256) }),
  machineType: text(128).min(1),
  /** With all that virtio-mem devices may grow to. */
  memoryBytes: count,
  cpus: count,
  blockDevices: z.array(blockDeviceSchema).max(4096),
  name: text(1024).nullable(),
  uuid: z.uuid(),
});

export type VmFacts = z.infer<typeof vmFactsSchema>;
type BlockDevice = z.infer<typeof blockDeviceSchema>;

/** A difference that forbids the migration; `text` is one line for people, "here" being the source. */
export interface Mismatch {
  readonly what: string;
  readonly source: string;
  readonly destination: string;
  readonly text: string;
}

/**
 * Asks QEMU for the facts of its VM.
 *
 * @throws QMP_BAD_FACTS if QEMU's answer cannot be told to a peer, and what `execute` throws
 */
export async function readFacts(qmp: QmpClient): Promise<VmFacts> {
  const [version, machine, memory, devices, cpus, blocks, name, uuid] = await Promise.all([
    qmp.execute("query-version"),
    qmp.execute("qom-get", { path: "/machine", property: "type" }),
    qmp.execute("query-memory-size-summary"),
    qmp.execute("query-memory-devices"),
    qmp.execute("query-cpus-fast"),
    qmp.execute("query-block"),
    qmp.execute("query-name"),
    qmp.execute("query-uuid"),
  ]);
  const unusable = (what: string, cause: unknown) =>
    new GodwitError("QMP_BAD_FACTS", `QEMU's answer about ${what} is not usable`, { path: qmp.path, what }, { cause });
  let stated: unknown;
  try {
    stated = {
      qemuVersion: { ...version.qemu, package: version.package },
      machineType: String(machine).replace(/-machine$/, ""), // TYPE_MACHINE_SUFFIX, include/hw/boards.h
      memoryBytes: memory["base-memory"] + (memory["plugged-memory"] ?? 0) + unpluggedBytes(devices),
      cpus: cpus.length,
      blockDevices: blocks.filter(({ qdev }) => qdev !== undefined).map(blockDevice),
      name: name.name ?? null,
      uuid: uuid.UUID,
    };
  } catch (cause) {
    throw unusable("its VM", cause); // not even of the kind that it should be
  }
  const facts = vmFactsSchema.safeParse(stated);
  if (facts.success) return facts.data;
  throw unusable(facts.error.issues[0]!.path.join("."), facts.error);
}

/** What forbids a migration from `source` to `destination`; empty if nothing does. */
export function compareFacts(
  source: VmFacts,
  destination: VmFacts,
  options: { readonly allowOlderQemu?: boolean | undefined } = {},
): Mismatch[] {
  const mismatches: Mismatch[] = [];
  const differ = (what: string, here: string, there: string, note = "") => {
    const text = `${what}: ${here} here, ${there} at the destination${note}`;
    mismatches.push({ what, source: here, destination: there, text });
  };
  const compare = (what: string, here: string, there: string) => {
    if (here !== there) differ(what, here, there);
  };

  if (!options.allowOlderQemu && isOlder(destination.qemuVersion, source.qemuVersion)) {
    const note = "; going back to an older QEMU is best effort only";
    differ("QEMU version", versionText(source), versionText(destination), note);
  }
  compare("machine type", source.machineType, destination.machineType);
  compare("memory size", sizeText(source.memoryBytes), sizeText(destination.memoryBytes));
  compare("cpus", String(source.cpus), String(destination.cpus));
  if (isSet(source.uuid) && isSet(destination.uuid)) {
    compare("UUID", source.uuid.toLowerCase(), destination.uuid.toLowerCase());
  }

  const theirs = new Map(destination.blockDevices.map((device) => [device.id, device]));
  for (const here of source.blockDevices) {
    const there = theirs.get(here.id);
    theirs.delete(here.id);
    compare(`disk ${here.id}`, mediumText(here), there ? mediumText(there) : "none");
  }
  for (const extra of theirs.values()) differ(`disk ${extra.id}`, "none", mediumText(extra));
  return mismatches;
}

/**
 * A disk is known by what is most likely the same at both ends: the id that the user gave its device, else the name of
 * the `-drive`, else its place in QEMU's object tree ("device[3]", by order of creation).
 */
export function blockDeviceId({ device, qdev = "" }: BlockInfo): string {
  // For virtio-blk the disk is a child of the device with the id: /machine/peripheral/ID/virtio-backend.
  const givenId = qdev.startsWith("/") ? /^\/machine\/peripheral\/([^/]+)/.exec(qdev)?.[1] : qdev;
  return givenId || device || qdev;
}

/**
 * What the guest has not plugged of its virtio-mem devices. A destination has plugged nothing before it has loaded the VM, so only with
 * this are both ends alike.
 */
function unpluggedBytes(devices: readonly MemoryDevice[]): number {
  return devices.reduce((sum, { data: { size = 0, "max-size": maxSize = size } }) => sum + maxSize - size, 0);
}

function blockDevice(info: BlockInfo): BlockDevice {
  return {
    id: blockDeviceId(info),
    readOnly: info.inserted?.ro ?? false,
    virtualSizeBytes: info.inserted?.image["virtual-size"] ?? null,
  };
}

type Version = VmFacts["qemuVersion"];

function isOlder(a: Version, b: Version): boolean {
  return a.major < b.major || (a.major === b.major && a.minor < b.minor);
}

function versionText({ qemuVersion: { major, minor, micro } }: VmFacts): string {
  return `${major}.${minor}.${micro}`;
}

/**
 * What tells this VM from all others of a host, and stays the same wherever it runs: its UUID, else its name; null if it has
 * neither.
 */
export function identityOf({ uuid, name }: Pick<VmFacts, "uuid" | "name">): string | null {
  if (isSet(uuid)) return `uuid:${uuid.toLowerCase()}`;
  return name ? `name:${name}` : null;
}

/** No UUID was set if all of it is zero (qemu_uuid_set, system/vl.c). */
function isSet(uuid: string): boolean {
  return /[1-9a-f]/i.test(uuid);
}

function mediumText(device: BlockDevice): string {
  if (device.virtualSizeBytes === null) return "no medium";
  return `${sizeText(device.virtualSizeBytes)}${device.readOnly ? " read-only" : ""}`;
}

/** Whole MiB where it is whole, else bytes: two sizes that differ never read the same. */
function sizeText(bytes: number): string {
  return bytes % 2 ** 20 === 0 ? `${bytes / 2 ** 20} MiB` : `${bytes} bytes`;
}
