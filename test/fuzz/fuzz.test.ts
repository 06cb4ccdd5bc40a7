// The short part of the fuzzing, with the same inputs each time, and every input that ever failed. `npm run fuzz` is the long part.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { feedOne, fuzz } from "./engine.ts";
import { bytesFor, TARGETS } from "./targets.ts";

const BYTES = 1_500_000;
const REGRESSIONS = join(import.meta.dirname, "regressions");

afterAll(async () => {
  for (const target of TARGETS) await target.close?.();
});

test.each(TARGETS.map((target) => [target.name, target] as const))("%s", async (_name, target) => {
  const { inputs, refused, accepted } = await fuzz(target, { bytes: bytesFor(target, BYTES), seed: 1 });
  expect(inputs).toBe(refused + accepted);
});

test.each(readdirSync(REGRESSIONS).filter((name) => !name.startsWith(".")))("what once failed: %s", async (name) => {
  const target = TARGETS.find((each) => name.startsWith(`${fileNameOf(each.name)}.`));
  await feedOne(target!, readFileSync(join(REGRESSIONS, name)));
});

function fileNameOf(target: string): string {
  return target.replaceAll(/[^A-Za-z0-9]+/g, "-");
}
