import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { chmod, cp } from "node:fs/promises";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { GodwitError } from "../../../src/errors.ts";
import { openCheckpoints } from "../../../src/migration/open-checkpoints.ts";
import type { CheckpointStore } from "../../../src/store/checkpoint-store.ts";
import { StoredIndex } from "../../../src/store/index-file.ts";
import {
  decodeHeader,
  encodeHeader,
  HASH_BYTES,
  HEADER_BYTES,
  type IndexAbout,
  PART_BLOCKS,
  PART_HASH_BYTES,
  PartTable,
  tableBytesOf,
} from "../../../src/store/index-format.ts";
import { IndexStore } from "../../../src/store/index-store.ts";
import { GOLDEN_STORE } from "../../golden/checkpoint-store.ts";
import { contentOf } from "../../unit/support/checkpoint-stores.ts";
import { mutateBytes } from "../mutate.ts";
import type { Random } from "../random.ts";
import { type FuzzTarget, WrongOutput } from "../target.ts";
import { newFolder, removeFolders } from "../temporary.ts";

const about: IndexAbout = {
  vm: "uuid:7b0e2a3c-2f6d-4d3a-9b43-0c9d2f3b1a55",
  disk: "disk0",
  vmName: "web1",
  image: "/vm/web1.raw",
  files: [{ dev: 1n, inode: 2n, sizeBytes: 3, mtimeNs: 4n }],
  bitmap: "godwit",
  savedMs: 1_790_000_000_000,
};
const SIZE_BYTES = (PART_BLOCKS + 3) * 4096;

async function indexFile(): Promise<Buffer> {
  const stateDir = newFolder();
  const store = await IndexStore.open(stateDir);
  await using writer = await store.create(about, SIZE_BYTES);
  await writer.put(0, Buffer.alloc(PART_HASH_BYTES, 0x11), PART_BLOCKS);
  await writer.put(1, Buffer.alloc(3 * HASH_BYTES, 0x22), 3, "stale");
  await writer.finish(about, undefined, () => false);
  const folder = join(stateDir, "indexes");
  return readFileSync(join(folder, readdirSync(folder).find((name) => name.endsWith(".index"))!));
}

/** The header alone, its table, or what it says of itself is changed: most of the file is hashes. */
function otherIndex([seed]: readonly Uint8Array[], random: Random): Uint8Array {
  const file = Buffer.from(seed!);
  const to = random.pick([48, 400, HEADER_BYTES + 40, 2 * HEADER_BYTES + 40]);
  const mutated = mutateBytes(file.subarray(0, to), [file.subarray(0, 400)], random, 200_000);
  const whole = Buffer.concat([mutated, random.chance(0.8) ? file.subarray(mutated.length) : Buffer.alloc(0)]);
  return rightChecksum(whole, random);
}

/** The checksum of a header, mostly, made that of what it has become. */
function rightChecksum(file: Buffer, random: Random): Buffer {
  if (file.length >= 48 && random.chance(0.7)) {
    const aboutBytes = Math.min(file.readUInt32LE(12), file.length - 48);
    file.writeUInt32LE(crc32(file.subarray(48, 48 + aboutBytes), crc32(file.subarray(0, 44))), 44);
  }
  return file;
}

/** The header and the table by themselves: small enough for many of them. */
const indexHeader: FuzzTarget = {
  name: "headers of disk indexes",
  share: 2,
  refuses: /^STORE_INDEX_(DAMAGED|NEWER)$/,
  seeds: () => {
    const header = encodeHeader({ seed: 5n, sizeBytes: SIZE_BYTES, about });
    return [header.subarray(0, 48 + header.readUInt32LE(12))];
  },
  input: (seeds, random) => rightChecksum(mutateBytes(seeds[0]!, seeds, random, 3000), random),
  feed(input, random) {
    const { sizeBytes, ...header } = decodeHeader(Buffer.from(input));
    encodeHeader({ sizeBytes, ...header });
    const table = new PartTable(Math.min(sizeBytes, 2 ** 30), random.bytes(tableBytesOf(Math.min(sizeBytes, 2 ** 30))));
    for (let part = 0; part < table.parts; part++) {
      if (table.state(part) !== "unknown") throw new WrongOutput("an entry of noise is believed");
    }
  },
};

let indexPath: string | undefined;

