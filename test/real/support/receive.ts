// `godwit receive` that reads pages in another way: node receive.ts MODE receive --qmp … as usual.
import { parseArgs } from "node:util";
import { qemuNbd } from "../../../lab/qemus.ts";
import type { HeldCheckpoints } from "../../../src/migration/agreed-checkpoints.ts";
import type { DiskOpener } from "../../../src/migration/agreed-disks.ts";
import { receiveFromPeer } from "../../../src/migration/destination.ts";
import { openDestinationDisks } from "../../../src/migration/disk-readers.ts";
import { openCheckpoints } from "../../../src/migration/open-checkpoints.ts";
import { diskAt } from "../../../src/qemu/disks.ts";
import type { DiskReader } from "../../../src/store/disk-reader.ts";
import { parseAddress } from "../../../src/wire/address.ts";
import { readPskFile } from "../../../src/wire/psk.ts";

const openers: Record<string, DiskOpener> = {
  /** With the lab's qemu-nbd, for images that are not raw. */
  nbd: async (qmp, disks) => openDestinationDisks(qmp, disks, { qemuNbd: await qemuNbd() }),
  /** Nothing on them is right. */
  lying: async (qmp, disks) => {
    const open = await openDestinationDisks(qmp, disks);
    const readers = new Map([...open.readers].map(([id, reader]) => [id, lyingReader(reader)]));
    return { readers, unreadable: open.unreadable, [Symbol.asyncDispose]: () => open[Symbol.asyncDispose]() };
  },
  /** They are not where QEMU says. */
  missing: (qmp, disks) =>
    openDestinationDisks(
      qmp,
      disks.map((disk) => diskAt(disk, "/nonexistent/disk")),
    ),
};

/** Each block differs from what stands there in one byte. */
function lyingReader<R extends DiskReader>(reader: R): R {
  const readScattered = async (offsetBytes: number, targets: readonly Uint8Array[]): Promise<void> => {
    await reader.readScattered(offsetBytes, targets);
    for (const target of targets) for (let at = 4095; at < target.length; at += 4096) target[at]! ^= 1;
  };
  return new Proxy(reader, {
    get: (target, name) => {
      if (name === "readScattered") return readScattered;
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

/** A store of checkpoints of which nothing but the hashes is right. */
async function wrongCheckpoints(stateDir: string): Promise<HeldCheckpoints> {
  const store = await openCheckpoints(stateDir);
  return {
    latest: (identity) => store.latest(identity),
    touch: (id) => store.touch(id),
    open: async (id) => lyingReader(await store.open(id)),
  };
}

const [mode = "", , ...args] = process.argv.slice(2);
const text = { type: "string", default: "" } as const;
const options = { qmp: text, listen: text, "psk-file": text, json: { type: "boolean" } } as const;
const { values } = parseArgs({ args, options });
const [kind, stateDir] = mode.split(":");
const openDisks = openers[kind!];
const { status } = await receiveFromPeer({
  qmpPath: values.qmp,
  listen: parseAddress(values.listen),
  security: { kind: "psk", psk: readPskFile(values["psk-file"]) },
  ...(openDisks && { openDisks }),
  openCheckpoints: kind === "wrong-checkpoint" ? () => wrongCheckpoints(stateDir!) : undefined,
  onEvent: (event) => console.log(JSON.stringify(event)),
});
process.exitCode = status === "completed" ? 0 : 1;
