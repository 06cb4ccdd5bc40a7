/** The stream parser alone: bytes in memory → runs, as the sender pushes them. */
import { createKernels } from "../src/migration/kernels.ts";
import { READ_BYTES } from "../src/migration/window.ts";
import { StreamParser } from "../src/stream/parser.ts";
import { median, pageRecords, streamHead, table } from "./support.ts";

const MEMORY_BYTES = 128 << 20;
const RUNS = 5;

/** Guest memory parsed per second, for a stream of pages of which `zeroShare` are zero. */
function measure(zeroShare: number): number {
  const kernels = createKernels(MEMORY_BYTES);
  const head = streamHead();
  const pages = zeroShare === 1 ? 4_000_000 : 30_000;
  const records = pageRecords(Math.min(pages, 4_000_000), zeroShare);
  const memory = kernels.bytes;
  memory.set(head, kernels.base);
  memory.set(records, kernels.base + head.length);
  const speeds: number[] = [];
  for (let run = 0; run < RUNS; run++) {
    let seen = 0;
    const parser = new StreamParser(kernels.scanner, {
      raw: () => {},
      pages: (_kind, _from, _to, _first, count) => {
        seen += count;
      },
    });
    const end = kernels.base + head.length + records.length;
    const startMs = performance.now();
    let parsed = parser.push(memory, kernels.base, kernels.base + head.length);
    for (let read = parsed; read < end; ) {
      read = Math.min(end, read + READ_BYTES);
      parsed = parser.push(memory, parsed, read);
    }
    const seconds = (performance.now() - startMs) / 1000;
    if (seen !== pages) throw new Error(`${seen} of ${pages} pages were seen`);
    speeds.push((pages * 4096) / seconds / 1e9);
  }
  return median(speeds);
}

export function bench(): string {
  const rows = [["stream parser alone, one core", "GB/s of guest memory"]];
  rows.push(["all pages literal", measure(0).toFixed(1)]);
  rows.push(["60 % zero pages, in runs of 64", measure(0.6).toFixed(1)]);
  return table(rows);
}

if (import.meta.main) console.log(bench());
