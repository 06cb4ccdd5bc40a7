import { availableParallelism } from "node:os";
import { defineConfig } from "vitest/config";

// Files with real QEMUs begin (vitest takes projects by their names), and unit tests fill what they leave of the cores: two thirds of a
// core a file, as they wait for links and guests much of the time. Each file of the former may have 2 GiB in QEMUs.
const maxWorkers = Math.min(availableParallelism() + 1, 8);

export default defineConfig({
  test: {
    globalSetup: "test/own-folders.ts",
    projects: [
      {
        test: { name: "unit", include: ["test/{unit,fuzz}/**/*.test.ts"], testTimeout: 30_000, maxWorkers },
      },
      {
        test: {
          name: "real",
          include: ["test/{lab,real}/**/*.test.ts"],
          testTimeout: 180_000,
          hookTimeout: 180_000,
          maxWorkers,
          pool: "forks",
        },
      },
    ],
  },
});
