import { PAGE_BYTES } from "./page";

/** Whether `bytes` bytes from `address` are all zero. `bytes` is a multiple of 64. Leaves at the first 64 that are not. */
export function isZero(address: usize, bytes: usize): bool {
  const end = address + bytes;
  while (address < end) {
    const any = v128.or(
      v128.or(v128.load(address), v128.load(address, 16)),
      v128.or(v128.load(address, 32), v128.load(address, 48)),
    );
    if (v128.any_true(any)) return false;
    address += 64;
  }
  return true;
}

/**
 * Writes the addresses (u32 each) of those of `count` pages that are not all zero to `addresses`; returns how many. The
 * pages stand from `first` on, `stride` bytes from each to the next.
 */
export function listNonZero(first: usize, stride: usize, count: u32, addresses: usize): u32 {
  let listed: u32 = 0;
  for (let i: u32 = 0; i < count; i++) {
    if (!isZero(first, PAGE_BYTES)) {
      store<u32>(addresses, <u32>first);
      addresses += 4;
      listed++;
    }
    first += stride;
  }
  return listed;
}
