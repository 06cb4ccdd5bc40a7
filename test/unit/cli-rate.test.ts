import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { parseRate } from "../../src/cli/rate.ts";
import type { GodwitError } from "../../src/errors.ts";

describe("parseRate", () => {
  test.each([
    ["62500000", 62_500_000],
    ["500K", 512_000],
    ["500KiB/s", 512_000],
    ["60M", 60 * 2 ** 20],
    ["60MiB", 60 * 2 ** 20],
    ["1.5G", 1.5 * 2 ** 30],
    ["500kB", 500_000],
    ["62.5MB/s", 62_500_000],
    ["1GB", 1e9],
    ["1000kbit", 125_000],
    ["500Mbit", 62_500_000],
    ["500 Mbit/s", 62_500_000],
    ["1gbit", 125_000_000],
  ])("%s", (text, bytesPerSecond) => {
    expect(parseRate(text)).toBe(bytesPerSecond);
  });

  test.each([
    ["", "is no rate"],
    ["fast", "is no rate"],
    ["-5M", "is no rate"],
    ["1e9", "is no rate"],
    ["0x10M", "is no rate"],
    ["5,5M", "is no rate"],
    ["500Mb", "is no rate"], // bits or bytes?
    ["500constructor", "is no rate"],
    ["500M\n", "is no rate"],
    ["0", "is less than 1Mbit"],
    ["0.0M", "is less than 1Mbit"],
    ["100", "is less than 1Mbit"],
    ["2000G", "is more than 1024G"],
    [`${"9".repeat(400)}M`, "is more than 1024G"],
  ])("refuses %j", (text, why) => {
    expect(() => parseRate(text)).toThrow(why);
  });

  test("returns bytes per second within its bounds, or throws CLI_BAD_RATE", () => {
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.stringMatching(/^[0-9.]{1,8} ?[kKMGiBbt]{0,4}(\/s)?$/)), (text) => {
        try {
          const rate = parseRate(text);
          expect(Number.isInteger(rate) && rate >= 125_000 && rate <= 2 ** 40).toBe(true);
        } catch (error) {
          expect((error as GodwitError).code).toBe("CLI_BAD_RATE");
        }
      }),
    );
  });
});
