import fc from "fast-check";
import { expect, test } from "vitest";
import { createKernels } from "../../src/migration/kernels.ts";
import { RawWindow, READ_BYTES } from "../../src/migration/window.ts";
import { MAX_HELD_BYTES } from "../../src/stream/parser.ts";

const CAPACITY = 16 * READ_BYTES;
const kernels = createKernels(MAX_HELD_BYTES + CAPACITY);

test("what is not acknowledged or not parsed is never overwritten, and what the parser sees is in one piece", () => {
  const step = fc.record({
    read: fc.integer({ min: 1, max: READ_BYTES }),
    held: fc.nat(MAX_HELD_BYTES - 1),
    acked: fc.nat(6 * READ_BYTES),
  });
  fc.assert(
    fc.property(fc.array(step, { minLength: 40, maxLength: 60 }), (steps) => {
      const window = new RawWindow(kernels, CAPACITY);
      /** Where each read began; all of its bytes are its number. */
      const reads: number[] = [];
      const byteAt = (offset: number) => reads.findLastIndex((begin) => begin <= offset) & 0xff;
      /** Pieces handed on and not yet acknowledged: where they stand, and their offset. */
      let pieces: { from: number; to: number; offset: number }[] = [];
      let parsed = 0;
      let acked = 0;
      for (const { read, held, acked: ack } of steps) {
        while (!window.hasRoom) {
          acked = Math.min(parsed, acked + ack + READ_BYTES / 4);
          window.release(acked);
          if (acked === parsed && !window.hasRoom) throw new Error("the window is full with everything acknowledged");
        }
        pieces = pieces.filter(({ from, to, offset }) => offset + to - from > acked);
        const region = window.nextRegion();
        const bytes = Math.min(read, region.length);
        region.fill(reads.length & 0xff, 0, bytes);
        reads.push(window.readOffset);
        window.commit(bytes);
        const to = window.writeAt - Math.min(held, window.writeAt - window.parseAt);
        if (to > window.parseAt) pieces.push({ from: window.parseAt, to, offset: parsed });
        parsed += to - window.parseAt;
        window.parsed(to);
        for (const { from, to, offset } of pieces) {
          // The ends of what is not acknowledged are enough: a whole look at every step would take minutes.
          for (const at of [Math.max(from, from + acked - offset), to - 1]) {
            expect(window.bytes[at]).toBe(byteAt(offset + at - from));
          }
        }
        // Any range of it can be had again, also around the end of the ring.
        let offset = acked;
        for (const piece of window.slices(acked, parsed - acked)) {
          if (piece.length > 0)
            expect([piece[0], piece.at(-1)]).toEqual([byteAt(offset), byteAt(offset + piece.length - 1)]);
          offset += piece.length;
        }
        expect(offset).toBe(parsed);
      }
    }),
    { numRuns: 30 },
  );
});

test("a full window has no room until something is acknowledged", () => {
  const window = new RawWindow(kernels, CAPACITY);
  for (let i = 0; i < 16; i++) {
    expect(window.hasRoom).toBe(true);
    window.commit(window.nextRegion().length);
    window.parsed(window.writeAt);
  }
  expect(window.hasRoom).toBe(false);
  window.release(READ_BYTES);
  expect(window.hasRoom).toBe(true);
});

test("a peer's window that is too small to work in is refused", () => {
  expect(() => new RawWindow(kernels, 1 << 20)).toThrow(expect.objectContaining({ code: "PEER_WINDOW" }));
});
