import { describe, expect, test } from "vitest";
import {
  formatByteRate,
  formatBytes,
  formatCount,
  formatDuration,
  formatLinkRate,
  formatWait,
  oneLine,
} from "../../src/cli/format.ts";

describe("numbers for people", () => {
  test.each([
    [0, "0 bytes"],
    [999, "999 bytes"],
    [1000, "0.98 KiB"],
    [1536, "1.50 KiB"],
    [1023.9 * 1024, "1.00 MiB"],
    [273 * 2 ** 20, "273 MiB"],
    [1.5 * 2 ** 50, "1.50 PiB"],
    [2000 * 2 ** 50, "2000 PiB"],
    [-1, "0 bytes"],
  ])("formatBytes(%d)", (bytes, text) => {
    expect(formatBytes(bytes)).toBe(text);
  });

  test.each([
    [0, "0 bit/s"],
    [125, "1.00 kbit/s"],
    [62_500_000, "500 Mbit/s"],
    [124_950_000, "1.00 Gbit/s"],
  ])("formatLinkRate(%d)", (bytesPerSecond, text) => {
    expect(formatLinkRate(bytesPerSecond)).toBe(text);
  });

  test.each([
    [999, "999 B/s"],
    [23_740_000, "23.7 MB/s"],
    [1.2e9, "1.20 GB/s"],
  ])("formatByteRate(%d)", (bytesPerSecond, text) => {
    expect(formatByteRate(bytesPerSecond)).toBe(text);
  });

  test.each([
    [0, "0.0 ms"],
    [8.44, "8.4 ms"],
    [9.96, "10 ms"],
    [999.4, "999 ms"],
    [999.6, "1.0 s"],
    [59_949, "59.9 s"],
    [59_951, "1 min 0 s"],
    [754_000, "12 min 34 s"],
    [3_599_600, "1 h 0 min"],
    [7_380_000, "2 h 3 min"],
  ])("formatDuration(%d)", (ms, text) => {
    expect(formatDuration(ms)).toBe(text);
  });

  test.each([
    [0, "less than 1 s"],
    [8400, "about 8 s"],
    [59_600, "about 1 min 0 s"],
  ])("formatWait(%d)", (ms, text) => {
    expect(formatWait(ms)).toBe(text);
  });

  test("formatCount", () => {
    expect(formatCount(1_234_567.4)).toBe("1,234,567");
  });
});

test("oneLine leaves nothing that could draw on a terminal", () => {
  expect(oneLine("  a\r\nb\u001b[31mc\u202ed\u0000 ")).toBe("a b [31mc d");
});
