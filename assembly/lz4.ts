// The LZ4 block format (lz4's doc/lz4_Block_format.md). src/compact/reference/lz4.ts is its plain sibling.
//
// A sequence is a token (u8: literals << 4 | match length - 4), the literals, and the match's offset (u16). A field of
// 15 goes on in bytes of 255 and a last one below: the literals' after the token, the match's after the offset. The
// last sequence ends with its literals.

const MIN_MATCH: usize = 4;
const MAX_OFFSET: usize = 65535;
/** The block's last 5 bytes are literals, and its last match starts 12 bytes before the end or earlier. */
const LAST_LITERALS: usize = 5;
const MATCH_START_LIMIT: usize = 12;
/** A token's field that goes on in further bytes. */
const GOES_ON: usize = 15;

/** The compressor's table: the last position of each hash of 5 bytes (u32 each). 16 KiB stay in the L1 cache. */
const TABLE_BITS: u64 = 12;
const TABLE_BYTES: usize = 4 << <usize>TABLE_BITS;
/** prime5bytes of lz4.c */
const HASH_PRIME: u64 = 889523592379;
/** After 64 positions without a match the search steps by 2, after as many again by 3, and so on (LZ4_skipTrigger). */
const SKIP_TRIGGER: usize = 6;

/** What decompressLz4 returns for a block cut off, for output that does not fit, for a match outside the output. */
const CUT_OFF: i32 = -1;
const TOO_LONG: i32 = -2;
const BAD_OFFSET: i32 = -3;

// @ts-ignore: decorator
@inline function slotOf(table: usize, at: usize): usize {
  return table + (<usize>(((load<u64>(at) << 24) * HASH_PRIME) >> (64 - TABLE_BITS)) << 2);
}

/** Copies `bytes` bytes and nothing beyond them. */
function copyExactly(to: usize, from: usize, bytes: usize): void {
  while (bytes >= 16) {
    v128.store(to, v128.load(from));
    to += 16;
    from += 16;
    bytes -= 16;
  }
  while (bytes > 0) {
    store<u8>(to++, load<u8>(from++));
    bytes--;
  }
}

/** Copies 16 bytes at a time, up to 15 more than asked for. */
// @ts-ignore: decorator
@inline function copyLoosely(to: usize, from: usize, bytes: usize): void {
  const end = to + bytes;
  do {
    v128.store(to, v128.load(from));
    to += 16;
    from += 16;
  } while (to < end);
}

/** The bytes in which a length goes on. */
// @ts-ignore: decorator
@inline function extraBytes(length: usize): usize {
  return length < GOES_ON ? <usize>0 : (length - GOES_ON) / 255 + 1;
}

/** Writes the bytes in which a length goes on; returns the address after them. */
// @ts-ignore: decorator
@inline function writeExtra(to: usize, length: usize): usize {
  if (length >= GOES_ON) {
    for (length -= GOES_ON; length >= 255; length -= 255) store<u8>(to++, 255);
    store<u8>(to++, length);
  }
  return to;
}

/** The end of the match that goes on at `at` and, earlier, at `match`; `limit` at the latest. */
// @ts-ignore: decorator
@inline function matchEnd(at: usize, match: usize, limit: usize): usize {
  while (limit - at >= 8) {
    const difference = load<u64>(at) ^ load<u64>(match);
    if (difference != 0) return at + <usize>(ctz(difference) >> 3);
    at += 8;
    match += 8;
  }
  while (at < limit && load<u8>(at) == load<u8>(match)) {
    at++;
    match++;
  }
  return at;
}

/**
 * Compresses `bytes` bytes from `from` on to `to`, at most `capacity` bytes of it. `table` is 16 KiB to work in.
 * Returns the bytes written, 0 if the block does not fit; what stands within `capacity` is undefined then.
 */
