/**
 * Starts a pair of QEMUs to try things on, and says how to reach them, until Ctrl-C.
 *
 *   node lab/by-hand.ts [bits per second of the link]
 */
import { startPair } from "./pair.ts";

const rate = process.argv[2] === undefined ? undefined : Number(process.argv[2]);
const stopped = new Promise<string>((resolve) => {
  for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, resolve);
});

console.log("lab: booting (about ten seconds without KVM)");
const load = { mib: 64, pagesPerSecond: 1000, pattern: "random" } as const;
await using pair = await startPair({ memoryMiB: 1024, cached: true, load, rateBitsPerSecond: rate });
for (const vm of [pair.source, pair.destination])
  console.log(`
${vm.name}: pid ${vm.pid}, address ${vm.host.address}
  monitor  ${vm.qmpPath}
  run      ${vm.host.command(["COMMAND"]).join(" ")}`);
console.log("\nlab: the guest works at the source; Ctrl-C ends all");
await Promise.race([stopped, Promise.all([pair.source.exited, pair.destination.exited])]);
