/** zstd on bodies as the sender packs them: the bytes of a program, by level and by batch. */
import { readFileSync } from "node:fs";
import { constants, zstdCompressSync, zstdDecompressSync } from "node:zlib";
import { median, table } from "./support.ts";

const RUNS = 3;
const BATCHES = [4 << 10, 64 << 10, 256 << 10, 1 << 20];
const LEVELS = [1, 3];

/** Bytes that are like a guest's memory: this program's own Node and libraries, as a guest's page cache holds them. */
function memory(): Buffer {
  return readFileSync(process.execPath).subarray(0, 64 << 20);
}

export function bench(): string {
  const bytes = memory();
  const rows = [["zstd of program text, one core", "batch KiB", "pack GB/s", "unpack GB/s", "packed to"]];
  for (const level of LEVELS) {
    for (const batch of BATCHES) {
      const [packSpeeds, unpackSpeeds]: [number[], number[]] = [[], []];
      let packedBytes = 0;
      for (let run = 0; run < RUNS; run++) {
        const packed: Buffer[] = [];
        const startMs = performance.now();
        for (let at = 0; at < bytes.length; at += batch) {
          packed.push(
            zstdCompressSync(bytes.subarray(at, at + batch), {
              params: { [constants.ZSTD_c_compressionLevel]: level },
            }),
          );
        }
        const packedMs = performance.now();
        for (const body of packed) zstdDecompressSync(body);
        packSpeeds.push(bytes.length / (packedMs - startMs) / 1e6);
        unpackSpeeds.push(bytes.length / (performance.now() - packedMs) / 1e6);
        packedBytes = packed.reduce((sum, body) => sum + body.length, 0);
      }
      const speeds = [median(packSpeeds).toFixed(2), median(unpackSpeeds).toFixed(2)];
      rows.push([
        `level ${level}`,
        `${batch / 1024}`,
        ...speeds,
        `${((100 * packedBytes) / bytes.length).toFixed(0)} %`,
      ]);
    }
  }
  return table(rows);
}

if (import.meta.main) console.log(bench());
