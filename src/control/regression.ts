/** A line through weighted points, and how far off a further point may lie. */

export interface Point {
  x: number;
  y: number;
  weight: number;
}

export interface Line {
  intercept: number;
  slope: number;
  /** Standard deviation of a point of weight 1 around the line; null with fewer than three points. */
  deviation: number | null;
  /** Half the width of the interval in which 90 % of further points of weight 1 at `x` are expected; null as above. */
  margin(x: number): number | null;
}

/** Student's t at 95 % one-sided (so 90 % two-sided) by degrees of freedom, 1 to 10; beyond, that of the normal is near enough. */
const T_95 = [6.314, 2.92, 2.353, 2.132, 2.015, 1.943, 1.895, 1.86, 1.833, 1.812];
const NORMAL_95 = 1.645;

/**
 * The weighted least-squares line y = intercept + slope × x. Where all x are alike, the slope is 0.
 *
 * Each weight is taken as the inverse of its point's variance, so that a point of weight 1 has the variance that is
 * estimated.
 *
 * @param points at least one, weights above 0
 */
export function fitLine(points: readonly Point[]): Line {
  const weights = sum(points, (p) => p.weight);
  const meanX = sum(points, (p) => p.weight * p.x) / weights;
  const meanY = sum(points, (p) => p.weight * p.y) / weights;
  const spreadX = sum(points, (p) => p.weight * (p.x - meanX) ** 2);
  const covariance = sum(points, (p) => p.weight * (p.x - meanX) * (p.y - meanY));
  const slope = spreadX > 0 ? covariance / spreadX : 0;
  const intercept = meanY - slope * meanX;
  const freedom = points.length - 2;
  const deviation =
    freedom > 0 ? Math.sqrt(sum(points, (p) => p.weight * (p.y - intercept - slope * p.x) ** 2) / freedom) : null;
  return {
    intercept,
    slope,
    deviation,
    margin(x) {
      if (deviation === null) return null;
      const lever = spreadX > 0 ? (x - meanX) ** 2 / spreadX : 0;
      return (T_95[freedom - 1] ?? NORMAL_95) * deviation * Math.sqrt(1 + 1 / weights + lever);
    },
  };
}

function sum(points: readonly Point[], term: (point: Point) => number): number {
  return points.reduce((total, point) => total + term(point), 0);
}
