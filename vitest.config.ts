import { availableParallelism } from "node:os";
import { defineConfig } from "vitest/config";
import { BaseSequencer, type TestSpecification } from "vitest/node";

// Files with real QEMUs begin (vitest takes projects by their names), and unit tests fill what they leave of the cores: two thirds of a
// core a file, as they wait for links and guests much of the time. Each file of the former may have 2 GiB in QEMUs.
const maxWorkers = Math.min(availableParallelism() + 1, 8);

/** What compares measured times and bytes with predicted ones: with nothing beside it. */
const QUIET = ["test/real/plan.test.ts"];
/** What is waited for comes at once, or never; a busy machine takes its time. */
const PATIENCE = { expect: { poll: { timeout: 20_000 } } } as const;
const REAL = { ...PATIENCE, testTimeout: 180_000, hookTimeout: 180_000, pool: "forks" } as const;

/** A file of a minute that comes last has one core work and the others wait. */
const LONG = ["test/unit/control-standard-set.test.ts"];

class LongFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const isLong = ({ moduleId }: TestSpecification) => LONG.some((name) => moduleId.endsWith(name));
    const sorted = await super.sort(files);
    return [...sorted.filter(isLong), ...sorted.filter((file) => !isLong(file))];
  }
}

export default defineConfig({
  test: {
    sequence: { sequencer: LongFirst },
    globalSetup: "test/own-folders.ts",
    projects: [
      { test: { ...REAL, name: "real-quiet", include: QUIET, maxWorkers: 1, sequence: { groupOrder: 0 } } },
      {
        test: {
          ...REAL,
          name: "real",
          include: ["test/{lab,real}/**/*.test.ts"],
          exclude: QUIET,
          maxWorkers,
          sequence: { groupOrder: 1 },
        },
      },
      {
        test: {
          ...PATIENCE,
          name: "unit",
          include: ["test/{unit,fuzz}/**/*.test.ts"],
          testTimeout: 30_000,
          maxWorkers,
          sequence: { groupOrder: 1 },
        },
      },
    ],
  },
});
