/** A disk whose blocks are the pages of a stream: what nearly all of an idle guest's memory is like. */
import { writeFileSync } from "node:fs";
import { DISK } from "../src/compact/limits.ts";
import { PageIndex } from "../src/compact/page-index.ts";
import type { IndexedPlaces } from "../src/compact/place-matcher.ts";
import { xxh3Secret } from "../src/compact/xxh3-secret.ts";
import { createKernels } from "../src/migration/kernels.ts";
import type { Referable } from "../src/migration/sender-kernels.ts";
import { FLAGS_PAGE, HEADER_BYTES, PAGE_BYTES, PAGE_RECORD_BYTES } from "../src/stream/format.ts";

/** 256 MiB: more than caches hold, and all of it in the page cache. */
export const DISK_BLOCKS = 64 * 1024;
/** Pages in a row that stand in a row on the disk; in an idle Debian guest 7 on average. */
const RUN_PAGES = 8;
/** The index has others too, as that of a disk of 40 GiB that is full. */
const INDEX_ENTRIES = 10_000_000;
const HASH_BYTES = 8;
/** What is hashed at once. */
const GROUP_BLOCKS = 256;

/** The key of both ends. */
export const TAG_KEY = Buffer.alloc(32, 9);

/** The disk's content: no block twice, none that packs. */
function diskContent(): Buffer {
  const words = new Uint32Array((DISK_BLOCKS * PAGE_BYTES) / 4);
  for (let i = 0, word = 1; i < words.length; i++) {
    word ^= word << 13;
    word ^= word >>> 17;
    word ^= word << 5;
    words[i] = word;
  }
  return Buffer.from(words.buffer);
}

/** Writes the disk to a file. */
export function writeDisk(path: string): void {
  writeFileSync(path, diskContent());
}

/** Page records that hold the whole disk, RUN_PAGES blocks at a time, neighbours nowhere near each other. */
export function diskRecords(): Buffer {
  const content = diskContent();
  const records = Buffer.allocUnsafe(DISK_BLOCKS * PAGE_RECORD_BYTES);
  const groups = DISK_BLOCKS / RUN_PAGES;
  for (let page = 0; page < DISK_BLOCKS; page++) {
    const group = (Math.floor(page / RUN_PAGES) * 4097) % groups; // odd, so that each group comes once
    const block = group * RUN_PAGES + (page % RUN_PAGES);
    const at = page * PAGE_RECORD_BYTES;
    records.writeBigUInt64BE(BigInt(page * PAGE_BYTES + FLAGS_PAGE), at);
    content.copy(records, at + HEADER_BYTES, block * PAGE_BYTES, (block + 1) * PAGE_BYTES);
  }
  return records;
}

/** The disk, indexed among INDEX_ENTRIES blocks. */
export function referableDisk(): Referable {
  const secret = xxh3Secret(1n);
  const { pages, bytes, base } = createKernels(PageIndex.memoryBytes(INDEX_ENTRIES));
  const index = new PageIndex(pages, bytes, base, INDEX_ENTRIES, secret);
  index.addHashes(diskHashes(secret), 0);
  const others = new BigUint64Array(DISK_BLOCKS);
  for (let number = DISK_BLOCKS; number + DISK_BLOCKS <= INDEX_ENTRIES; number += DISK_BLOCKS) {
    crypto.getRandomValues(others.subarray(0, 8192));
    for (let i = 8192; i < DISK_BLOCKS; i++) others[i] = others[i & 8191]! * BigInt(i | 1);
    index.addHashes(new Uint8Array(others.buffer), number);
  }
  const places: IndexedPlaces = { kind: DISK, firstSource: 0, firstBlocks: [0, DISK_BLOCKS], index };
  return { places: [places], tagKey: TAG_KEY, nameOf: () => "disk disk0" };
}

function diskHashes(secret: Uint8Array): Uint8Array {
  const content = diskContent();
  const addressesBytes = GROUP_BLOCKS * 4;
  const { pages, bytes, base } = createKernels(GROUP_BLOCKS * PAGE_BYTES + addressesBytes + 4096);
  const [addresses, secretAt, hashes] = [base, base + addressesBytes, base + addressesBytes + 256];
  const blocks = hashes + GROUP_BLOCKS * HASH_BYTES;
  bytes.set(secret, secretAt);
  const table = new DataView(bytes.buffer);
  for (let i = 0; i < GROUP_BLOCKS; i++) table.setUint32(addresses + i * 4, blocks + i * PAGE_BYTES, true);
  const result = new Uint8Array(DISK_BLOCKS * HASH_BYTES);
  for (let block = 0; block < DISK_BLOCKS; block += GROUP_BLOCKS) {
    bytes.set(content.subarray(block * PAGE_BYTES, (block + GROUP_BLOCKS) * PAGE_BYTES), blocks);
    pages.hashPages(secretAt, addresses, GROUP_BLOCKS, hashes);
    result.set(bytes.subarray(hashes, hashes + GROUP_BLOCKS * HASH_BYTES), block * HASH_BYTES);
  }
  return result;
}
