import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { BodyDecoder } from "../../src/compact/decoder.ts";
import { BatchEncoder } from "../../src/compact/encoder.ts";
import { ReferenceWriter } from "../../src/compact/expand.ts";
import { unzigzag, VarintReader, writeVarint, zigzag } from "../../src/compact/varint.ts";
import { GodwitError } from "../../src/errors.ts";
import { createKernels } from "../../src/migration/kernels.ts";
import { KIND } from "../../src/stream/format.ts";

const decode = (body: Uint8Array, tokenBytes: number, rawBytes: number): Uint8Array =>
  new BodyDecoder(new ReferenceWriter()).decode(body, tokenBytes, rawBytes, new Uint8Array(rawBytes), 0).bytes;

test("the example of docs/page-format.md is what the encoder writes", () => {
  const document = readFileSync(new URL("../../docs/page-format.md", import.meta.url), "utf8");
  const example = /<!-- example: body .*?-->\n```\n(?<hex>[0-9a-f ]+)\n```/.exec(document)?.groups?.hex;
  let body = "";
  const memory = Buffer.from("0200000003", "hex");
  const encoder = new BatchEncoder(({ tokens, pieces }) => {
    const payload = memory.subarray(pieces[0], pieces[1]);
    body = Buffer.concat([tokens, payload])
      .toString("hex")
      .replaceAll(/..(?!$)/g, "$& ");
  });
  encoder.raw(0, 5);
  encoder.pages(KIND.zero, 5, 5 + 27, 16, 3, "pc.ram");
  encoder.flush();
  expect(body).toBe(example);
});

describe("a hostile body is refused before anything is written", () => {
  const cases: [string, number[], number, number][] = [
    ["tokens longer than the body", [0x10], 2, 1],
    ["a token cut off", [0x90], 1, 1],
    ["a position missing", [0x31], 1, 27],
    ["count 0", [0x00], 1, 0],
    ["a kind of a later version", [0x14, 0x00], 2, 1],
    ["more output than announced", [0xf1, 0xff, 0xff, 0x7f, 0x00], 5, 9],
    ["less output than announced", [0x11, 0x00], 2, 10],
    ["payload missing", [0x20], 1, 2],
    ["payload left over", [0x11, 0x00, 0xaa], 2, 9],
    ["a negative page", [0x11, 0x01], 2, 9],
    ["a page past the last", [0x11, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f], 9, 9],
    ["a varint of 9 bytes", [0x11, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], 10, 9],
  ];
  test.each(cases)("%s", (_name, body, tokenBytes, rawBytes) => {
    expect(() => decode(Uint8Array.from(body), tokenBytes, rawBytes)).toThrow(GodwitError);
  });

  test("any bytes: an error of ours, or exactly what was announced", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 60 }), fc.nat(60), fc.nat(20_000), (body, tokenBytes, rawBytes) => {
        try {
          expect(decode(body, tokenBytes, rawBytes).length).toBe(rawBytes);
        } catch (error) {
          expect(error).toBeInstanceOf(GodwitError);
        }
      }),
      { numRuns: 2000 },
    );
  });
});

test("varints come back, and zigzag too", () => {
  fc.assert(
    fc.property(fc.maxSafeNat(), fc.integer({ min: -(2 ** 51), max: 2 ** 51 }), (value, signed) => {
      const bytes = new Uint8Array(16);
      const end = writeVarint(bytes, 0, value);
      expect(new VarintReader(bytes, 0, end).next()).toBe(value);
      expect(unzigzag(zigzag(signed))).toBe(signed);
    }),
  );
});

test("a long run of zero pages is split at what one body may regenerate", () => {
  const batches: number[] = [];
  const encoder = new BatchEncoder(({ rawBytes }) => batches.push(rawBytes));
  encoder.pages(KIND.zero, 0, 9_000_000, 0, 1_000_000, "pc.ram");
  encoder.flush();
  expect(batches).toEqual([4194297, 4194297, 611406]);
});

test.each(["zero", "blank"] as const)("kernel and reference write the same %s records", (name) => {
  const kernels = createKernels(1 << 20);
  const reference = new ReferenceWriter();
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 2 ** 50 - 100 }), fc.integer({ min: 1, max: 60 }), (firstPage, records) => {
      const expected = new Uint8Array(1 << 18);
      const end = reference.write(KIND[name], expected, 0, firstPage, records);
      kernels.bytes.fill(0xaa, kernels.base, kernels.base + end);
      expect(kernels.writer.write(KIND[name], kernels.bytes, kernels.base, firstPage, records)).toBe(
        kernels.base + end,
      );
      const written = kernels.bytes.subarray(kernels.base, kernels.base + end);
      expect(Buffer.compare(written, expected.subarray(0, end))).toBe(0);
    }),
    { numRuns: 50 },
  );
});
