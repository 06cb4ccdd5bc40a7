// Traces of real migrations (test/golden/traces/README.md): the simulation of them comes to what was measured.
import { readdirSync, readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { expect, test } from "vitest";
import { AdaptivePolicy } from "../../src/control/adaptive.ts";
import { simulate } from "../../src/control/simulation/engine.ts";
import { scenarioOfTrace } from "../../src/control/simulation/from-trace.ts";
import { bestMoment } from "../../src/control/simulation/hindsight.ts";
import { type TraceOutcome, TraceReader } from "../../src/control/trace.ts";

const FOLDER = new URL("../golden/traces/", import.meta.url);
const names = readdirSync(FOLDER).filter((name) => name.endsWith(".trace.gz"));

test("there are eight, and they are small", () => {
  expect(names).toHaveLength(8);
  for (const name of names) expect(readFileSync(new URL(name, FOLDER)).length).toBeLessThan(32 * 1024);
});

test.each(names)("%s: the best moment until then is near the measured one, and the policy ends", (name) => {
  const reader = new TraceReader();
  const text = gunzipSync(readFileSync(new URL(name, FOLDER))).toString();
  for (const line of text.trimEnd().split("\n")) reader.push(line);
  const trace = reader.finish();
  const { downtimeMs: measuredMs, totalMs } = trace.outcome as TraceOutcome & { downtimeMs: number };
  const scenario = scenarioOfTrace(name, trace);
  const { downtimeMs } = bestMoment({ ...scenario, hindsightMs: totalMs });
  expect(Math.abs(downtimeMs - measuredMs)).toBeLessThan(Math.max(25, 0.12 * measuredMs));
  const run = simulate(scenario, new AdaptivePolicy());
  expect(run.ending).toBe("switched");
  expect(run.downtimeMs! / downtimeMs).toBeLessThan(1.5);
});
