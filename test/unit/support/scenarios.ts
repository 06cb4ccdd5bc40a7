import { PAGE_BYTES } from "../../../src/control/samples.ts";
import type { PageClass, Scenario, Stretch } from "../../../src/control/simulation/scenario.ts";
import { constant } from "../../../src/control/simulation/steps.ts";

/** Written at random, and sent as they are. */
export function randomPages(pages: number, writesPerSecond: number): PageClass {
  return { pages, writesPerSecond, pattern: "random", form: "literal", wireBytesPerPage: PAGE_BYTES };
}

interface Given {
  pages?: number;
  classes: readonly PageClass[];
  stretches?: readonly Stretch[];
}

/** A VM whose pages are sent as they are, 1,000 a second. */
export function aScenario({ pages = 10_000, classes, stretches }: Given): Scenario {
  return {
    name: "test",
    workload: {
      name: "test",
      memoryBytes: pages * PAGE_BYTES,
      stretches: stretches ?? [
        { form: "literal", pages, wireBytesPerPage: PAGE_BYTES, rawBytesPerPage: PAGE_BYTES + 8 },
      ],
      classes,
      activity: constant(1),
    },
    link: constant(1000 * PAGE_BYTES),
    roundTripMs: 1,
    deviceBytes: 131_072,
    deviceMs: 5,
    transferMs: 0.5,
    loadMs: 10,
    handoffMs: 1,
    resumeMs: 20,
    hasSwitchoverBandwidth: true,
    horizonMs: 600_000,
    hindsightMs: 60_000,
  };
}
