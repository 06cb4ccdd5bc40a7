/** What several models reckon with. */

/** The middle one, of two the larger; undefined of none. */
export function medianOf(values: readonly number[]): number | undefined {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];
}

/** The mean of e^−x from 0 to `x`. */
export function meanOfDecay(x: number): number {
  return x > 0 ? -Math.expm1(-x) / x : 1;
}
