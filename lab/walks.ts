import type { Vm } from "./vm.ts";

const WALK_TIMEOUT_MS = 60_000;
/** What the load, the kernel or a shell says when memory is broken. */
const BROKEN = /load: ERROR|ERRORS=|Kernel panic|BUG:|Oops|segfault|general protection/;

/**
 * Waits until the load in a VM has gone over all its pages so many times more, from a walk that begins after now.
 *
 * @throws Error with the console's words when the guest has found a broken page, now or before, or when it does not come
 * to the walks
 */
export async function cleanWalks(vm: Vm, walks: number): Promise<void> {
  const { console } = vm;
  // The end of the walk under way is heard, but not counted.
  for (let walk = 0; walk <= walks; walk++)
    await console.waitFor(new RegExp(`^load: walk \\d+|${BROKEN.source}`), WALK_TIMEOUT_MS, console.lines.length);
  assertUnbroken(vm);
}

/** @throws Error with the console's words when the guest of a VM has said that its memory is broken */
export function assertUnbroken({ console, name }: Vm): void {
  const broken = console.lines.find(({ text }) => BROKEN.test(text));
  if (broken) throw new Error(`the guest of ${name} is broken: ${broken.text}`);
}
