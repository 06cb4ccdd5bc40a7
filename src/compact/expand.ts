import {
  FLAGS_PAGE,
  FLAGS_ZERO,
  HEADER_BYTES,
  KIND,
  PAGE_BYTES,
  PAGE_RECORD_BYTES,
  recordBytesOf,
} from "../stream/format.ts";

const PAGES_OF_4_GIB = 2 ** 32 / PAGE_BYTES;

/** The kinds of record that are regenerated from their page number alone. */
export type RegeneratedKind = typeof KIND.zero | typeof KIND.blank;

/** Writes page records. Two siblings keep this contract: the kernel (assembly/expand.ts) and the reference below. */
export interface RecordWriter {
  /** Writes `records` records of `kind` from page `firstPage` on into `target` at `at`; returns the address after them. */
  write(kind: RegeneratedKind, target: Uint8Array, at: number, firstPage: number, records: number): number;
}

/** The plain reference. */
export class ReferenceWriter implements RecordWriter {
  write(kind: RegeneratedKind, target: Uint8Array, at: number, firstPage: number, records: number): number {
    const view = new DataView(target.buffer, target.byteOffset, target.byteLength);
    const recordBytes = recordBytesOf(kind);
    for (let page = firstPage; page < firstPage + records; page++) {
      view.setBigUint64(at, BigInt(page) * BigInt(PAGE_BYTES) + BigInt(kind === KIND.zero ? FLAGS_ZERO : FLAGS_PAGE));
      target.fill(0, at + HEADER_BYTES, at + recordBytes);
      at += recordBytes;
    }
    return at;
  }
}

/** Writes the headers of `count` page records from page `firstPage` on into `target` at `at`, and leaves their pages alone. */
export function writePageHeaders(target: Uint8Array, at: number, firstPage: number, count: number): void {
  const view = new DataView(target.buffer, target.byteOffset + at, count * PAGE_RECORD_BYTES);
  for (let i = 0; i < count; i++) {
    // The address may have 62 bits: its upper and its lower half.
    const page = firstPage + i;
    const low = (page % PAGES_OF_4_GIB) * PAGE_BYTES + FLAGS_PAGE;
    view.setUint32(i * PAGE_RECORD_BYTES, Math.floor(page / PAGES_OF_4_GIB));
    view.setUint32(i * PAGE_RECORD_BYTES + 4, low);
  }
}
