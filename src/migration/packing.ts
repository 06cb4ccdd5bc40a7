import { promisify } from "node:util";
import { constants, zstdCompress, zstdDecompress } from "node:zlib";
import { GodwitError } from "../errors.ts";

const compress = promisify(zstdCompress);
const decompress = promisify(zstdDecompress);

/** Level 1: on memory pages higher levels gain a few percent and cost several times the CPU (bench/codec). */
const LEVEL = 1;

/** Packs a body with zstd on Node's thread pool. */
export function packBody(body: Uint8Array): Promise<Buffer> {
  return compress(body, { params: { [constants.ZSTD_c_compressionLevel]: LEVEL } });
}

/**
 * Unpacks a body that must come to exactly `bodyBytes`; never allocates more than that.
 *
 * @throws GodwitError FORM_PACKING for bytes that are not zstd's or come to another length.
 */
export async function unpackBody(encoded: Uint8Array, bodyBytes: number): Promise<Buffer> {
  let body: Buffer;
  try {
    body = await decompress(encoded, { maxOutputLength: bodyBytes });
  } catch (cause) {
    throw new GodwitError("FORM_PACKING", "the peer sent a body that can't be unpacked", { bodyBytes }, { cause });
  }
  if (body.length !== bodyBytes) {
    throw new GodwitError("FORM_PACKING", "the peer sent a body that unpacks to another length than it says", {
      bodyBytes,
      unpackedBytes: body.length,
    });
  }
  return body;
}
