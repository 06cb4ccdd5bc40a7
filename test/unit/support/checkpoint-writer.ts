/** Begins a checkpoint in the state folder that it is given, says so, and waits to be killed. */
import { openCheckpoints } from "../../../src/migration/open-checkpoints.ts";

const store = await openCheckpoints(process.argv[2]!);
const writer = await store.create({ identity: "name:a", vmName: "a", memoryBytes: 2 ** 24, origin: "saved" });
writer.add(0, new Uint8Array(2 ** 20).fill(7));
await writer.drained();
process.send?.("writing");
setInterval(() => {}, 1000);