export function compressLz4(from: usize, bytes: u32, to: usize, capacity: u32, table: usize): u32 {
  memory.fill(table, 0, TABLE_BYTES);
  const start = to;
  const toEnd = to + capacity;
  const end = from + bytes;
  let literals = from;
  if (bytes > <u32>MATCH_START_LIMIT) {
    const lastStart = end - MATCH_START_LIMIT;
    const limit = end - LAST_LITERALS;
    let at = from + 1;
    while (true) {
      let match: usize = 0;
      let tries: usize = 1 << SKIP_TRIGGER;
      while (at <= lastStart) {
        const slot = slotOf(table, at);
        match = from + load<u32>(slot);
        store<u32>(slot, at - from);
        if (load<u32>(match) == load<u32>(at) && at - match <= MAX_OFFSET) break;
        at += tries++ >> SKIP_TRIGGER;
      }
      if (at > lastStart) break;
      const stop = matchEnd(at + MIN_MATCH, match + MIN_MATCH, limit);
      while (at > literals && match > from && load<u8>(at - 1) == load<u8>(match - 1)) {
        at--;
        match--;
      }

      const count = at - literals;
      const length = stop - at - MIN_MATCH;
      const needed: usize = 3 + count + extraBytes(count) + extraBytes(length);
      if (needed > toEnd - to) return 0;
      store<u8>(to, (min(count, GOES_ON) << 4) | min(length, GOES_ON));
      to = writeExtra(to + 1, count);
      // The literals end as late as 12 bytes before the end: 16 at a time may be too many on either side.
      if (toEnd - to >= count + 16 && end - literals >= count + 16) copyLoosely(to, literals, count);
      else copyExactly(to, literals, count);
      to += count;
      store<u16>(to, at - match);
      to = writeExtra(to + 2, length);

      at = literals = stop;
      if (at <= lastStart) store<u32>(slotOf(table, at - 2), at - 2 - from);
    }
  }
  const count = end - literals;
  if (1 + count + extraBytes(count) > toEnd - to) return 0;
  store<u8>(to, min(count, GOES_ON) << 4);
  to = writeExtra(to + 1, count);
  copyExactly(to, literals, count);
  return <u32>(to + count - start);
}

/** Copies a match of `length` bytes; it overlaps itself where `offset` is less. Nothing is written from `toEnd` on. */
function copyMatch(to: usize, offset: usize, length: usize, toEnd: usize): void {
  const end = to + length;
  if (offset < 16) {
    // The pattern repeats: from a multiple of it that is at least 16 bytes long, copies of 16 bytes do not overlap.
    const distance = offset * ((15 + offset) / offset);
    const whole = min(to + distance - offset, end);
    while (to < whole) {
      store<u8>(to, load<u8>(to - offset));
      to++;
    }
    offset = distance;
  }
  while (to < end && toEnd - to >= 16) {
    v128.store(to, v128.load(to - offset));
    to += 16;
  }
  while (to < end) {
    store<u8>(to, load<u8>(to - offset));
    to++;
  }
}

/**
 * Decompresses the block of `bytes` bytes from `from` on to `to`, at most `capacity` bytes of it (below 2 GiB). Nothing
 * is taken on trust, and nothing outside the two ranges is read or written. Returns the bytes written, or -1 if the
 * block is cut off, -2 if its output does not fit, -3 if a match lies outside the output; what stands within `capacity`
 * is undefined then.
 */
export function decompressLz4(from: usize, bytes: u32, to: usize, capacity: u32): i32 {
  const start = to;
  const toEnd = to + capacity;
  const end = from + bytes;
  while (from < end) {
    const token: usize = load<u8>(from++);
    let count = token >> 4;
    let length = token & GOES_ON;
    if (count < GOES_ON && end - from >= 18 && toEnd - to >= 32) {
      // Room for any literals and any match whose lengths stand in the token.
      v128.store(to, v128.load(from));
      from += count;
      to += count;
      const offset: usize = load<u16>(from);
      if (length < GOES_ON && offset >= 16 && offset <= to - start) {
        v128.store(to, v128.load(to - offset));
        store<u16>(to, load<u16>(to - offset + 16), 16);
        from += 2;
        to += length + MIN_MATCH;
        continue;
      }
    } else {
      if (count == GOES_ON) {
        let more: usize;
        do {
          if (from == end) return CUT_OFF;
          more = load<u8>(from++);
          count += more;
          if (count > capacity) return TOO_LONG;
        } while (more == 255);
      }
      if (count > end - from) return CUT_OFF;
      if (count > toEnd - to) return TOO_LONG;
      if (end - from >= count + 16 && toEnd - to >= count + 16) copyLoosely(to, from, count);
      else copyExactly(to, from, count);
      from += count;
      to += count;
      if (from == end) return <i32>(to - start);
      if (end - from < 2) return CUT_OFF;
    }
    const offset: usize = load<u16>(from);
    from += 2;
    if (offset == 0 || offset > to - start) return BAD_OFFSET;
    if (length == GOES_ON) {
      let more: usize;
      do {
        if (from == end) return CUT_OFF;
        more = load<u8>(from++);
        length += more;
        if (length > capacity) return TOO_LONG;
      } while (more == 255);
    }
    length += MIN_MATCH;
    if (length > toEnd - to) return TOO_LONG;
    copyMatch(to, offset, length, toEnd);
    to += length;
  }
  return CUT_OFF;
}
