import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { BodySlots } from "../../src/migration/body-slots.ts";
import { type DataHeader, MAX_BODY_BYTES } from "../../src/wire/messages.ts";

const header = (encodedBytes: number): DataHeader => {
  return { rawOffset: 0, rawBytes: 1, bodyBytes: encodedBytes, tokenBytes: 0, codec: "none", encodedBytes };
};

describe("room for bodies", () => {
  test("any bodies, released in any order, keep their bytes; and what is released is there again", () => {
    const steps = fc.array(fc.tuple(fc.integer({ min: 1, max: MAX_BODY_BYTES }), fc.nat(3)), { maxLength: 120 });
    fc.assert(
      fc.property(steps, (steps) => {
        const slots = new BodySlots(0);
        const held: { slot: Uint8Array; mark: number }[] = [];
        const release = (index: number) => {
          const [{ slot, mark }] = held.splice(index, 1) as [(typeof held)[0]];
          expect([slot[0], slot.at(-1)]).toEqual([mark, mark]);
          slots.release(slot);
        };
        for (const [index, [bytes, which]] of steps.entries()) {
          const slot = slots.take(header(bytes), false);
          if (slot === undefined) {
            expect(held.length).toBeGreaterThan(0);
            release(Math.min(which, held.length - 1));
            continue;
          }
          expect(slot.length).toBe(bytes);
          slot[0] = slot[bytes - 1] = index;
          held.push({ slot, mark: index });
        }
        while (held.length > 0) release(held.length - 1);
        expect(slots.take(header(MAX_BODY_BYTES), false)).toBeDefined();
      }),
      { numRuns: 60 },
    );
  });

  test("holds as many small bodies as a window may have", () => {
    const slots = new BodySlots(0);
    for (let i = 0; i < 1000; i++) expect(slots.take(header(5000), false)).toBeDefined();
  });

  test("gives more while a REPAIR is owed, up to a bound", () => {
    const slots = new BodySlots(2.5 * MAX_BODY_BYTES);
    while (slots.take(header(MAX_BODY_BYTES), false) !== undefined);
    const extra = slots.take(header(MAX_BODY_BYTES), true)!;
    expect(slots.take(header(MAX_BODY_BYTES), true)).toBeDefined();
    expect(() => slots.take(header(MAX_BODY_BYTES), true)).toThrow(expect.objectContaining({ code: "PEER_WINDOW" }));
    slots.release(extra);
    expect(slots.take(header(MAX_BODY_BYTES), true)).toBeDefined();
  });
});
