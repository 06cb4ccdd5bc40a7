import { randomBytes } from "node:crypto";
import fc from "fast-check";
import { expect, test } from "vitest";
import { codeOf, contentOf, joined, newStore, PAGE_BYTES, pageOf, VM } from "./support/checkpoint-stores.ts";

type Step = { first: number; contents: number[] } | { first: number; zeros: number } | "drain";

const STEP: fc.Arbitrary<Step> = fc.oneof(
  // Content 0 is a page of zeros.
  fc.record({ first: fc.nat({ max: 700 }), contents: fc.array(fc.nat({ max: 9 }), { minLength: 1, maxLength: 130 }) }),
  fc.record({ first: fc.nat({ max: 700 }), zeros: fc.nat({ max: 200 }) }),
  fc.constant("drain" as const),
);

const CONTENTS = Array.from({ length: 10 }, (_, number) => (number === 0 ? Buffer.alloc(PAGE_BYTES) : pageOf(number)));

test("any order of pages and zeros: the last word on each page counts", async () => {
  const store = await newStore();
  const property = fc.asyncProperty(fc.array(STEP, { maxLength: 30 }), async (steps) => {
    await using writer = await store.create(VM);
    const memory = new Map<number, number>();
    for (const step of steps) {
      if (step === "drain") await writer.drained();
      else if ("zeros" in step) {
        writer.zero(step.first, step.zeros);
        for (let page = 0; page < step.zeros; page++) memory.delete(step.first + page);
      } else {
        const pages = Buffer.concat(step.contents.map((content) => CONTENTS[content]!));
        writer.add(step.first, pages);
        pages.fill(0xee); // they were copied
        for (const [index, content] of step.contents.entries()) memory.set(step.first + index, content);
      }
    }
    const { id, pages } = await writer.finish();
    const expected = [...memory].filter(([, content]) => content > 0).sort(([a], [b]) => a - b);
    await using reader = await store.open(id);
    const numbers = await joined(reader.pageNumbers());
    expect(expected.map((_, at) => Number(numbers.readBigUInt64LE(at * 8)))).toEqual(expected.map(([page]) => page));
    expect(pages).toBe(expected.length);
    const content = Buffer.concat(expected.map(([, number]) => CONTENTS[number]!));
    expect((await contentOf(store, id)).equals(content)).toBe(true);
    await store.delete(id);
  });
  await fc.assert(property, { numRuns: 60 });
});

test("a writer that has ended takes nothing more", async () => {
  const store = await newStore();
  const writer = await store.create(VM);
  await writer.abort();
  expect(() => writer.add(0, pageOf(1))).toThrow(TypeError);
  await expect(writer.finish()).rejects.toThrow(TypeError);
  await writer.abort();
  expect(await codeOf(store.create(VM).then((next) => next.abort()))).toBe("none");
});

test("after a failure nothing more is taken, and nothing appears", async () => {
  const store = await newStore(20_000);
  const writer = await store.create(VM);
  writer.add(0, randomBytes(16 * PAGE_BYTES));
  expect(await codeOf(writer.drained())).toBe("STORE_TOO_BIG");
  expect(() => writer.add(0, pageOf(1))).toThrow("does not fit");
  expect(await codeOf(writer.drained())).toBe("STORE_TOO_BIG");
  expect(await codeOf(writer.finish())).toBe("STORE_TOO_BIG");
  expect(await store.list()).toEqual([]);
});

test("page numbers are below 2⁴⁰", async () => {
  const store = await newStore();
  await using writer = await store.create(VM);
  for (const first of [-1, 0.5, 2 ** 40, Number.NaN]) expect(() => writer.add(first, pageOf(1))).toThrow(RangeError);
  expect(() => writer.add(0, new Uint8Array(100))).toThrow(RangeError);
  writer.add(2 ** 40 - 1, pageOf(1));
  const { id } = await writer.finish();
  await using reader = await store.open(id);
  expect((await joined(reader.pageNumbers())).readBigUInt64LE()).toBe(2n ** 40n - 1n);
});
