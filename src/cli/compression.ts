import { NONE, type Packing } from "../compact/codec.ts";
import { GodwitError } from "../errors.ts";
import { MAX_THREADS } from "../migration/workers/threads.ts";

/** zstd's own limits (ZSTD_maxCLevel); the levels below 1 are no better than LZ4. */
const MAX_ZSTD_LEVEL = 19;

/**
 * Reads how bodies are to be compressed: `auto`, `none`, `lz4`, `zstd` or `zstd:LEVEL`.
 *
 * @throws CLI_BAD_COMPRESSION
 */
export function parseCompression(text: string): "auto" | Packing {
  if (text === "auto") return "auto";
  if (text === "none") return NONE;
  if (text === "lz4") return { codec: "lz4", level: 0 };
  const [, level = "1"] = /^zstd(?::(\d+))?$/.exec(text) ?? [undefined, "0"];
  if (Number(level) < 1 || Number(level) > MAX_ZSTD_LEVEL) {
    const message = `the compression ${JSON.stringify(text)} is none of auto, none, lz4, zstd and zstd:1 to zstd:${MAX_ZSTD_LEVEL}`;
    throw new GodwitError("CLI_BAD_COMPRESSION", message, { text });
  }
  return { codec: "zstd", level: Number(level) };
}

/**
 * Reads a number of worker threads.
 *
 * @throws CLI_BAD_THREADS
 */
export function parseThreads(text: string): number {
  if (/^\d{1,3}$/.test(text) && Number(text) <= MAX_THREADS) return Number(text);
  const message = `${JSON.stringify(text)} is no number of worker threads: 0 to ${MAX_THREADS}`;
  throw new GodwitError("CLI_BAD_THREADS", message, { text });
}
