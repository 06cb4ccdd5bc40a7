/**
 * QEMU's migration stream in numbers. Sources: QEMU `migration/savevm.h` (section types), `migration/ram.c`
 * (RAM_SAVE_FLAG_*), `migration/vmstate.c` (subsections); the same in QEMU 7.2 to 11.1. All numbers are big-endian.
 */

/** QEMU_VM_FILE_MAGIC, "QEVM". */
export const STREAM_MAGIC = 0x5145564d;
/** QEMU_VM_FILE_VERSION. */
export const STREAM_VERSION = 3;

/** QEMU_VM_*: the byte that every section begins with. */
export const SECTION = {
  eof: 0x00,
  start: 0x01,
  part: 0x02,
  end: 0x03,
  full: 0x04,
  subsection: 0x05,
  description: 0x06,
  configuration: 0x07,
  command: 0x08,
  footer: 0x7e,
} as const;

/** RAM_SAVE_FLAG_*: the low 12 bits of a record's header. */
export const RAM_FLAG = {
  zero: 0x02,
  memSize: 0x04,
  page: 0x08,
  eos: 0x10,
  continue: 0x20,
  xbzrle: 0x40,
  hook: 0x80,
  compressPage: 0x100,
  multifdFlush: 0x200,
} as const;

export const PAGE_BYTES = 4096;
export const HEADER_BYTES = 8;
/** A page record: header and page. */
export const PAGE_RECORD_BYTES = HEADER_BYTES + PAGE_BYTES;
/** A zero page record: header and one fill byte. */
export const ZERO_RECORD_BYTES = HEADER_BYTES + 1;
export const FLAGS_PAGE = RAM_FLAG.page | RAM_FLAG.continue;
export const FLAGS_ZERO = RAM_FLAG.zero | RAM_FLAG.continue;
/** Page numbers from here on are not taken for pages, so that they stay exact as JavaScript numbers. */
export const MAX_PAGE = 2 ** 50;

/** The kinds of run; docs/page-format.md uses the same numbers. */
export const KIND = { zero: 1, literal: 2, blank: 3 } as const;
export type Kind = (typeof KIND)[keyof typeof KIND];

/** The bytes of one record of a kind, in the stream. */
export function recordBytesOf(kind: Kind): number {
  return kind === KIND.zero ? ZERO_RECORD_BYTES : PAGE_RECORD_BYTES;
}
