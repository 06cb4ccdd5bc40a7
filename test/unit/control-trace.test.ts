import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { AdaptivePolicy } from "../../src/control/adaptive.ts";
import { QemuDefault } from "../../src/control/policies/shipped.ts";
import { simulate } from "../../src/control/simulation/engine.ts";
import { scenarioOfTrace } from "../../src/control/simulation/from-trace.ts";
import { recordTrace } from "../../src/control/simulation/record.ts";
import { cycle } from "../../src/control/simulation/steps.ts";
import { MAX_LINE_BYTES, type Trace, TraceReader, traceLine } from "../../src/control/trace.ts";
import { aScenario, randomPages } from "./support/scenarios.ts";

const document = readFileSync(new URL("../../docs/trace-format.md", import.meta.url), "utf8");
const EXAMPLE = /<!-- example: trace[^\n]*-->\n```\n(.*?)```/s.exec(document)![1]!;
const LINES = EXAMPLE.trimEnd().split("\n");

function read(lines: readonly string[]): Trace {
  const reader = new TraceReader();
  for (const line of lines) reader.push(line);
  return reader.finish();
}

/** The example with one record changed. */
function changed(index: number, change: Record<string, unknown>): string[] {
  return LINES.with(index, JSON.stringify({ ...JSON.parse(LINES[index]!), ...change }));
}

describe("the document", () => {
  test("its example is read, and written again the same", () => {
    const { header, rounds, ticks, decisions, outcome, cutOff } = read(LINES);
    expect([rounds.length, ticks.length, decisions.length, cutOff]).toEqual([2, 1, 1, null]);
    const written = [header, ticks[0]!, decisions[0]!, ...rounds, outcome!].map((record) => traceLine(record)).join("");
    expect(written.split("\n").map((line) => line && JSON.parse(line))).toEqual(
      EXAMPLE.split("\n").map((line) => line && JSON.parse(line)),
    );
  });

  test("names every field of every record", () => {
    const { header, rounds, ticks, outcome } = read(LINES);
    for (const field of [header, rounds[0]!, ticks[0]!, outcome!].flatMap((record) => Object.keys(record))) {
      if (field !== "type") expect(document).toContain(`\`${field}\``);
    }
  });
});

describe("a tail that is cut off", () => {
  test("anywhere within the last line is left out, and said", () => {
    const last = LINES.at(-1)!;
    for (const cut of [1, 10, last.length - 1]) {
      const trace = read([...LINES.slice(0, -1), last.slice(0, cut)]);
      expect(trace).toMatchObject({ outcome: null, cutOff: "line 6 is cut off" });
      expect(trace.rounds).toHaveLength(2);
    }
  });

  test("before the outcome is said", () => {
    expect(read(LINES.slice(0, -1)).cutOff).toBe("the outcome is missing");
    expect(read(LINES.slice(0, 1)).cutOff).toBe("the outcome is missing");
  });
});

