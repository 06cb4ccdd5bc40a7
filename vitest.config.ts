import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: "unit",
          include: ["test/{unit,fuzz}/**/*.test.ts"],
          testTimeout: 30_000,
          sequence: { groupOrder: 0 },
        },
      },
      {
        // Real QEMUs share the cores with each other: two files at a time, as a guest that boots keeps one core busy.
        test: {
          name: "real",
          include: ["test/{lab,real}/**/*.test.ts"],
          testTimeout: 180_000,
          hookTimeout: 180_000,
          maxWorkers: 2,
          pool: "forks",
          sequence: { groupOrder: 1 },
        },
      },
    ],
  },
});
