// The page record of QEMU's RAM section, as in migration/ram.c (save_page_header, save_zero_page, save_normal_page):
// a big-endian u64 of page address | flags, then for a normal page its bytes, for a zero page one fill byte.
// Shared by the kernels; src/stream/format.ts is the same for TypeScript, and one suite runs over both.

// @ts-ignore: decorator
@inline export const PAGE_BYTES: usize = 4096;
// @ts-ignore: decorator
@inline export const HEADER_BYTES: usize = 8;
// @ts-ignore: decorator
@inline export const PAGE_RECORD_BYTES: usize = 4104;
// @ts-ignore: decorator
@inline export const ZERO_RECORD_BYTES: usize = 9;
/** RAM_SAVE_FLAG_PAGE | RAM_SAVE_FLAG_CONTINUE */
// @ts-ignore: decorator
@inline export const FLAGS_PAGE: u64 = 0x28;
/** RAM_SAVE_FLAG_ZERO | RAM_SAVE_FLAG_CONTINUE */
// @ts-ignore: decorator
@inline export const FLAGS_ZERO: u64 = 0x22;

// The kinds of run, as in docs/page-format.md.
// @ts-ignore: decorator
@inline export const KIND_ZERO: u32 = 1;
// @ts-ignore: decorator
@inline export const KIND_LITERAL: u32 = 2;
// @ts-ignore: decorator
@inline export const KIND_BLANK: u32 = 3;
