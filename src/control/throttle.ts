import type { WorkingSetModel } from "./working-set.ts";

/** QEMU's own cap (max-cpu-throttle, migration/options.c). */
export const MAX_PERCENT = 99;
/** Above what just suffices by the model. */
const MARGIN_PERCENT = 3;
/** Where the model sees no way: it knows too little of short rounds, and the next ones will be shorter. */
const STEP_PERCENT = 20;

/**
 * How much of its CPU time a guest has to be denied for rounds to shrink to `pages`.
 *
 * @param fromPercent what it is denied already
 */
export function throttleFor(model: WorkingSetModel, pagesPerMs: number, pages: number, fromPercent: number): number {
  for (let percent = fromPercent + 1; percent <= MAX_PERCENT; percent++) {
    const speed = 1 - percent / 100;
    const roundMs = model.fixedPointMs(pagesPerMs, speed);
    if (model.pages(roundMs * speed) <= pages) return Math.min(MAX_PERCENT, percent + MARGIN_PERCENT);
  }
  return Math.min(MAX_PERCENT, fromPercent + STEP_PERCENT);
}
