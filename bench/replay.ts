/** The policies over the standard set of simulated migrations, and how fast those are simulated. */
import { overviewLines } from "../src/cli/replay-table.ts";
import { POLICIES } from "../src/control/policies/all.ts";
import { guestLossMs, type Score, score } from "../src/control/simulation/compare.ts";
import { bestMoment } from "../src/control/simulation/hindsight.ts";
import { standardSet } from "../src/control/simulation/standard-set.ts";
import { median } from "./support.ts";

export function bench(): string {
  const set = standardSet();
  const best = set.map(({ scenarios }) => scenarios.map((scenario) => bestMoment(scenario)));
  const startMs = process.cpuUsage().user / 1000;
  const scores = set.map(({ name, scenarios }, i) =>
    Object.entries(POLICIES).map(([policy, create]) => score(name, policy, create, scenarios, best[i])),
  );
  const seconds = (process.cpuUsage().user / 1000 - startMs) / 1000;
  const runs = scores.flat().reduce((sum, { of }) => sum + of, 0);
  const rate = `${runs.toLocaleString("en")} migrations simulated in ${seconds.toFixed(1)} s of CPU time`;
  return [...overviewLines(scores.flat()), "", againstBest(scores), rate].join("\n");
}

/** The adaptive policy against whichever of the others was best on each workload. */
function againstBest(scores: readonly (readonly Score[])[]): string {
  const shares = scores.map(([ours, ...others]) => guestLossMs(ours!) / Math.min(...others.map(guestLossMs)));
  const worst = Math.max(...shares).toFixed(2);
  return `adaptive / the best of the others on each workload: median ${median(shares).toFixed(2)}, at worst ${worst}`;
}

if (import.meta.main) console.log(bench());
