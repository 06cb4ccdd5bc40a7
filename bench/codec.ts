/** Packing and unpacking bodies as both ends do, in one thread: each codec, on bodies of several kinds. */

import { randomFillSync } from "node:crypto";
import { readFileSync } from "node:fs";
import { nameOf, type Packing } from "../src/compact/codec.ts";
import { MAX_DELTA_BYTES } from "../src/compact/page-kernels.ts";
import { createKernels } from "../src/migration/kernels.ts";
import { Workbench } from "../src/migration/workers/workbench.ts";
import { PAGE_BYTES } from "../src/stream/format.ts";
import { median, programBytes, table } from "./support.ts";

const RUNS = 3;
const BODY_BYTES = 256 * 1024;
const DATA_BYTES = 32 << 20;
const PACKINGS: readonly Packing[] = [
  { codec: "lz4", level: 0 },
  ...[1, 3, 6, 9].map((level): Packing => ({ codec: "zstd", level })),
];

/** Half of each page random, the other half text. */
function halfRandom(): Buffer {
  const bytes = Buffer.alloc(DATA_BYTES, "what a guest has in its memory is often text; ");
  for (let at = 0; at < bytes.length; at += PAGE_BYTES) randomFillSync(bytes, at, PAGE_BYTES / 2);
  return bytes;
}

/** What deltas of pages come to that have one word changed, a counter: each at another place. */
function deltas(): Buffer {
  const pages = 1024;
  const { bytes, base, pages: kernels } = createKernels(pages * (2 * PAGE_BYTES + MAX_DELTA_BYTES + 12));
  const [olds, news] = [base, base + pages * PAGE_BYTES];
  const addresses = news + pages * PAGE_BYTES;
  const out = addresses + 12 * pages;
  const view = new DataView(bytes.buffer);
  const parts: Buffer[] = [];
  for (let round = 0, size = 0; size < DATA_BYTES; round++) {
    for (let page = 0; page < pages; page++) {
      view.setUint32(addresses + 4 * page, olds + page * PAGE_BYTES, true);
      view.setUint32(addresses + 4 * (pages + page), news + page * PAGE_BYTES, true);
      view.setUint32(news + page * PAGE_BYTES + 8 * ((page * 149 + round) % 512), round + 1, true);
    }
    const lengths = addresses + 8 * pages;
    const written = kernels.encodeDeltas(addresses, addresses + 4 * pages, pages, MAX_DELTA_BYTES, out, lengths);
    parts.push(Buffer.from(bytes.subarray(out, out + written)));
    size += written;
    bytes.copyWithin(olds, news, news + pages * PAGE_BYTES);
  }
  return Buffer.concat(parts).subarray(0, DATA_BYTES);
}

interface Figures {
  packSpeed: number;
  unpackSpeed: number;
  ratio: number;
}

/** All of `data`, a body at a time, there and back; speeds in bytes of bodies by CPU time. */
function measure(bench: Workbench, data: Buffer, packing: Packing): Figures {
  const slot = bench.take()!;
  const packed: { bytes: Buffer; bodyBytes: number }[] = [];
  let unpackedBytes = 0;
  const packSeconds = cpuSecondsOf(() => {
    for (let at = 0; at < data.length; at += BODY_BYTES) {
      const body = data.subarray(at, at + BODY_BYTES);
      slot.input.set(body);
      bench.pack(slot, body.length, packing, ({ bytes }) => {
        if (bytes === 0) return;
        packed.push({ bytes: Buffer.from(slot.output.subarray(0, bytes)), bodyBytes: body.length });
        unpackedBytes += body.length;
      });
    }
  });
  const unpackSeconds = cpuSecondsOf(() => {
    for (const { bytes, bodyBytes } of packed) {
      slot.input.set(bytes);
      bench.unpack(slot, bytes.length, packing.codec, bodyBytes, () => {});
    }
  });
  bench.release(slot);
  const savedBytes = packed.reduce((sum, { bytes, bodyBytes }) => sum + bodyBytes - bytes.length, 0);
  return {
    packSpeed: data.length / packSeconds,
    unpackSpeed: unpackedBytes > 0 ? unpackedBytes / unpackSeconds : Number.NaN,
    ratio: 1 - savedBytes / data.length,
  };
}

function cpuSecondsOf(work: () => void): number {
  const before = process.cpuUsage();
  work();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1e6;
}

/** @param file bodies that were recorded; default: those that are made here */
export function bench(file?: string): string {
  const kinds: Record<string, Buffer> = file
    ? { [file]: readFileSync(file) }
    : {
        "program text": programBytes(DATA_BYTES),
        "pages half random, half text": halfRandom(),
        "deltas of one word": deltas(),
        "random pages": randomFillSync(Buffer.alloc(DATA_BYTES)),
      };
  const bench = new Workbench(1, 0, console.error);
  const gigabytes = (values: number[]) => (Number.isNaN(values[0]) ? "-" : (median(values) / 1e9).toFixed(2));
  return Object.entries(kinds)
    .map(([kind, data]) => {
      const rows = [[`${kind}, bodies of 256 KiB, one core`, "pack GB/s", "unpack GB/s", "packed to"]];
      for (const packing of PACKINGS) {
        const runs = Array.from({ length: RUNS }, () => measure(bench, data, packing));
        const of = (pick: (run: Figures) => number) => gigabytes(runs.map(pick));
        const ratio = `${(100 * runs[0]!.ratio).toFixed(1)} %`;
        rows.push([nameOf(packing), of((run) => run.packSpeed), of((run) => run.unpackSpeed), ratio]);
      }
      return table(rows);
    })
    .join("\n\n");
}

if (import.meta.main) console.log(bench(process.argv[2]));
