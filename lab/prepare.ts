/** Builds what the lab needs into its cache and says so; run by scripts/setup.sh. */
import { accelerator } from "./accelerator.ts";
import { cacheFolder } from "./cache.ts";
import { guest, hasGuest } from "./guest.ts";
import { hasQemu, type QemuVersion, qemuFolder } from "./qemus.ts";

const versions: readonly QemuVersion[] = ["10.0", "7.2"];
const steps = [
  { what: "the guest (Debian packages, 80 MB to fetch, 330 MB on disk)", isDone: hasGuest, build: guest },
  ...versions.map((version) => ({
    what: `QEMU ${version} (Debian packages, 40 MB to fetch, 150 MB on disk)`,
    isDone: () => hasQemu(version),
    build: () => qemuFolder(version),
  })),
];

const missing = steps.filter(({ isDone }) => !isDone());
try {
  if (missing.length > 0) console.log(`lab: building into ${cacheFolder()}`);
  for (const { what, build } of missing) {
    const startMs = performance.now();
    await build();
    console.log(`lab: ${what}: built in ${seconds(startMs)}`);
  }
  const startMs = performance.now();
  const found = await accelerator();
  if (performance.now() - startMs > 200) console.log(`lab: guests run with ${found} (found in ${seconds(startMs)})`);
} catch (error) {
  console.error(`lab: ${error instanceof Error ? error.message : error}`);
  process.exitCode = 1;
}

function seconds(startMs: number): string {
  return `${((performance.now() - startMs) / 1000).toFixed(1)} s`;
}
