import { randomBytes } from "node:crypto";
import type { PlaceFound } from "../compact/batch-writer.ts";
import { CacheForms } from "../compact/cache-forms.ts";
import { type IndexedPlaces, PlaceMatcher, placeMatcherBytes } from "../compact/place-matcher.ts";
import { xxh3Secret } from "../compact/xxh3-secret.ts";
import { createKernelsWithCache, type Kernels, NO_CACHE_MEMORY } from "./kernels.ts";
import { WINDOW_MEMORY_BYTES } from "./window.ts";

/** What pages may be sent as references to. */
export interface Referable {
  /** Looked in from the first to the last. */
  readonly places: readonly IndexedPlaces[];
  /** The key of their tags, and of those of pages that equal others. */
  readonly tagKey: Uint8Array;
  /** Most references to it did not hold: none is made any more. */
  onSwitchedOff?(source: Pick<PlaceFound, "kind" | "source">): void;
  /** What people call one of them. */
  nameOf(source: Pick<PlaceFound, "kind" | "source">): string;
}

/** The kernels of a sender, and what works in their memory behind its window. */
export interface SenderKernels {
  readonly kernels: Kernels;
  /** Undefined where there is nothing to refer to. */
  readonly matcher: PlaceMatcher | undefined;
  readonly cache: CacheForms | undefined;
}

/** @param cachePages slots of the page cache; there is none without `referable` */
export function createSenderKernels(
  referable: Referable | undefined,
  cachePages: number,
  onWarning: (message: string) => void,
): SenderKernels {
  const { places = [], tagKey } = referable ?? {};
  const matcherAt = WINDOW_MEMORY_BYTES;
  const cacheAt = Math.ceil((matcherAt + placeMatcherBytes(places.length)) / 16) * 16;
  const wantsCache = tagKey !== undefined && cachePages > 0;
  const cacheBytes = wantsCache ? CacheForms.memoryBytes(cachePages) : 0;
  const { kernels, hasCache } = createKernelsWithCache(cacheAt, cacheBytes);
  if (!hasCache) onWarning(NO_CACHE_MEMORY);
  const { pages, bytes, base } = kernels;
  if (tagKey === undefined) return { kernels, matcher: undefined, cache: undefined };
  // A guest that knew the secret could make pages that are taken for equal, and compared in vain.
  const secret = xxh3Secret(randomBytes(8).readBigUInt64LE());
  return {
    kernels,
    matcher: places.length > 0 ? new PlaceMatcher(pages, bytes, base + matcherAt, places, tagKey) : undefined,
    cache:
      wantsCache && hasCache ? new CacheForms(pages, bytes, base + cacheAt, cachePages, tagKey, secret) : undefined,
  };
}
