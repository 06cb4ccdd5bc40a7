import type { OtherPage } from "./events.ts";
import { isPrintable, name8 } from "./fields.ts";
import { HEADER_BYTES, PAGE_BYTES, RAM_FLAG } from "./format.ts";

/** A page record that the scanner leaves, and that travels as raw bytes. */
export interface OtherPageRecord {
  readonly form: OtherPage;
  readonly block: string;
  /** Of all of the record. */
  readonly bytes: number;
}

/**
 * Reads the page record at `at`, whose header is there, in whatever form (QEMU migration/ram.c, ram_load_precopy).
 *
 * @param lastBlock the ramblock of the record before, which RAM_SAVE_FLAG_CONTINUE means
 * @returns undefined when it is cut off, or why it is no page record
 */
export function readOtherPage(
  view: DataView,
  at: number,
  end: number,
  flags: number,
  lastBlock: string,
): OtherPageRecord | { readonly why: string } | undefined {
  let body = at + HEADER_BYTES;
  let block = lastBlock;
  const isNamed = (flags & RAM_FLAG.continue) === 0;
  if (isNamed) {
    const name = name8(view, body, end);
    if (name === undefined) return undefined;
    if (!isPrintable(name)) return { why: `flags 0x${flags.toString(16)} without the name of a ramblock` };
    body += 1 + name.length;
    block = name;
  }
  const found = (form: OtherPage, bodyBytes: number) =>
    body + bodyBytes > end ? undefined : { form, block, bytes: body + bodyBytes - at };
  switch (flags & ~RAM_FLAG.continue) {
    case RAM_FLAG.zero:
      return found(isNamed ? "named-zero" : "filled", 1);
    case RAM_FLAG.page:
      return found("named-page", PAGE_BYTES);
    case RAM_FLAG.xbzrle: {
      // One byte of flags (ENCODING_FLAG_XBZRLE), the length, the difference (save_xbzrle_page).
      if (end - body < 3) return undefined;
      const bytes = view.getUint16(body + 1);
      return bytes > PAGE_BYTES ? { why: "an XBZRLE page is longer than a page" } : found("xbzrle", 3 + bytes);
    }
    case RAM_FLAG.compressPage: {
      // The length, then zlib's bytes (QEMU before 9.1).
      if (end - body < 4) return undefined;
      const bytes = view.getUint32(body);
      return bytes > PAGE_BYTES + 64
        ? { why: "a compressed page is longer than a page" }
        : found("compressed", 4 + bytes);
    }
    default:
      return { why: `no record of RAM has the flags 0x${flags.toString(16)}` };
  }
}
