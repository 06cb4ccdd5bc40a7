import { WORKLOADS, type Workload, type WorkloadName } from "../../lab/workloads.ts";

/** A workload over a link. */
export interface Case {
  /** The workload, and the link where it is not the usual one: `redis`, `redis@100M`. */
  readonly name: string;
  readonly linkBitsPerSecond: number;
  readonly workload: Workload;
}

const USUAL = 500e6;
/** Over other links than the usual one. */
const OTHERS: readonly (readonly [WorkloadName, string, number])[] = [
  ["idle", "100M", 100e6],
  ["random-1", "100M", 100e6],
  ["redis", "100M", 100e6],
  ["random-0.5", "1G", 1e9],
  ["words", "1G", 1e9],
];

const usual = Object.keys(WORKLOADS).map((name) => caseOf(name as WorkloadName, name, USUAL));
const others = OTHERS.map(([workload, link, bits]) => caseOf(workload, `${workload}@${link}`, bits));

export const CASES: ReadonlyMap<string, Case> = new Map([...usual, ...others].map((one) => [one.name, one]));

/** Is this case one over another link than the usual one? It is run once. */
export function isOther({ linkBitsPerSecond }: Case): boolean {
  return linkBitsPerSecond !== USUAL;
}

function caseOf(workload: WorkloadName, name: string, linkBitsPerSecond: number): Case {
  return { name, linkBitsPerSecond, workload: WORKLOADS[workload](linkBitsPerSecond) };
}
