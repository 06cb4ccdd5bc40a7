/** How fast the pages of the working set go out, as the last rounds show. */
import type { RoundSample } from "./samples.ts";

/** Of so many rounds. */
const ROUNDS = 4;
/** Rounds that used this share of the link were held up by it. */
export const BOUND_SHARE = 0.75;
/** A guest whose pages are nearly all unchanged writes what was there already: none of them says what a changed one costs. */
export const MOST_SAME = 0.9;

export interface Sending {
  bytesPerMs: number;
  /** Of a page that has changed since it was sent. */
  wireBytesPerPage: number;
  /** The link is what holds the sending up. */
  isLinkBound: boolean;
}

/**
 * Where the link is the bottleneck, the bytes of rounds tell: pages that are found dirty though they are unchanged cost next to
 * nothing, and how many there are depends on the length of the rounds.
 *
 * @param rounds after the bulk round, one at least
 * @param seen the mean pace and cost, which count where something else is the bottleneck
 */
export function sendingOf(
  rounds: readonly RoundSample[],
  { pagesPerMs, wireBytesPerPage }: { pagesPerMs: number; wireBytesPerPage: number },
): Sending {
  const near = rounds.slice(-ROUNDS);
  const sum = (of: (round: RoundSample) => number) => near.reduce((sum, round) => sum + of(round), 0);
  const wireBytes = sum((round) => round.wireBytes);
  const pages = sum((round) => round.pages - (round.pagesByForm.zero ?? 0));
  const same = sum(({ pagesByForm }) => pagesByForm.same ?? 0);
  const bytesPerMs =
    wireBytes /
    Math.max(
      1,
      sum(({ durationMs }) => durationMs),
    );
  const isLinkBound =
    bytesPerMs * 1000 >= BOUND_SHARE * rounds.at(-1)!.goodputBytesPerSecond && same < MOST_SAME * pages;
  if (!isLinkBound) return { bytesPerMs: pagesPerMs * wireBytesPerPage, wireBytesPerPage, isLinkBound };
  return { bytesPerMs, wireBytesPerPage: wireBytes / (pages - same), isLinkBound };
}
