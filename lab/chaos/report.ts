import type { Outcome } from "./operator.ts";
import { FAULTS, nameOf, type Plan, STEPS } from "./plan.ts";

/** What came of a plan. */
export interface Result {
  readonly plan: Plan;
  readonly outcome?: Outcome;
  /** What must not have been; undefined if all is well. */
  readonly why?: string;
  /** How often QEMUs were asked whether they run. */
  readonly samples: number;
}

const SIGNS = { destination: "→", source: "←", nowhere: "∅" } as const;
const BY = { itself: "", "a restart": "ʳ", resolve: "ˢ", vouched: "ᵛ" } as const;

/** The table of docs/reliability.md, in Markdown. */
export function report(results: readonly Result[]): string {
  const steps = Object.keys(STEPS);
  const cell = (fault: string, step: string) =>
    results
      .filter(({ plan }) => plan.step === step && nameOf(plan.fault) === fault)
      .map(signOf)
      .join(" ");
  const rows = FAULTS.map((fault) => [fault, ...steps.map((step) => cell(fault, step))]);
  const lines = [["fault", ...steps], steps.map(() => "---").concat("---"), ...rows].map(
    (row) => `| ${row.join(" | ")} |`,
  );
  const hard = results.filter(({ plan }) => plan.fault.kind === "hardship");
  const hardships = hard.map((result) => `${nameOf(result.plan.fault)}: ${signOf(result)}`);
  const failed = results.filter(({ why }) => why !== undefined).length;
  const samples = results.reduce((sum, result) => sum + result.samples, 0);
  const count = (runs: Outcome["runs"]) => results.filter(({ outcome }) => outcome?.runs === runs).length;
  const summary =
    `${results.length} runs, ${samples.toLocaleString("en")} looks at whether a QEMU runs, ${failed} failed; the VM ran on at the ` +
    `destination ${count("destination")} times, at the source ${count("source")} times; ${count("nowhere")} times the QEMU that had it was killed.`;
  return [...lines, "", ...hardships, "", summary].join("\n");
}

function signOf({ outcome, why }: Result): string {
  return why !== undefined || outcome === undefined ? "**✗**" : SIGNS[outcome.runs] + BY[outcome.by];
}
