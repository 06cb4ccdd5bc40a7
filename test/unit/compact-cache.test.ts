// Same, delta and kept pages: what goes in comes out, and hostile bodies.
import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { CacheForms } from "../../src/compact/cache-forms.ts";
import { BodyDecoder } from "../../src/compact/decoder.ts";
import { DELTA, KEPT, SAME } from "../../src/compact/limits.ts";
import { PageSlots } from "../../src/compact/page-slots.ts";
import { encodeDelta } from "../../src/compact/reference/delta.ts";
import { xxh3Secret } from "../../src/compact/xxh3-secret.ts";
import { createKernels } from "../../src/migration/kernels.ts";
import { KIND } from "../../src/stream/format.ts";
import { records, TAG_KEY, varints } from "./support/disk-bodies.ts";
import { noise, PAGE_BYTES } from "./support/pages.ts";
import { decodePlainly } from "./support/plain-decoder.ts";
import { MAX_SLOTS, roundtrip } from "./support/roundtrip.ts";
import { StreamBuilder } from "./support/streams.ts";

const siblings = [
  { name: "kernels", kernels: true },
  { name: "reference", kernels: false },
];

/** What a guest does to a page before it is sent. */
const change = fc.oneof(
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("poke" as const), at: fc.nat(511), by: fc.integer() }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("fill" as const), at: fc.nat(3), by: fc.nat(6) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("half" as const), at: fc.nat(511), by: fc.integer() }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("none" as const), at: fc.nat(0), by: fc.nat(0) }) },
);
const stretch = fc.record({
  block: fc.constantFrom("pc.ram", "vga.vram"),
  firstPage: fc.nat(20),
  changes: fc.array(change, { minLength: 1, maxLength: 6 }),
});
const stretches = fc.array(stretch, { maxLength: 12 });

type Stretch = typeof stretch extends fc.Arbitrary<infer T> ? T : never;

/** The stream of a guest that writes and is sent, stretch by stretch. */
function streamOf(stretches: readonly Stretch[]): Buffer {
  const pages = new Map<string, Uint8Array>();
  const builder = new StreamBuilder().header().ramStart(2, { "pc.ram": 1 << 24, "vga.vram": 1 << 20 });
  for (const { block, firstPage, changes } of stretches) {
    builder.part(2).zero(1000, block);
    changes.forEach(({ kind, at, by }, index) => {
      const name = `${block} ${firstPage + index}`;
      const page = pages.get(name) ?? noise(by, PAGE_BYTES);
      if (kind === "poke") page.set(noise(by, 8), at * 8);
      else if (kind === "fill") page.set(noise(by, PAGE_BYTES));
      else if (kind === "half") page.fill(by, 0, at * 8);
      pages.set(name, page);
      builder.page(firstPage + index, Uint8Array.from(page));
    });
    builder.eos().footer(2);
  }
  return builder.u8(0).build();
}

describe.each(siblings)("decode(encode(x)) = x with a page cache, with the $name", ({ kernels }) => {
  const chunks = fc.array(fc.integer({ min: 1, max: 20_000 }), { minLength: 1, maxLength: 8 });
  const slots = fc.oneof(fc.integer({ min: 1, max: 8 }), fc.constant(MAX_SLOTS));

  test("for guests that write and write again, cut anywhere", () => {
    fc.assert(
      fc.property(stretches, chunks, slots, fc.nat(3), (stretches, cuts, slots, aheadEvery) => {
        const stream = streamOf(stretches);
        const result = roundtrip(stream, { cuts, kernels, slots, aheadEvery });
        const { decoded, counts, decodedCounts, bodies, tokenBytes } = result;
        expect(Buffer.compare(decoded, stream)).toBe(0);
        const cache: Uint8Array[] = [];
        const plain = bodies.map((body, i) => decodePlainly(body, tokenBytes[i]!, { 4: [], 5: [] }, TAG_KEY, cache));
        expect(Buffer.compare(Buffer.concat(plain.map(({ bytes }) => bytes)), stream)).toBe(0);
        expect(plain.flatMap(({ references }) => references).every(({ holds }) => holds)).toBe(true);
        for (const key of Object.keys(decodedCounts) as (keyof typeof decodedCounts)[])
          expect(decodedCounts[key], key).toBe(counts[key]);
      }),
      { numRuns: kernels ? 200 : 30 },
    );
  });
});

