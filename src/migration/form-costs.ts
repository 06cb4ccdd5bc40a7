import type { FormCounts } from "../compact/encoder.ts";
import type { ByForm } from "../control/samples.ts";
import { PAGE_RECORD_BYTES } from "../stream/format.ts";

/** What was sent so far. */
export interface Traffic {
  readonly counts: Readonly<FormCounts>;
  readonly nackedPages: number;
  readonly tokenBytes: number;
  /** All bodies, as they were and as they stood on the wire. */
  readonly bodyBytes: number;
  readonly packedBytes: number;
}

export interface FormCosts {
  readonly pagesByForm: ByForm;
  readonly wireBytesByForm: ByForm;
}

/**
 * The pages that were sent between two moments, by form, and what each form cost on the wire.
 *
 * A body holds pages of several forms and is packed as a whole, and at any moment some are on their way to be sent: so a form costs what
 * its content was, times what packing made of all that was packed meanwhile. Tokens go to the references that they stand for, or to zero
 * pages where there are none.
 *
 * @param ratio that bodies were packed to before, for a stretch in which none was packed
 */
export function formCosts(before: Traffic, after: Traffic, ratio: number): FormCosts {
  const counts = difference(before.counts, after.counts);
  const packed = packedShare(before, after, ratio);
  const { diskPages, checkpointPages, samePages, zeroPages, blankPages } = counts;
  const referred = diskPages + checkpointPages + samePages;
  const plain = zeroPages + blankPages;
  const tokenBytes = (after.tokenBytes - before.tokenBytes) * packed;
  const repairedBytes = (after.nackedPages - before.nackedPages) * PAGE_RECORD_BYTES;
  const perReference = referred > 0 ? tokenBytes / referred : 0;
  const perRepaired = referred > samePages ? repairedBytes / (referred - samePages) : 0;
  const perPlain = referred === 0 && plain > 0 ? tokenBytes / plain : 0;
  const pagesByForm = {
    zero: zeroPages,
    disk: diskPages,
    checkpoint: checkpointPages,
    same: samePages,
    delta: counts.deltaPages,
    literal: counts.literalPages,
    blank: blankPages,
    raw: counts.rawPages,
  };
  const wireBytesByForm = {
    zero: zeroPages * perPlain,
    disk: diskPages * (perReference + perRepaired),
    checkpoint: checkpointPages * (perReference + perRepaired),
    same: samePages * perReference,
    delta: counts.deltaBytes * packed,
    literal: counts.literalPages * PAGE_RECORD_BYTES * packed,
    blank: blankPages * perPlain,
    raw: counts.rawBytes * packed,
  };
  return { pagesByForm: present(pagesByForm), wireBytesByForm: present(wireBytesByForm) };
}

/** What packing made of a byte of the bodies between two moments, or `otherwise` where there was none. */
export function packedShare(before: Traffic, after: Traffic, otherwise: number): number {
  const bodyBytes = after.bodyBytes - before.bodyBytes;
  return bodyBytes > 0 ? (after.packedBytes - before.packedBytes) / bodyBytes : otherwise;
}

function difference(before: Readonly<FormCounts>, after: Readonly<FormCounts>): FormCounts {
  const counts = { ...after };
  for (const key of Object.keys(counts) as (keyof FormCounts)[]) counts[key] -= before[key];
  return counts;
}

function present(byForm: ByForm): ByForm {
  return Object.fromEntries(Object.entries(byForm).filter(([, amount]) => amount > 0));
}