const index: FuzzTarget = {
  name: "disk indexes",
  share: 5,
  refuses: /^STORE_INDEX_(DAMAGED|NEWER)$/,
  seeds: async () => [await indexFile()],
  input: otherIndex,
  async feed(input) {
    indexPath ??= join(newFolder(), "index");
    writeFileSync(indexPath, input);
    await using stored = await StoredIndex.open(indexPath);
    const hashes = new Uint8Array(PART_HASH_BYTES);
    const parts = Math.min(stored!.parts, 3); // a header may say that there are half a million
    for (let part = 0; part < parts; part++) await stored!.readPart(part, hashes);
    if (!(stored!.hashes >= 0)) throw new WrongOutput("it has no number of hashes");
    encodeHeader(stored!.header);
  },
  close: () => {
    indexPath = undefined;
    removeFolders();
  },
};

const VM_FOLDER = readdirSync(GOLDEN_STORE)[0]!;
const FILES = readdirSync(join(GOLDEN_STORE, VM_FOLDER)).sort();
let store:
  | { readonly folder: string; readonly opened: CheckpointStore; readonly contents: Map<string, Buffer> }
  | undefined;

async function openStore() {
  const stateDir = newFolder();
  await cp(GOLDEN_STORE, join(stateDir, "checkpoints"), { recursive: true });
  await chmod(join(stateDir, "checkpoints"), 0o700);
  const opened = await openCheckpoints(stateDir);
  const contents = new Map<string, Buffer>();
  for (const { id } of await opened.list()) contents.set(id, await contentOf(opened, id));
  return { folder: join(stateDir, "checkpoints", VM_FOLDER), opened, contents };
}

/** One of the store's files, changed; often in its last bytes, where lengths and checksums are, and with its frame put right. */
function otherFile(all: readonly Uint8Array[], random: Random): Uint8Array {
  const [number, file] = [random.below(all.length), Buffer.from(all[random.below(all.length)]!.subarray(1))];
  const own = random.chance(0.9) ? Buffer.from(all[number]!.subarray(1)) : file;
  const at = random.chance(0.7) ? Math.max(0, own.length - 300) : 0;
  const mutated = Buffer.concat([own.subarray(0, at), mutateBytes(own.subarray(at), all, random, 200_000)]);
  if (mutated.length > 48 && random.chance(0.7)) {
    const footerBytes = Math.min(mutated.readUInt32LE(mutated.length - 16), mutated.length - 32);
    mutated.writeUInt32LE(footerBytes, mutated.length - 16);
    mutated.writeUInt32LE(
      crc32(mutated.subarray(mutated.length - 16 - footerBytes, mutated.length - 16)),
      mutated.length - 12,
    );
    mutated.writeBigUInt64LE(BigInt(mutated.length), mutated.length - 8);
  }
  return Buffer.concat([Uint8Array.of(number), mutated]);
}

const checkpoints: FuzzTarget = {
  name: "checkpoint stores",
  share: 5,
  refuses: /^STORE_(?!STATE_DIR)/, // that would be of the folder, and no input be looked at
  seeds: () =>
    FILES.map((name, i) => Buffer.concat([Uint8Array.of(i), readFileSync(join(GOLDEN_STORE, VM_FOLDER, name))])),
  input: otherFile,
  async feed(input) {
    store ??= await openStore();
    const path = join(store.folder, FILES[(input[0] ?? 0) % FILES.length]!);
    const before = readFileSync(path);
    writeFileSync(path, input.subarray(1));
    try {
      await store.opened.list();
      let refusal: GodwitError | undefined;
      for (const id of store.contents.keys()) {
        const read = await contentOf(store.opened, id).catch(keepRefusal);
        const problems = await store.opened.check(id).then(({ problems }) => problems.length, keepRefusal);
        // A file that is whole to all checksums and yet another is found by the check; unless it is another checkpoint's file, under this name.
        if (
          read instanceof Buffer &&
          problems === 0 &&
          ![...store.contents.values()].some((known) => known.equals(read))
        )
          throw new WrongOutput(`checkpoint ${id} has other pages, and passes its check`);
      }
      if (refusal !== undefined) throw refusal;

      function keepRefusal(error: unknown): undefined {
        if (!(error instanceof GodwitError)) throw error;
        refusal = error;
      }
    } finally {
      writeFileSync(path, before);
    }
  },
  close: () => {
    store = undefined;
    removeFolders();
  },
};

export const STORE_TARGETS = [indexHeader, index, checkpoints];