test("kernels and reference write the same bodies", () => {
  fc.assert(
    fc.property(stretches, fc.integer({ min: 1, max: 8 }), (stretches, slots) => {
      const stream = streamOf(stretches);
      const kernel = roundtrip(stream, { kernels: true, slots });
      expect(kernel.bodies).toEqual(roundtrip(stream, { kernels: false, slots }).bodies);
    }),
    { numRuns: 30 },
  );
});

test("the example of docs/page-format.md is what the encoder writes", () => {
  const document = readFileSync(new URL("../../docs/page-format.md", import.meta.url), "utf8");
  const example = /<!-- example: delta .*?-->\n```\n(?<hex>[0-9a-f\s]+)\n```/.exec(document)?.groups?.hex;
  const page = noise(7, PAGE_BYTES);
  const builder = new StreamBuilder()
    .header()
    .ramStart(2, { "pc.ram": 1 << 24 })
    .part(2)
    .zero(100, "pc.ram");
  for (let i = 0; i < 3; i++) builder.page(i, noise(2 * i + 9, PAGE_BYTES));
  const before = builder.page(16, page).build();
  const changed = Uint8Array.from(page);
  changed.set([1, 2, 3, 4, 5, 6, 7, 8], 16);
  // Cut there, so that the body ends with what went before.
  const { bodies } = roundtrip(builder.page(16, changed).build(), {
    cuts: [before.length],
    kernels: true,
    slots: 4,
    flushes: true,
  });
  expect(bodies.at(-1)!.toString("hex")).toBe(example!.replaceAll(/\s/g, ""));
});

describe("a guest whose pages were sent before", () => {
  const pages = Array.from({ length: 40 }, (_, i) => noise(2 * i + 1, PAGE_BYTES));
  const twoRounds = (change: (page: Uint8Array, index: number) => void) => {
    const builder = new StreamBuilder()
      .header()
      .ramStart(2, { "pc.ram": 1 << 24 })
      .part(2)
      .zero(100, "pc.ram");
    pages.forEach((page, i) => void builder.page(i, page));
    pages.forEach((page, i) => {
      const newer = Uint8Array.from(page);
      change(newer, i);
      builder.page(i, newer);
    });
    return roundtrip(builder.eos().footer(2).u8(0).build(), { kernels: true, slots: MAX_SLOTS });
  };

  test("a word a page: a delta of 72 bytes each, in one token", () => {
    const { counts, bodyBytes } = twoRounds((page) => page.set([1, 2, 3], 800));
    expect(counts).toMatchObject({ literalPages: 40, deltaPages: 40, deltaBytes: 40 * 72, samePages: 0 });
    expect(bodyBytes).toBeLessThan(40 * 4104 + 40 * 73 + 200);
  });

  test("nothing changed, or pages that moved: the same", () => {
    expect(twoRounds(() => {}).counts).toMatchObject({ literalPages: 40, samePages: 40 });
    const moved = twoRounds((page, i) => page.set(pages[(i + 7) % 40]!));
    expect(moved.counts.deltaPages).toBe(0);
    expect(moved.counts.samePages).toBeGreaterThan(36); // a table of hashes that misses a few
  });

  test("all changed: literal again, and the newer version is the one that counts", () => {
    expect(twoRounds((page) => page.reverse()).counts).toMatchObject({ literalPages: 80, samePages: 0, deltaPages: 0 });
  });

  test("a guest that writes whole pages is left alone after a while, but not for ever", () => {
    const builder = new StreamBuilder()
      .header()
      .ramStart(2, { "pc.ram": 1 << 24 })
      .part(2)
      .zero(100, "pc.ram");
    const round = (seed: number) => pages.map((_, i) => noise(seed * 1000 + 2 * i, PAGE_BYTES));
    const last = round(20);
    for (let seed = 1; seed <= 20; seed++) round(seed).forEach((page, i) => void builder.page(i, page));
    for (let i = 0; i < 20; i++) last.forEach((page, at) => void builder.page(at, page));
    const { counts } = roundtrip(builder.eos().footer(2).u8(0).build(), { kernels: true, slots: MAX_SLOTS });
    expect(counts.literalPages).toBeGreaterThan(800);
    expect(counts.samePages).toBeGreaterThan(100);
  });
});

