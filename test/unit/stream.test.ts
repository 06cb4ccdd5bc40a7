import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { roundtrip } from "./support/roundtrip.ts";
import { filled, mutated, StreamBuilder, streams } from "./support/streams.ts";

const siblings = [
  { name: "kernels", kernels: true },
  { name: "reference", kernels: false },
];

describe.each(siblings)("decode(encode(x)) = x with the $name", ({ kernels }) => {
  const chunks = fc.array(fc.integer({ min: 1, max: 5000 }), { minLength: 1, maxLength: 8 });
  const ahead = fc.nat(3);

  test("for any bytes", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 5000 }), chunks, ahead, (bytes, cuts, aheadEvery) => {
        expect(roundtrip(bytes, { cuts, kernels, aheadEvery }).decoded.equals(bytes)).toBe(true);
      }),
    );
  });

  test("for streams, cut anywhere", () => {
    fc.assert(
      fc.property(streams, chunks, ahead, (bytes, cuts, aheadEvery) => {
        expect(roundtrip(bytes, { cuts, kernels, aheadEvery }).decoded.equals(bytes)).toBe(true);
      }),
    );
  });

  test("for mutated streams, cut anywhere", () => {
    fc.assert(
      fc.property(mutated, chunks, ahead, (bytes, cuts, aheadEvery) => {
        expect(roundtrip(bytes, { cuts, kernels, aheadEvery }).decoded.equals(bytes)).toBe(true);
      }),
      { numRuns: 300 },
    );
  });

  test("cuts change nothing in what is found", () => {
    fc.assert(
      fc.property(streams, chunks, (bytes, cuts) => {
        const whole = roundtrip(bytes, { kernels });
        const cut = roundtrip(bytes, { cuts, kernels });
        expect(cut.counts).toEqual(whole.counts);
        expect(cut.events).toEqual(whole.events);
      }),
    );
  });

  test("a byte at a time", () => {
    const bytes = ordinary();
    const result = roundtrip(bytes, { cuts: [1], kernels });
    expect(result.decoded.equals(bytes)).toBe(true);
    expect(result.counts).toMatchObject({ zeroPages: 102, literalPages: 2, blankPages: 1, rawPages: 1 });
  });
});

/** A stream in which every form occurs. */
function ordinary(): Buffer {
  const builder = new StreamBuilder().header().ramStart(2, { "pc.ram": 1 << 24 });
  builder.part(2).page(0, filled(1), "pc.ram").page(1, filled(2)).page(2, filled(3)).page(3, filled(0));
  for (let page = 4; page < 104; page++) builder.zero(page);
  builder.eos().footer(2).part(2, "end").zero(7).zero(8).eos().footer(2);
  return builder.start(9, "timer", "full").bytes(filled(5)).footer(9).u8(0).build();
}

test("kernels and reference find the same", () => {
  fc.assert(
    fc.property(mutated, (bytes) => {
      const kernel = roundtrip(bytes, { kernels: true });
      const reference = roundtrip(bytes, { kernels: false });
      expect(kernel.events).toEqual(reference.events);
      expect(kernel.bodies).toEqual(reference.bodies);
    }),
  );
});

test("structure is reported with its offsets", () => {
  const { events } = roundtrip(ordinary());
  expect(events.map((event) => event.type)).toEqual([
    "machine",
    "section",
    "ramblock",
    "section-end",
    "section",
    "page",
    "section-end",
    "section",
    "section-end",
    "section",
    "found",
    "section-end",
    "end-of-stream",
  ]);
  expect(events[0]).toEqual({ type: "machine", offset: 8, name: "pc-q35-10.0" });
  expect(events[2]).toMatchObject({ name: "pc.ram", lengthBytes: 1 << 24 });
});

test("pages become tokens: what is sent is a fraction of the stream", () => {
  const builder = new StreamBuilder()
    .header()
    .ramStart(2, { "pc.ram": 2 ** 40 })
    .part(2)
    .zero(0, "pc.ram");
  for (let page = 1; page < 400_000; page++) builder.zero(page);
  const bytes = builder.eos().footer(2).build();
  const result = roundtrip(bytes, { kernels: true, cuts: [300_000] });
  expect(result.decoded.equals(bytes)).toBe(true);
  expect(result.counts.zeroPages).toBe(399_999);
  expect(result.bodyBytes).toBeLessThan(200);
});

describe("back in step", () => {
  const pages = (builder: StreamBuilder) => {
    for (let page = 0; page < 50; page++) builder.zero(page);
    return builder.eos().footer(2);
  };

  test("after a live section that it does not know", () => {
    const builder = new StreamBuilder().header().ramStart(2, { "pc.ram": 1 << 24 });
    builder.start(5, "vfio").bytes(filled(9)).footer(5);
    pages(builder.part(2).zero(0, "pc.ram"));
    builder.part(5).bytes(filled(9)).bytes(filled(2)).footer(5);
    pages(builder.part(2));
    expect(roundtrip(builder.build(), { cuts: [100] }).counts.zeroPages).toBe(100);
  });

  test("after an unknown record of RAM, at the next part", () => {
    const builder = new StreamBuilder().header().ramStart(2, { "pc.ram": 1 << 24 });
    builder.part(2).u64(0x401).bytes(filled(1));
    pages(builder.part(2));
    const { counts, events } = roundtrip(builder.build());
    expect(counts.zeroPages).toBe(50);
    expect(events.filter((event) => event.type === "lost").length).toBe(1);
  });

  test("when the beginning is missing", () => {
    const builder = new StreamBuilder().bytes(filled(0x51)).ramStart(2, { "pc.ram": 1 << 24 });
    pages(builder.part(2));
    expect(roundtrip(builder.build(), { cuts: [7] }).counts.zeroPages).toBe(50);
  });

  test("not with pages of another size: all of it travels as raw bytes", () => {
    const builder = new StreamBuilder().header().u8(5).name("configuration/target-page-bits").u32(1).u32(16);
    builder.ramStart(2, { "pc.ram": 1 << 24 });
    pages(builder.part(2));
    expect(roundtrip(builder.build()).counts).toMatchObject({ zeroPages: 0, literalPages: 0 });
  });
});

test("a page number that JavaScript can't hold exactly is not taken for a page", () => {
  const record = Buffer.alloc(9);
  record.writeBigUInt64BE(0xfffffffffffff022n);
  const bytes = new StreamBuilder()
    .header()
    .ramStart(2, { "pc.ram": 1 << 24 })
    .part(2)
    .bytes(record)
    .build();
  for (const kernels of [true, false]) {
    const result = roundtrip(bytes, { kernels });
    expect(result.decoded.equals(bytes)).toBe(true);
    expect(result.counts.zeroPages).toBe(0);
  }
});
