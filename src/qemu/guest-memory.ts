/** Where a VM's memory stands in its guest-physical address space. */

import { GodwitError, messageOf } from "../errors.ts";
import type { MemoryDevice } from "./commands.ts";
import type { QmpClient } from "./qmp.ts";

const PAGE_BYTES = 4096;
/** No CPU of QEMU's has more physical address bits (MAX_PHYS_ADDR_BITS, target/i386); exact as a JavaScript number. */
const MAX_ADDRESS = 2 ** 52;
/** The address space that the guest's CPUs and pmemsave see (address_space_memory, system/physmem.c). */
const ADDRESS_SPACE = "memory";

const LINE = /^ {2}([\da-f]{16})-([\da-f]{16}) \(prio -?\d+, ([^)]+)\): (\S+)/;

/** Consecutive pages of guest-physical memory. */
export interface MemoryRange {
  /** Guest-physical address / 4096. */
  readonly firstPage: number;
  readonly pages: number;
}

/**
 * Asks QEMU where the VM's memory is. Video memory, ROMs, what is mapped read-only over memory, and memory that a virtio-mem device plugs
 * in and out are left out.
 *
 * No command of QMP tells it, so it is read from what `info mtree -f` prints for people.
 *
 * @returns ranges in order of their addresses, which do not overlap
 * @throws GodwitError QMP_MEMORY_MAP when QEMU does not say, or in a way that is not known, and what `execute` throws
 */
export async function readMemoryMap(qmp: QmpClient): Promise<MemoryRange[]> {
  const [text, backends, devices] = await Promise.all([
    qmp.execute("human-monitor-command", { "command-line": "info mtree -f" }),
    qmp.execute("query-memdev"),
    qmp.execute("query-memory-devices"),
  ]);
  try {
    return parseMemoryMap(text, memoryNames(backends, devices));
  } catch (cause) {
    const message = `QEMU's memory map is not understood: ${messageOf(cause)}`;
    throw new GodwitError("QMP_MEMORY_MAP", message, { path: qmp.path }, { cause });
  }
}

/** The names that memory regions of guest memory have (host_memory_backend_get_name, backends/hostmem.c). */
function memoryNames(backends: readonly { readonly id?: string }[], devices: readonly MemoryDevice[]): Set<string> {
  // Reading what is not plugged in would make the host allocate it.
  const unreadable = new Set(devices.filter(({ type }) => type === "virtio-mem").map(({ data }) => data.memdev));
  const names = new Set<string>();
  for (const { id } of backends) {
    const path = `/objects/${id}`;
    if (id === undefined || unreadable.has(path)) continue;
    names.add(id).add(path); // machine types before 4.0 use the path
  }
  return names;
}

/**
 * Reads the ranges of guest memory out of what `info mtree -f` prints (mtree_print_flatview, system/memory.c): a paragraph for each
 * view, which names the address spaces that it is of, then has a line for each range.
 *
 * @param names those of the memory regions that are guest memory
 * @throws Error in one clause when anything in the paragraph is not as it is known
 */
export function parseMemoryMap(text: string, names: ReadonlySet<string>): MemoryRange[] {
  const view = text.split(/^FlatView #\d+\r?\n/m).find((view) => view.includes(` AS "${ADDRESS_SPACE}", root: `));
  if (view === undefined) throw new Error(`it has no address space "${ADDRESS_SPACE}"`);
  const ranges: MemoryRange[] = [];
  let endPage = 0;
  for (const line of view.split(/\r?\n/).filter((line) => line.startsWith("  "))) {
    // Behind the region's name may stand an offset in it, and the accelerator.
    const [, from, to, type, name] = LINE.exec(line) ?? [];
    if (name === undefined) throw new Error(`a line of it is ${JSON.stringify(line.slice(0, 100))}`);
    if (type !== "ram" || !names.has(name)) continue;
    const range = rangeOf(Number.parseInt(from!, 16), Number.parseInt(to!, 16) + 1);
    if (range.firstPage < endPage) throw new Error("its ranges overlap");
    endPage = range.firstPage + range.pages;
    ranges.push(range);
  }
  if (ranges.length === 0) throw new Error("it has no memory");
  return ranges;
}

function rangeOf(from: number, to: number): MemoryRange {
  if (from % PAGE_BYTES !== 0 || to % PAGE_BYTES !== 0) throw new Error("a range of memory is not of whole pages");
  if (from >= to || to > MAX_ADDRESS) throw new Error("a range of memory lies where none can be");
  return { firstPage: from / PAGE_BYTES, pages: (to - from) / PAGE_BYTES };
}