test("while the guest is stopped nothing is put in, and what is in there is still of use", () => {
  const kernels = createKernels(CacheForms.memoryBytes(4) + 16 * 4104);
  const at = kernels.base + CacheForms.memoryBytes(4);
  const forms = new CacheForms(kernels.pages, kernels.bytes, kernels.base, 4, TAG_KEY, xxh3Secret());
  const match = (...pages: Uint8Array[]) => {
    kernels.bytes.set(records(0, pages), at);
    return forms.match("pc.ram", 0, at, pages.length).map(({ kind, count }) => [kind, count]);
  };
  const [first, second] = [noise(1, PAGE_BYTES), noise(3, PAGE_BYTES)];
  expect(match(first)).toEqual([[KEPT, 1]]);
  forms.isLastRound = true;
  const changed = Uint8Array.from(first).fill(9, 0, 5);
  expect(match(changed, second)).toEqual([
    [DELTA, 1],
    [KIND.literal, 1],
  ]);
  expect(match(second, second)).toEqual([[KIND.literal, 2]]);
  forms.isLastRound = false;
  expect(match(changed, second)).toEqual([
    [SAME, 1],
    [KEPT, 1],
  ]);
});

describe("a hostile body is refused before anything is written", () => {
  const SLOTS = 10;
  const kernels = createKernels(4 << 20);
  const [output, base] = [kernels.base, kernels.base + (80 << 10)];
  const page = noise(1, PAGE_BYTES);
  const newer = Uint8Array.from(page).fill(3, 100, 140);
  const difference = encodeDelta(page, newer, 4160)!;
  const tag = noise(2, 16);

  /** A decoder that has `page` in slots 2 and 3. */
  function decoder(): BodyDecoder {
    const decoder = new BodyDecoder(kernels.writer);
    decoder.cache = new PageSlots(kernels.pages, kernels.bytes, base, SLOTS);
    const tokens = varints(2 * 16 + 8, 0, 4);
    const body = Buffer.concat([tokens, records(0, [page, page])]);
    decoder.decode(body, tokens.length, 2 * 4104, kernels.bytes, output);
    return decoder;
  }
  const decode = (decoder: BodyDecoder, tokens: Uint8Array, payload: Uint8Array, pages: number) =>
    decoder.decode(Buffer.concat([tokens, payload]), tokens.length, pages * 4104, kernels.bytes, output);

  const bytes = difference.length;
  const none = new Uint8Array(0);
  const cases: [string, Uint8Array, Uint8Array, number][] = [
    ["a delta from an empty slot", varints(16 + 7, 0, 0, bytes), difference, 1],
    [
      "a delta of which one slot is empty",
      varints(32 + 7, 0, 6, bytes, bytes),
      Buffer.concat([difference, difference]),
      2,
    ],
    ["a same page from an empty slot", Buffer.concat([varints(16 + 6, 0, 18), tag]), none, 1],
    ["a slot beyond the last", varints(16 + 8, 0, 20), records(0, [page]), 1],
    ["a run beyond the last slot", varints(32 + 8, 0, 18), records(0, [page, page]), 2],
    ["a slot before the first", varints(16 + 8, 0, 1), records(0, [page]), 1],
    ["a slot of another world", varints(16 + 8, 0, 2 ** 53 - 2), records(0, [page]), 1],
    [
      "a difference that is shorter than its bitmap says",
      varints(16 + 7, 0, 4, bytes - 8),
      difference.subarray(0, -8),
      1,
    ],
    ["a difference that is longer", varints(16 + 7, 0, 4, bytes + 8), Buffer.concat([difference, noise(1, 8)]), 1],
    ["a difference shorter than a bitmap", varints(16 + 7, 0, 4, 8), noise(1, 8), 1],
    ["no difference", varints(16 + 7, 0, 4, 0), none, 1],
    [
      "a good difference, then a bad one",
      varints(32 + 7, 0, 4, bytes, 63),
      Buffer.concat([difference, noise(1, 63)]),
      2,
    ],
    ["lengths missing", varints(32 + 7, 0, 4, bytes), difference, 2],
    ["lengths that are not in the payload", varints(16 + 7, 0, 4, 2 ** 52), difference, 1],
    ["more deltas than announced", varints(2 ** 44 + 7, 0, 4), none, 1],
    ["a same page without a tag", varints(16 + 6, 0, 4), none, 1],
    ["more same pages than a tag is for", Buffer.concat([varints(257 * 16 + 6, 0, 4), tag]), none, 257],
    ["no slot", varints(16 + 8, 0), records(0, [page]), 1],
  ];
  test.each(cases)("%s", (_name, tokens, payload, pages) => {
    const hostile = decoder();
    kernels.bytes.fill(0xaa, output, base);
    const before = Buffer.from(kernels.bytes.subarray(base, base + SLOTS * PAGE_BYTES));
    expect(() => decode(hostile, tokens, payload, pages)).toThrow(expect.objectContaining({ code: "FORM_TOKENS" }));
    expect(kernels.bytes.subarray(output, base).every((byte) => byte === 0xaa)).toBe(true);
    expect(Buffer.compare(before, kernels.bytes.subarray(base, base + SLOTS * PAGE_BYTES))).toBe(0);
    expect(hostile.counts).toMatchObject({ literalPages: 2, deltaPages: 0, samePages: 0 });
  });

  test("without a cache there is no slot", () => {
    const plain = new BodyDecoder(kernels.writer);
    expect(() => decode(plain, varints(16 + 8, 0, 0), records(0, [page]), 1)).toThrow("not in the page cache");
  });

  test("sound ones: what is kept, made newer and repeated within one body", () => {
    const tokens = Buffer.concat([varints(16 + 8, 10, 0), varints(16 + 7, 3, 1, bytes, 16 + 6, 0, 1), tag]);
    const payload = Buffer.concat([records(5, [page]), difference]);
    const sound = decoder();
    const { bytes: raw, placeRuns } = decode(sound, tokens, payload, 3);
    const expected = Buffer.concat([records(5, [page]), records(4, [newer]), records(5, [newer])]);
    expect(Buffer.compare(raw, expected)).toBe(0);
    expect(placeRuns).toMatchObject([{ kind: 6, count: 1, address: output + 2 * 4104 }]);
    expect(sound.counts).toMatchObject({ literalPages: 3, deltaPages: 1, samePages: 1 });
  });

  test("any tokens and payload: an error of ours, or what was announced; nothing beside the output and the slots", () => {
    const token = fc
      .tuple(fc.constantFrom(6, 7, 8), fc.integer({ min: 1, max: 3 }), fc.nat(6), fc.nat(22), fc.nat(3))
      .map(([kind, count, position, slot, good]) => {
        const deltas = kind === 7 ? Array.from({ length: count }, () => (good > 0 ? bytes : good * 64)) : [];
        const head = varints(count * 16 + kind, position, slot, ...deltas);
        const tokens = kind === 6 ? Buffer.concat([head, tag]) : head;
        const payload = kind === 8 ? records(0, Array(count).fill(page)) : Buffer.concat(deltas.map(() => difference));
        return { tokens, payload, pages: count };
      });
    const end = base + PageSlots.memoryBytes(SLOTS);
    fc.assert(
      fc.property(
        fc.array(token, { maxLength: 5 }),
        fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 2 }),
        (parts, mutations) => {
          const tokens = Buffer.concat(parts.map((part) => part.tokens));
          const payload = Buffer.concat(parts.map((part) => part.payload));
          for (const [at, byte] of mutations) if (tokens.length > 0) tokens[at % tokens.length] = byte;
          const pages = parts.reduce((sum, part) => sum + part.pages, 0);
          const beyond = output + pages * 4104;
          const target = decoder();
          kernels.bytes.fill(0xaa, beyond, base);
          kernels.bytes.fill(0xaa, end, end + 100);
          try {
            expect(decode(target, tokens, payload, pages).bytes.length).toBe(pages * 4104);
          } catch (error) {
            expect(error).toMatchObject({ code: "FORM_TOKENS" });
          }
          expect(kernels.bytes.subarray(beyond, base).every((byte) => byte === 0xaa)).toBe(true);
          expect(kernels.bytes.subarray(end, end + 100).every((byte) => byte === 0xaa)).toBe(true);
        },
      ),
      { numRuns: 300 },
    );
  });
});
