import { CHECKPOINT, DISK, KEPT, SAME } from "../../../src/compact/limits.ts";
import { keyedBlake3 } from "../../../src/compact/reference/blake3.ts";
import { writeVarint, zigzag } from "../../../src/compact/varint.ts";
import { GodwitError } from "../../../src/errors.ts";
import type { DiskReader } from "../../../src/store/disk-reader.ts";
import { FLAGS_PAGE, KIND, PAGE_BYTES, PAGE_RECORD_BYTES } from "../../../src/stream/format.ts";
import { noise } from "./pages.ts";

export const TAG_KEY = Uint8Array.from({ length: 32 }, (_, index) => index);

/** A run of pages as it stands in a body, and as it stood in the stream. */
export interface Piece {
  readonly tokens: Uint8Array;
  readonly payload: Uint8Array;
  readonly raw: Uint8Array;
}

/** The tag of a run by its definition in docs/page-format.md. */
export function runTag(key: Uint8Array, pages: readonly Uint8Array[]): Uint8Array {
  return keyedBlake3(key, Buffer.concat(pages));
}

export function records(firstPage: number, pages: readonly Uint8Array[]): Uint8Array {
  const raw = Buffer.alloc(pages.length * PAGE_RECORD_BYTES);
  pages.forEach((page, index) => {
    const at = index * PAGE_RECORD_BYTES;
    raw.writeBigUInt64BE(BigInt(firstPage + index) * 4096n + BigInt(FLAGS_PAGE), at);
    raw.set(page, at + 8);
  });
  return raw;
}

export function varints(...values: number[]): Uint8Array {
  const bytes = new Uint8Array(values.length * 8);
  const end = values.reduce((at, value) => writeVarint(bytes, at, value), 0);
  return bytes.subarray(0, end);
}

/** A body of its own from one piece after the other: runs do not go on where the last one ended. */
export function bodyOf(pieces: readonly Piece[]): { body: Uint8Array; tokenBytes: number; raw: Uint8Array } {
  const tokens = Buffer.concat(pieces.map((piece) => piece.tokens));
  const body = Buffer.concat([tokens, ...pieces.map((piece) => piece.payload)]);
  return { body, tokenBytes: tokens.length, raw: Buffer.concat(pieces.map((piece) => piece.raw)) };
}

const NOTHING = new Uint8Array(0);

/** Writes pieces that follow each other in one body. */
export class Pieces {
  #expectedPage = 0;
  #lastSource = "";
  #expectedBlock = 0;

  raw(bytes: Uint8Array): Piece {
    return { tokens: varints(bytes.length * 16), payload: bytes, raw: bytes };
  }

  literal(firstPage: number, pages: readonly Uint8Array[]): Piece {
    const raw = records(firstPage, pages);
    return { tokens: varints(pages.length * 16 + KIND.literal, this.#position(firstPage, pages)), payload: raw, raw };
  }

  /** Into slots of the page cache; the first token about slots in its body. */
  kept(firstPage: number, slot: number, pages: readonly Uint8Array[]): Piece {
    const raw = records(firstPage, pages);
    const numbers = [pages.length * 16 + KEPT, this.#position(firstPage, pages), zigzag(slot)];
    return { tokens: varints(...numbers), payload: raw, raw };
  }

  /** From slots of the page cache; the first token about slots in its body. @param meant what the source had */
  same(firstPage: number, slot: number, meant: readonly Uint8Array[]): Piece {
    const numbers = varints(meant.length * 16 + SAME, this.#position(firstPage, meant), zigzag(slot));
    return {
      tokens: Buffer.concat([numbers, runTag(TAG_KEY, meant)]),
      payload: NOTHING,
      raw: records(firstPage, meant),
    };
  }

  /** @param meant what the source had */
  disk(firstPage: number, disk: number, block: number, meant: readonly Uint8Array[], tag?: Uint8Array): Piece {
    return this.#place(DISK, firstPage, disk, block, meant, tag);
  }

  /** @param meant what the source had */
  checkpoint(firstPage: number, checkpoint: number, page: number, meant: readonly Uint8Array[], tag?: Uint8Array) {
    return this.#place(CHECKPOINT, firstPage, checkpoint, page, meant, tag);
  }

  #place(
    kind: number,
    firstPage: number,
    source: number,
    block: number,
    meant: readonly Uint8Array[],
    tag: Uint8Array = runTag(TAG_KEY, meant),
  ): Piece {
    const expected = `${kind} ${source}` === this.#lastSource ? this.#expectedBlock : 0;
    const position = this.#position(firstPage, meant);
    const numbers = varints(meant.length * 16 + kind, position, source, zigzag(block - expected));
    this.#lastSource = `${kind} ${source}`;
    this.#expectedBlock = block + meant.length;
    return { tokens: Buffer.concat([numbers, tag]), payload: NOTHING, raw: records(firstPage, meant) };
  }

  #position(firstPage: number, { length }: readonly Uint8Array[]): number {
    const position = zigzag(firstPage - this.#expectedPage);
    this.#expectedPage = firstPage + length;
    return position;
  }
}

/** The content of block `block` of a FakeDisk. */
export function blockOf(disk: number, block: number): Uint8Array {
  return noise(disk * 1_000_003 + block * 7919 + 1, PAGE_BYTES);
}

export function blocksOf(disk: number, first: number, count: number): Uint8Array[] {
  return Array.from({ length: count }, (_, index) => blockOf(disk, first + index));
}

/** A disk whose reads end when the test wants them to. */
export class FakeDisk implements DiskReader {
  readonly sizeBytes: number;
  readonly place = { kind: "file", path: "/fake" } as const;
  readonly #disk: number;
  /** Reads that are held back, with the first block of each, while `isHeld`. */
  readonly held: { block: number; release: (error?: GodwitError) => void }[] = [];
  isHeld = false;
  /** Blocks that cannot be read. */
  readonly broken = new Set<number>();
  reads = 0;

  constructor(disk: number, blocks: number) {
    this.#disk = disk;
    this.sizeBytes = blocks * PAGE_BYTES;
  }

  read(offsetBytes: number, target: Uint8Array): Promise<void> {
    return this.readScattered(offsetBytes, [target]);
  }

  async readScattered(offsetBytes: number, targets: readonly Uint8Array[]): Promise<void> {
    this.reads++;
    const block = offsetBytes / PAGE_BYTES;
    if (this.isHeld) {
      await new Promise<void>((resolve, reject) => {
        this.held.push({ block, release: (error) => (error ? reject(error) : resolve()) });
      });
    }
    let at = offsetBytes;
    for (const target of targets) {
      for (let done = 0; done < target.length; done += PAGE_BYTES, at += PAGE_BYTES) {
        const number = at / PAGE_BYTES;
        if (this.broken.has(number) || at >= this.sizeBytes) throw new GodwitError("STORE_DISK_READ", "a bad block");
        target.set(blockOf(this.#disk, number), done);
      }
    }
  }

  async *allocatedExtents() {
    yield { offsetBytes: 0, lengthBytes: this.sizeBytes };
  }

  async identity() {
    return null;
  }

  async [Symbol.asyncDispose](): Promise<void> {}
}