describe("refused", () => {
  test.each<[string, readonly string[], string, string]>([
    ["nothing", [], "CONTROL_TRACE_FORMAT", "it is no trace"],
    ["text", ["hello"], "CONTROL_TRACE_FORMAT", "it is no trace"],
    ["other JSON", ['{"event":"started"}'], "CONTROL_TRACE_FORMAT", "it is no trace"],
    ["null", ["null"], "CONTROL_TRACE_FORMAT", "it is no trace"],
    ["no header", LINES.slice(1), "CONTROL_TRACE_FORMAT", "it is no trace"],
    [
      "a newer version",
      changed(0, { version: 2 }),
      "CONTROL_TRACE_NEWER",
      "the trace is of version 2, and this godwit reads up to 1",
    ],
    [
      "a header that is wrong",
      changed(0, { memoryBytes: -1 }),
      "CONTROL_TRACE_LINE",
      "line 1 of the trace is wrong: memoryBytes: ",
    ],
    [
      "a number that is none",
      changed(3, { pages: "many" }),
      "CONTROL_TRACE_LINE",
      "line 4 of the trace is wrong: pages: ",
    ],
    [
      "a negative one",
      changed(1, { remainingBytes: -5 }),
      "CONTROL_TRACE_LINE",
      "line 2 of the trace is wrong: remainingBytes: ",
    ],
    [
      "a form that is none",
      changed(3, { pagesByForm: { duplicate: 1 } }),
      "CONTROL_TRACE_LINE",
      "line 4 of the trace is wrong: pagesByForm",
    ],
    [
      "a record of no type",
      changed(1, { type: "toString" }),
      "CONTROL_TRACE_LINE",
      'line 2 of the trace is wrong: no record of the type "toString"',
    ],
    [
      "a second header",
      [LINES[0]!, ...LINES],
      "CONTROL_TRACE_LINE",
      'line 2 of the trace is wrong: no record of the type "header"',
    ],
    [
      "a time that goes back",
      changed(4, { atMs: 5 }),
      "CONTROL_TRACE_LINE",
      "line 5 of the trace is wrong: its time is before",
    ],
    [
      "a line after the outcome",
      [...LINES, LINES[1]!],
      "CONTROL_TRACE_LINE",
      "line 7 of the trace is wrong: it follows the outcome",
    ],
    [
      "a line cut off in the middle",
      LINES.with(2, LINES[2]!.slice(0, 30)),
      "CONTROL_TRACE_LINE",
      "line 3 of the trace is wrong: ",
    ],
    [
      "a line too long",
      [...LINES.slice(0, 1), "x".repeat(MAX_LINE_BYTES + 1)],
      "CONTROL_TRACE_TOO_LONG",
      "line 2 of the trace is beyond",
    ],
  ])("%s", (_name, lines, code, message) => {
    expect(() => read(lines)).toThrow(expect.objectContaining({ code, message: expect.stringContaining(message) }));
  });
});

describe("replayed", () => {
  const scenarios = {
    calm: aScenario({ pages: 50_000, classes: [randomPages(10_000, 400)] }),
    busy: aScenario({ pages: 50_000, classes: [randomPages(4000, 2000)] }),
  };

  test.each(["calm", "busy"] as const)(
    "a trace of a %s guest makes for a scenario in which it comes to the same",
    (name) => {
      const lines = recordTrace(scenarios[name], new AdaptivePolicy()).trimEnd().split("\n");
      const trace = read(lines);
      expect(trace.cutOff).toBeNull();
      const again = simulate(scenarioOfTrace(name, trace), new AdaptivePolicy());
      expect(again.downtimeMs! / trace.outcome!.downtimeMs!).toBeGreaterThan(0.85);
      expect(again.downtimeMs! / trace.outcome!.downtimeMs!).toBeLessThan(1.15);
      expect(again.totalMs / trace.outcome!.totalMs).toBeGreaterThan(0.8);
      expect(again.totalMs / trace.outcome!.totalMs).toBeLessThan(1.2);
    },
  );

  test("a link that was slow for a while is so again", () => {
    const scenario = { ...scenarios.calm, link: cycle({ ms: 20_000, value: 4096e3 }, { ms: 20_000, value: 1024e3 }) };
    const trace = read(recordTrace(scenario, new QemuDefault()).trimEnd().split("\n"));
    const again = simulate(scenarioOfTrace("slow", trace), new QemuDefault());
    expect(again.totalMs / trace.outcome!.totalMs).toBeGreaterThan(0.85);
    expect(again.totalMs / trace.outcome!.totalMs).toBeLessThan(1.15);
  });

  test("the bulk round is the least", () => {
    expect(() => scenarioOfTrace("short", read(LINES.slice(0, 3)))).toThrow(
      "the trace ends before the first round does",
    );
    expect(scenarioOfTrace("short", read(LINES)).workload.memoryBytes).toBe(266_386 * 4096);
    expect(scenarioOfTrace("short", read(LINES.slice(0, 4))).workload.classes[0]!.pages).toBeGreaterThan(12_071);
  });
});
