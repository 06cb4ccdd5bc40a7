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
