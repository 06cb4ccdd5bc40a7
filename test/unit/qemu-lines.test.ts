import fc from "fast-check";
import { expect, test } from "vitest";
import { LineSplitter } from "../../src/qemu/lines.ts";

/** Cuts `bytes` at the given places, whatever they are. */
function cut(bytes: Uint8Array, places: readonly number[]): Uint8Array[] {
  const ends = [...new Set(places.map((place) => place % (bytes.length + 1))), bytes.length].sort((a, b) => a - b);
  return ends.map((end, index) => bytes.subarray(ends[index - 1] ?? 0, end));
}

test("any lines come through any cut into chunks", () => {
  const line = fc.string({ unit: "binary" }).filter((text) => !text.includes("\n") && text.isWellFormed());
  fc.assert(
    fc.property(fc.array(line), fc.array(fc.nat()), (lines, places) => {
      const bytes = Buffer.from(lines.map((text) => `${text}\n`).join(""));
      const splitter = new LineSplitter(1 << 20);
      const got = cut(bytes, places).flatMap((chunk) => splitter.push(chunk));
      expect(got).toEqual(lines);
    }),
  );
});

test("a line may reach the limit and not exceed it, whether it has ended or not", () => {
  const push = (text: string) => new LineSplitter(4).push(Buffer.from(text));
  expect(push("1234\n5678\n")).toEqual(["1234", "5678"]);
  expect(() => push("12345\n")).toThrow(RangeError);
  expect(() => push("12345")).toThrow(RangeError);
});
