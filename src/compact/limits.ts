/** The version of docs/page-format.md that this program writes and reads. */
export const PAGE_FORMAT = 3;

/** Kinds 0 and 4 to 8 of docs/page-format.md; kinds 1 to 3 are KIND of src/stream/format.ts. */
export const RAW = 0;
export const DISK = 4;
export const CHECKPOINT = 5;
export const SAME = 6;
export const DELTA = 7;
export const KEPT = 8;
/** Pages of one token with a tag: what the tag is made of then fits into one page. */
export const MAX_TAGGED_PAGES = 256;

/** Deltas of one token, as the encoder writes them. */
export const MAX_DELTA_PAGES = 64;
/**
 * The longest difference that the encoder writes. Beyond half of a page it saves less than packing does with literal ones too,
 * which need not be moved in memory.
 */
export const MAX_DIFFERENCE_BYTES = 2048;

/**
 * Payload at which a batch is closed. zstd needs 256 KiB a call to reach its speed (docs/benchmarks.md), and at 500 Mbit/s
 * this is 4 ms of link: little enough to wait for.
 */
export const BATCH_PAYLOAD_BYTES = 256 * 1024;
/** Tokens at which a batch is closed: at worst (single zero pages far apart) 10 bytes a token. */
export const BATCH_TOKEN_BYTES = 32 * 1024;
/** Raw bytes at which a batch is closed: no body regenerates more. */
export const BATCH_RAW_BYTES = 4 * 1024 * 1024;
/** No body is longer; docs/wire-protocol.md has the same number. */
export const MAX_BODY_BYTES = (1 << 20) + (64 << 10);
