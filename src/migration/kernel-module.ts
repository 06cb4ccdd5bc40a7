import { readFileSync } from "node:fs";
import type { PageKernels } from "../compact/page-kernels.ts";

const wasmModule = new WebAssembly.Module(readFileSync(new URL("../../assembly/kernels.wasm", import.meta.url)));

/** The exports of assembly/index.ts over `memory`. They keep nothing outside it: an instance costs next to nothing. */
export function instantiateKernels(memory: WebAssembly.Memory): Record<string, unknown> {
  return new WebAssembly.Instance(wasmModule, { env: { memory } }).exports;
}

/** The kernels of memory compaction over `memory`, which other threads may share. */
export function createPageKernels(memory: WebAssembly.Memory): PageKernels {
  return instantiateKernels(memory) as unknown as PageKernels;
}
