import { readdirSync, readFileSync } from "node:fs";
import { zstdDecompressSync } from "node:zlib";
import { inspectStream, type Read, type StreamReport } from "../../../src/cli/inspect-stream.ts";

const FOLDER = new URL("../../golden/", import.meta.url);

/** What QEMU said of the migration when it was recorded (qapi/migration.json, MigrationRAM and others). */
export interface QemuFigures {
  version: string;
  /** Pages of zeros. */
  duplicate: number;
  normal: number;
  xbzrlePages: number;
  compressedPages: number;
  dirtySyncCount: number;
}

/** NAME.json beside NAME.stream.zst: QEMU's figures, and what `godwit inspect --json` says. */
export interface Expectation {
  qemu: QemuFigures;
  inspection: StreamReport;
}

/** A stream that a real QEMU wrote (test/golden/README.md). */
export interface GoldenStream extends Expectation {
  name: string;
  bytes: Buffer;
}

export function goldenPath(name: string, suffix: "stream.zst" | "json"): URL {
  return new URL(`${name}.${suffix}`, FOLDER);
}

/** All golden streams, the smallest first. */
export function goldenStreams(): GoldenStream[] {
  return readdirSync(FOLDER)
    .filter((file) => file.endsWith(".stream.zst"))
    .map((file) => goldenStream(file.slice(0, -".stream.zst".length)))
    .sort((a, b) => a.bytes.length - b.bytes.length);
}

export function goldenStream(name: string): GoldenStream {
  const expectation = JSON.parse(readFileSync(goldenPath(name, "json"), "utf8")) as Expectation;
  return { name, bytes: zstdDecompressSync(readFileSync(goldenPath(name, "stream.zst"))), ...expectation };
}

/** Inspects a stream that is in memory, given in chunks of at most `chunkBytes`. */
export function inspectBytes(stream: Uint8Array, chunkBytes = Number.POSITIVE_INFINITY): Promise<StreamReport> {
  let at = 0;
  const read: Read = async (region) => {
    const chunk = stream.subarray(at, at + Math.min(region.length, chunkBytes));
    region.set(chunk);
    at += chunk.length;
    return chunk.length;
  };
  return inspectStream(read);
}
