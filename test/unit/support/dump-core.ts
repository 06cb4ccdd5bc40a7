/** Holds a pattern as guest memory is held, and ends as a program with a grave fault does. argv: a signal, and "kept" to keep memory out of the dump. */
import { keepMemoryOutOfDumps } from "../../../src/cli/process-limits.ts";

const [signal, isKept] = process.argv.slice(2);
if (isKept === "kept") keepMemoryOutOfDumps();
const memory = Buffer.from(new WebAssembly.Memory({ initial: 64, maximum: 64, shared: true }).buffer);
// Not in the source as it is in memory.
const pattern = Buffer.from("guest-memory".split("").reverse().join(""));
for (let at = 0; at + pattern.length <= memory.length; at += 64) memory.set(pattern, at);
process.kill(process.pid, signal);
