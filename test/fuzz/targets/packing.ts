import { zstdCompressSync, zstdDecompressSync } from "node:zlib";
import { compressSync } from "lz4-napi";
import { LZ4_TABLE_BYTES } from "../../../src/compact/page-kernels.ts";
import { decompressLz4 } from "../../../src/compact/reference/lz4.ts";
import { createKernels } from "../../../src/migration/kernels.ts";
import { runJob } from "../../../src/migration/workers/job.ts";
import { MAX_BODY_BYTES } from "../../../src/wire/messages.ts";
import { goldenStream } from "../../unit/support/golden.ts";
import { mutateBytes } from "../mutate.ts";
import { type FuzzTarget, WrongOutput } from "../target.ts";

const GUARD = Buffer.alloc(64, 0xa5);
const kernels = createKernels(3 * (MAX_BODY_BYTES + 65_536) + LZ4_TABLE_BYTES);
const FROM = kernels.base + 65_536;
const TO = FROM + MAX_BODY_BYTES + 65_536;
const TABLE = TO + MAX_BODY_BYTES + 65_536;

function run(task: "pack" | "unpack", codec: "lz4" | "zstd", input: Uint8Array, capacity: number): Buffer {
  const { bytes: memory, pages } = kernels;
  memory.set(input, FROM);
  memory.set(GUARD, TO - GUARD.length);
  memory.set(GUARD, TO + capacity);
  const job = { task, codec, level: 1, from: FROM, bytes: input.length, to: TO, capacity, table: TABLE } as const;
  const { bytes } = runJob(pages, memory, job);
  for (const at of [TO - GUARD.length, TO + capacity])
    if (!GUARD.equals(memory.subarray(at, at + GUARD.length))) throw new WrongOutput(`${codec} wrote beyond its room`);
  if (bytes < 0 || bytes > capacity) throw new WrongOutput(`${codec} says that it made ${bytes} of ${capacity} bytes`);
  return Buffer.from(memory.slice(TO, TO + bytes));
}

/** More than any room that is tried. */
const MAX_PLAIN_BYTES = 2 * MAX_BODY_BYTES;

/** What the reference makes of it; nothing where it refuses. */
function plainly(codec: "lz4" | "zstd", packed: Uint8Array, capacity: number): Uint8Array {
  if (codec === "lz4") {
    const result = decompressLz4(packed, capacity);
    return typeof result === "number" ? Buffer.alloc(0) : result;
  }
  try {
    const body = zstdDecompressSync(packed, { maxOutputLength: MAX_PLAIN_BYTES });
    return body.length > capacity ? Buffer.alloc(0) : body;
  } catch {
    return Buffer.alloc(0);
  }
}

const pieces = () => {
  const { bytes } = goldenStream("rounds-7.2");
  return [0, 100_000, 500_000].map((at) => bytes.subarray(at, at + 30_000));
};

/**
 * zstdDecompressSync of Node 24.21 keeps 13 KB of each frame that it can't unpack, and two are tried here. A peer that sends such a
 * frame is dropped.
 */
const ZSTD_LEAK_BYTES = 2 * 16 * 1024;

const packing = (codec: "lz4" | "zstd", share: number): FuzzTarget => ({
  name: `bodies packed with ${codec}`,
  share,
  refuses: /^$/, // runJob throws nothing
  leakBytes: codec === "zstd" ? ZSTD_LEAK_BYTES : 0,
  seeds: () =>
    pieces().map((piece) => (codec === "lz4" ? compressSync(Buffer.from(piece)).subarray(4) : zstdCompressSync(piece))),
  input: (seeds, random) => mutateBytes(random.pick(seeds), seeds, random, 100_000),
  feed(input, random) {
    const capacity = random.pick([1, 1000, 29_999, 30_000, 30_001, 200_000, MAX_BODY_BYTES]);
    const unpacked = run("unpack", codec, input, capacity);
    if (Buffer.compare(unpacked, plainly(codec, input, capacity)) !== 0)
      throw new WrongOutput(`${codec} unpacks it to something else than the reference does`);
    if (input.length === 0 || !random.chance(0.3)) return;
    const packed = run("pack", codec, input, input.length + 1000);
    if (Buffer.compare(run("unpack", codec, packed, input.length), input) !== 0)
      throw new WrongOutput(`${codec} does not give back what it has packed`);
  },
});

export const PACKING_TARGETS = [packing("lz4", 8), packing("zstd", 8)];
