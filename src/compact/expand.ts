import { FLAGS_PAGE, FLAGS_ZERO, HEADER_BYTES, KIND, PAGE_BYTES, recordBytesOf } from "../stream/format.ts";

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
