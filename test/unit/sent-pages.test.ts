import fc from "fast-check";
import { expect, test } from "vitest";
import { KIND } from "../../src/stream/format.ts";
import { noting, SentPages } from "../../src/stream/sent-pages.ts";

test("pages are counted once a round, and as sent before from the second round on", () => {
  const sent = new SentPages();
  sent.note("pc.ram", 10, 100);
  sent.note("pc.ram", 100, 20); // ten of them again
  expect([sent.distinctPages, sent.redirtiedPages]).toEqual([110, 0]);
  sent.nextRound();
  sent.note("pc.ram", 0, 20); // ten of them new
  expect([sent.distinctPages, sent.redirtiedPages]).toEqual([130, 10]);
  sent.nextRound();
  sent.note("pc.ram", 0, 5); // in the round before the last two
  sent.note("vga.vram", 0, 5); // of another ramblock
  expect([sent.distinctPages, sent.redirtiedPages]).toEqual([140, 15]);
});

test("whatever the runs, as sets of pages count them", () => {
  const run = fc.record({
    block: fc.constantFrom("a", "b"),
    // Around the ends of words and pieces.
    firstPage: fc.constantFrom(0, 1, 30, 31, 32, 63, 4080, 4095, 4096, 8190, 2 ** 40 - 3),
    pages: fc.integer({ min: 1, max: 5000 }),
    isNextRound: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(run, { maxLength: 12 }), (runs) => {
      const sent = new SentPages();
      const before = new Set<string>();
      let now = new Set<string>();
      let [distinct, redirtied] = [0, 0];
      for (const { block, firstPage, pages, isNextRound } of runs) {
        if (isNextRound) {
          sent.nextRound();
          for (const page of now) before.add(page);
          now = new Set();
        }
        sent.note(block, firstPage, pages);
        for (let page = firstPage; page < firstPage + pages; page++) {
          const name = `${block} ${page}`;
          if (now.has(name)) continue;
          now.add(name);
          distinct++;
          if (before.has(name)) redirtied++;
        }
      }
      expect([sent.distinctPages, sent.redirtiedPages]).toEqual([distinct, redirtied]);
    }),
    { numRuns: 60 },
  );
});

test("beyond its bound pages count as distinct each time, and nothing is kept of them", () => {
  const sent = new SentPages(1);
  sent.note("pc.ram", 0, 10);
  sent.note("pc.ram", 4096, 10);
  sent.note("pc.ram", 4096, 10);
  expect([sent.distinctPages, sent.redirtiedPages]).toEqual([30, 0]);
  sent.nextRound();
  sent.note("pc.ram", 4096, 10);
  expect([sent.distinctPages, sent.redirtiedPages]).toEqual([40, 10]);
});

test("pages of all forms are noted on their way", () => {
  const sent = new SentPages();
  const seen: string[] = [];
  const handler = noting(
    {
      raw: (from, to) => seen.push(`raw ${from} ${to}`),
      pages: (kind, from, to, firstPage, records, block) =>
        seen.push(`pages ${kind} ${from} ${to} ${firstPage} ${records} ${block}`),
      event: ({ type }) => seen.push(type),
    },
    sent,
  );
  handler.pages(KIND.literal, 0, 8208, 7, 2, "pc.ram");
  handler.event!({ type: "page", offset: 0, form: "named-page", block: "vga.vram", page: 3, bytes: 4113 });
  handler.event!({ type: "end-of-stream", offset: 0 });
  handler.raw(8208, 8209);
  expect(seen).toEqual(["pages 2 0 8208 7 2 pc.ram", "page", "end-of-stream", "raw 8208 8209"]);
  expect(sent.distinctPages).toBe(3);
});
