import { availableParallelism } from "node:os";
import { defineConfig } from "vitest/config";

// Files with real QEMUs begin (vitest takes projects by their names), and unit tests fill what they leave of the cores: two thirds of a
// core a file, as they wait for links and guests much of the time. Each file of the former may have 2 GiB in QEMUs.
const maxWorkers = Math.min(availableParallelism() + 1, 8);

/** What compares measured times and bytes with predicted ones: with nothing beside it, and before all else. */
const QUIET = ["test/real/plan.test.ts"];
const REAL = { testTimeout: 180_000, hookTimeout: 180_000, pool: "forks" } as const;

export default defineConfig({
  test: {
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
