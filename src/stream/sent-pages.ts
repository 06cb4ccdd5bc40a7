import type { StreamHandler } from "./events.ts";

/** Pages whose bits stand in one piece of a bitmap: 1 KiB, 16 MiB of guest memory. */
const PIECE_PAGES = 4096;
/** Pieces kept for all ramblocks together: 2 TiB of guest memory in about 140 MB. */
const MAX_PIECES = 131_072;
const WORD_BITS = 32;
const PIECE_WORDS = PIECE_PAGES / WORD_BITS;

interface Piece {
  /** The round whose pages `now` has; that of earlier rounds belongs to `before`. */
  round: number;
  readonly now: Uint32Array;
  readonly before: Uint32Array;
}

/**
 * Counts distinct pages by round. Nothing is allocated for a page, nor for one that is seen again; memory grows with the pages
 * seen, not with what a ramblock says of its size, and is bounded: pages beyond the bound count as distinct each time.
 */
export class SentPages {
  readonly #maxPieces: number;
  readonly #blocks = new Map<string, Map<number, Piece>>();
  #round = 0;
  #pieces = 0;
  #distinctPages = 0;
  #redirtiedPages = 0;
  /** Where the last pages were: the next ones most likely are too. */
  #block: string | undefined;
  #blockPieces = new Map<number, Piece>();
  #index = -1;
  #piece: Piece | undefined;

  constructor(maxPieces = MAX_PIECES) {
    this.#maxPieces = maxPieces;
  }

  /** Of all rounds, those that were not seen before in theirs. */
  get distinctPages(): number {
    return this.#distinctPages;
  }

  /** Of these, those that had been seen in an earlier round. */
  get redirtiedPages(): number {
    return this.#redirtiedPages;
  }

  /** A round begins. */
  nextRound(): void {
    this.#round++;
  }

  /** `pages` consecutive pages of ramblock `block` from `firstPage` on were sent. */
  note(block: string, firstPage: number, pages: number): void {
    for (let page = firstPage; page < firstPage + pages; ) {
      const within = page % PIECE_PAGES;
      const count = Math.min(firstPage + pages - page, PIECE_PAGES - within);
      const piece = this.#pieceOf(block, (page - within) / PIECE_PAGES);
      if (piece !== undefined) this.#noteIn(piece, within, within + count);
      else {
        this.#distinctPages += count;
        if (this.#round > 0) this.#redirtiedPages += count;
      }
      page += count;
    }
  }

  #noteIn({ now, before }: Piece, from: number, to: number): void {
    for (let at = from; at < to; ) {
      const low = at % WORD_BITS;
      const high = Math.min(WORD_BITS, low + to - at);
      const index = (at - low) / WORD_BITS;
      const mask = (high === WORD_BITS ? 0 : 1 << high) - (1 << low);
      const fresh = mask & ~now[index]!;
      now[index]! |= mask;
      this.#distinctPages += bitCount(fresh);
      this.#redirtiedPages += bitCount(fresh & before[index]!);
      at += high - low;
    }
  }

  #pieceOf(block: string, index: number): Piece | undefined {
    if (block !== this.#block) {
      this.#block = block;
      this.#blockPieces = this.#blocks.get(block) ?? new Map<number, Piece>();
      this.#blocks.set(block, this.#blockPieces);
    } else if (index === this.#index && this.#piece?.round === this.#round) return this.#piece;
    this.#index = index;
    this.#piece = this.#blockPieces.get(index);
    if (this.#piece === undefined && this.#pieces < this.#maxPieces) {
      this.#pieces++;
      this.#piece = { round: this.#round, now: new Uint32Array(PIECE_WORDS), before: new Uint32Array(PIECE_WORDS) };
      this.#blockPieces.set(index, this.#piece);
    }
    if (this.#piece !== undefined && this.#piece.round !== this.#round) {
      const { now, before } = this.#piece;
      for (let i = 0; i < PIECE_WORDS; i++) before[i]! |= now[i]!;
      now.fill(0);
      this.#piece.round = this.#round;
    }
    return this.#piece;
  }
}

/** Hands on to `handler` what the parser finds, and notes the pages of it. */
export function noting(handler: StreamHandler, sent: SentPages): StreamHandler {
  return {
    raw: (from, to) => handler.raw(from, to),
    pages: (kind, from, to, firstPage, records, block) => {
      sent.note(block, firstPage, records);
      handler.pages(kind, from, to, firstPage, records, block);
    },
    event: (event) => {
      if (event.type === "page") sent.note(event.block, event.page, 1);
      handler.event?.(event);
    },
  };
}

/** Bits set in a word (Hacker's Delight, section 5-1). */
function bitCount(word: number): number {
  let bits = word - ((word >>> 1) & 0x55555555);
  bits = (bits & 0x33333333) + ((bits >>> 2) & 0x33333333);
  return Math.imul((bits + (bits >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}
