import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { cpus } from "node:os";
import { fileURLToPath } from "node:url";
import { CertificateAuthority } from "../lab/certificates.ts";
import { NONE, type Packing } from "../src/compact/codec.ts";
import {
  FLAGS_PAGE,
  FLAGS_ZERO,
  HEADER_BYTES,
  PAGE_BYTES,
  PAGE_RECORD_BYTES,
  ZERO_RECORD_BYTES,
} from "../src/stream/format.ts";
import { DISK_BLOCKS, diskRecords } from "./disk.ts";

/** Starts a module of bench/ as a process of its own, so that its CPU time is not counted as ours. */
export function startProcess(name: string, ...args: string[]): ChildProcess {
  return fork(fileURLToPath(new URL(name, import.meta.url)), args, { stdio: ["ignore", "inherit", "inherit", "ipc"] });
}

/** The first message that a process sends. */
export async function firstMessage<T>(child: ChildProcess): Promise<T> {
  const [message] = await once(child, "message");
  return message as T;
}

/** The part of a migration stream before the first page: header, and the start of RAM (section 2). */
export function streamHead(): Buffer {
  const head = Buffer.alloc(64);
  let at = head.write("QEVM", 0, "latin1");
  at = head.writeUInt32BE(3, at);
  at = head.writeUInt8(1, at); // SECTION start
  at = head.writeUInt32BE(2, at);
  at += head.write("\x03ram", at, "latin1");
  at = head.writeUInt32BE(0, at);
  at = head.writeUInt32BE(4, at);
  return head.subarray(0, at);
}

/**
 * Page records that can be sent again and again: `pages` pages, of which the share `zeroShare` are zero pages in runs of
 * `zeroRun`, the others of bytes that look random.
 */
export function pageRecords(pages: number, zeroShare = 0, zeroRun = 64): Buffer {
  const records: Buffer[] = [];
  const content = Buffer.alloc(PAGE_BYTES * 64);
  for (let i = 0; i < content.length; i += 4)
    content.writeUInt32LE((Math.imul(i + 1, 2654435761) ^ 0x9e3779b9) >>> 0, i);
  let owed = 0;
  for (let page = 0; page < pages; ) {
    owed += zeroShare;
    if (owed >= zeroRun * (1 - zeroShare) && zeroShare > 0) {
      for (let i = 0; i < zeroRun && page < pages; i++, page++) {
        const record = Buffer.alloc(ZERO_RECORD_BYTES);
        record.writeBigUInt64BE(BigInt(page * PAGE_BYTES + FLAGS_ZERO));
        records.push(record);
      }
      owed = 0;
      continue;
    }
    const record = Buffer.alloc(PAGE_RECORD_BYTES);
    record.writeBigUInt64BE(BigInt(page * PAGE_BYTES + FLAGS_PAGE));
    content.copy(record, HEADER_BYTES, (page % 64) * PAGE_BYTES, ((page % 64) + 1) * PAGE_BYTES);
    records.push(record);
    page++;
  }
  return Buffer.concat(records);
}

/** What the pages of a stream are: random bytes, 60 % of them zero, all on the disk of disk.ts, or a program, packed with LZ4. */
export type Workload = "literal" | "zero" | "disk" | "program";

/** How bodies of a workload are packed. */
export function packingOf(workload: Workload): Packing {
  return workload === "program" ? { codec: "lz4", level: 0 } : NONE;
}

/** Bytes that are like a guest's memory: this program's own Node, as a guest's page cache holds such. */
export function programBytes(bytes: number): Buffer {
  return readFileSync(process.execPath).subarray(16 << 20, (16 << 20) + bytes);
}

/** Page records of a workload that can be sent again and again. */
export function workloadRecords(workload: Workload): { records: Buffer; pages: number } {
  if (workload === "disk") return { records: diskRecords(), pages: DISK_BLOCKS };
  if (workload === "program") return { records: programRecords(4096), pages: 4096 };
  return { records: pageRecords(4096, workload === "zero" ? 0.6 : 0), pages: 4096 };
}

function programRecords(pages: number): Buffer {
  const records = pageRecords(pages);
  const program = programBytes(pages * PAGE_BYTES);
  for (let page = 0; page < pages; page++) {
    program.copy(records, page * PAGE_RECORD_BYTES + HEADER_BYTES, page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
  }
  return records;
}

/** The middle one of several runs, and their span. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)]!;
}

/** What a figure was measured on. */
export function machine(): string {
  const list = cpus();
  return `${list.length} × ${list[0]?.model ?? "unknown CPU"}, Linux, Node ${process.versions.node}`;
}

/** A table, columns padded. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  return rows
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column]!))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}

/** One measurement of an end of the pipeline. */
export interface Speed {
  perCore: number;
  wall: number;
  rssBytes: number;
}

const PIPELINE_RUNS = 3;
const PIPELINE_CASES = [
  ["plain TCP, all pages literal", "plain", "literal"],
  ["TLS, all pages literal", "key", "literal"],
  ["mutual TLS, all pages literal", "certificates", "literal"],
  ["TLS, 60 % zero pages", "key", "zero"],
  ["TLS, all pages on a disk", "key", "disk"],
  ["TLS, program text with LZ4", "key", "program"],
] as const satisfies readonly (readonly [string, string, Workload])[];

/** Measures an end of the pipeline, each run in a process of its own, so that memory is that of one end. */
export async function pipelineTable(end: "sender" | "receiver"): Promise<string> {
  using authority = new CertificateAuthority();
  const made = authority.issue("bench");
  const certificates = authority.tlsFolder({ client: made, server: made });
  const rows = [[`${end}, 2 GiB of guest memory`, "GB/s per core", "GB/s by the clock", "memory MB"]];
  for (let run = 0; run < PIPELINE_RUNS; run++) {
    for (const [name, transport, workload] of PIPELINE_CASES) {
      const child = startProcess(`${end}.ts`, transport === "certificates" ? certificates : transport, workload);
      const { perCore, wall, rssBytes } = await firstMessage<Speed>(child);
      rows.push([name, perCore.toFixed(2), wall.toFixed(2), (rssBytes / 1e6).toFixed(0)]);
    }
  }
  return table(rows);
}
