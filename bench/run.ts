/** `npm run bench [NAME...]`: the benchmarks behind docs/benchmarks.md, one after the other, printed as they end. */
import { machine } from "./support.ts";

const BENCHES: Readonly<Record<string, () => Promise<{ bench: () => string | Promise<string> }>>> = {
  parser: () => import("./parser.ts"),
  intake: () => import("./intake.ts"),
  sender: () => import("./sender.ts"),
  receiver: () => import("./receiver.ts"),
  resume: () => import("./resume.ts"),
  codec: () => import("./codec.ts"),
  replay: () => import("./replay.ts"),
  plan: () => import("./plan.ts"),
  "plan-accuracy": () => import("./plan-accuracy.ts"),
  journal: () => import("./journal.ts"),
  index: () => import("./index.ts"),
  checkpoint: () => import("./checkpoint.ts"),
  blackout: () => import("./blackout.ts"),
  migration: () => import("./migration.ts"),
};

const asked = process.argv.slice(2);
const unknown = asked.filter((name) => !(name in BENCHES));
if (unknown.length > 0) {
  console.error(`no benchmark ${unknown.join(", ")}; there are: ${Object.keys(BENCHES).join(", ")}`);
  process.exit(2);
}
console.log(`${machine()}\n`);
for (const name of asked.length > 0 ? asked : Object.keys(BENCHES)) {
  const { bench } = await BENCHES[name]!();
  console.log(`## ${name}\n\n${await bench()}\n`);
}
