/** Pages whose bits stand in one piece of a bitmap: 512 bytes, 16 MiB of guest memory. */
const PIECE_PAGES = 4096;
/** Pieces kept for all ramblocks together: 2 TiB of guest memory in about 100 MB. */
const MAX_PIECES = 131_072;
const WORD_BITS = 32;

interface Piece {
  /** The round whose pages the bits are; bits of earlier rounds count as clear. */
  round: number;
  bits: Uint32Array;
}

/** The pages of one ramblock that were seen in the current round. */
export type SeenPages = Map<number, Piece>;

/**
 * Tells the rounds of a stream apart. The stream does not mark QEMU's dirty-bitmap syncs; but between two of them QEMU
 * sends a page at most once (migration/ram.c clears its dirty bit), so a page that comes again belongs to a new round. That
 * is a lower bound: rounds without a common page look like one.
 *
 * Memory grows with the pages seen, not with what a ramblock says of its size, and is bounded; pages beyond the bound
 * begin no round.
 */
export class RoundTracker {
  readonly #maxPieces: number;
  #round = 0;
  #pieces = 0;

  constructor(maxPieces = MAX_PIECES) {
    this.#maxPieces = maxPieces;
  }

  /** From here on no page has been seen. */
  begin(): void {
    this.#round++;
  }

  /**
   * Notes `pages` consecutive pages from `firstPage` on.
   *
   * @returns how many of them, from the first on, were not seen before in this round; the others are not noted. All of
   * `pages` when none was; at least 1 right after `begin`.
   */
  note(seen: SeenPages, firstPage: number, pages: number): number {
    let noted = 0;
    while (noted < pages) {
      const page = firstPage + noted;
      const within = page % PIECE_PAGES;
      const wanted = Math.min(pages - noted, PIECE_PAGES - within);
      const bits = this.#bits(seen, (page - within) / PIECE_PAGES);
      const taken = bits === undefined ? wanted : setBits(bits, within, within + wanted);
      noted += taken;
      if (taken < wanted) return noted;
    }
    return noted;
  }

  #bits(seen: SeenPages, index: number): Uint32Array | undefined {
    let piece = seen.get(index);
    if (piece === undefined) {
      if (this.#pieces === this.#maxPieces) return undefined;
      this.#pieces++;
      piece = { round: this.#round, bits: new Uint32Array(PIECE_PAGES / WORD_BITS) };
      seen.set(index, piece);
    } else if (piece.round !== this.#round) {
      piece.round = this.#round;
      piece.bits.fill(0);
    }
    return piece.bits;
  }
}

/** Sets bits [from, to), from the first on up to one that is set already; returns how many it has set. */
function setBits(words: Uint32Array, from: number, to: number): number {
  for (let at = from; at < to; ) {
    const low = at % WORD_BITS;
    const high = Math.min(WORD_BITS, low + to - at);
    const index = (at - low) / WORD_BITS;
    const word = words[index]!;
    const mask = (high === WORD_BITS ? 0 : 1 << high) - (1 << low);
    const hits = word & mask;
    if (hits === 0) {
      words[index] = word | mask;
      at += high - low;
    } else {
      const hit = WORD_BITS - 1 - Math.clz32(hits & -hits);
      words[index] = word | ((1 << hit) - (1 << low));
      return at - low + hit - from;
    }
  }
  return to - from;
}
