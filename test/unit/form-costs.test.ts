import { expect, test } from "vitest";
import { formCosts, packedShare, type Traffic } from "../../src/migration/form-costs.ts";
import { noForms } from "./support/sampled.ts";

function traffic(given: Partial<Traffic>): Traffic {
  return { counts: noForms(), nackedPages: 0, tokenBytes: 0, bodyBytes: 0, packedBytes: 0, ...given };
}

const NOTHING = traffic({});

test("a form costs what its content was, times what packing made of it; tokens belong to references", () => {
  const counts = { ...noForms(), zeroPages: 500, literalPages: 100, deltaPages: 10, deltaBytes: 1000, diskPages: 200 };
  // Bodies of 412,400 bytes were packed to a quarter; half of these pages are not packed yet.
  const after = traffic({ counts, tokenBytes: 800, bodyBytes: 206_200, packedBytes: 51_550 });
  expect(formCosts(NOTHING, after, 1)).toEqual({
    pagesByForm: { zero: 500, disk: 200, delta: 10, literal: 100 },
    wireBytesByForm: { disk: 200, delta: 250, literal: (100 * 4104) / 4 },
  });
});

test("pages that the destination asked for count as what their references cost", () => {
  const counts = { ...noForms(), diskPages: 30, checkpointPages: 10, samePages: 10 };
  const after = traffic({ counts, nackedPages: 4, tokenBytes: 100, bodyBytes: 100, packedBytes: 100 });
  const { wireBytesByForm } = formCosts(NOTHING, after, 1);
  const repaired = (4 * 4104) / 40;
  expect(wireBytesByForm).toEqual({ disk: 30 * (2 + repaired), checkpoint: 10 * (2 + repaired), same: 20 });
});

test("only zero pages: their tokens are what they cost", () => {
  const counts = { ...noForms(), zeroPages: 1000 };
  const after = traffic({ counts, tokenBytes: 50, bodyBytes: 50, packedBytes: 50 });
  expect(formCosts(NOTHING, after, 1).wireBytesByForm).toEqual({ zero: 50 });
});

test("nothing was packed meanwhile: the ratio before counts", () => {
  const after = traffic({ counts: { ...noForms(), literalPages: 1 } });
  expect(packedShare(NOTHING, after, 0.5)).toBe(0.5);
  expect(formCosts(NOTHING, after, 0.5).wireBytesByForm).toEqual({ literal: 2052 });
});
