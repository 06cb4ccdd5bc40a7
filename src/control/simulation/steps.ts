/** Functions of time that are constant between steps: the speed of a link, the activity of a load. */

/** The value at a time, and until when it stays so (Infinity: for ever). */
export interface Step {
  value: number;
  untilMs: number;
}

export type Steps = (ms: number) => Step;

export function constant(value: number): Steps {
  const step = { value, untilMs: Number.POSITIVE_INFINITY };
  return () => step;
}

/** The same, begun earlier by `byMs`. */
export function shifted(steps: Steps, byMs: number): Steps {
  return (ms) => {
    const { value, untilMs } = steps(ms + byMs);
    return { value, untilMs: untilMs - byMs };
  };
}

/** One after the other: `first` for `ms`, then `then` from its beginning. */
export function sequence(first: Steps, ms: number, then: Steps): Steps {
  const later = shifted(then, -ms);
  return (at) => {
    if (at >= ms) return later(at);
    const { value, untilMs } = first(at);
    return { value, untilMs: Math.min(untilMs, ms) };
  };
}

/** The product of both. */
export function times(one: Steps, other: Steps): Steps {
  return (ms) => {
    const [a, b] = [one(ms), other(ms)];
    return { value: a.value * b.value, untilMs: Math.min(a.untilMs, b.untilMs) };
  };
}

/** Values in turn, each for its time, again and again. */
export function cycle(...stages: readonly { ms: number; value: number }[]): Steps {
  let periodMs = 0;
  const endsMs = stages.map(({ ms }) => (periodMs += ms));
  return (ms) => {
    const startMs = Math.floor(ms / periodMs) * periodMs;
    let [low, high] = [0, stages.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (ms < startMs + endsMs[middle]!) high = middle;
      else low = middle + 1;
    }
    // Only by rounding beyond the last one: the period that begins now.
    if (low === stages.length) return { value: stages[0]!.value, untilMs: startMs + periodMs + endsMs[0]! };
    return { value: stages[low]!.value, untilMs: startMs + endsMs[low]! };
  };
}

/** From `from` up to `to` in equal steps, for ever `to` then. */
export function ramp(from: number, to: number, ms: number, steps: number): Steps {
  return (at) => {
    const index = Math.floor((at / ms) * steps);
    if (index >= steps) return { value: to, untilMs: Number.POSITIVE_INFINITY };
    return { value: from + ((to - from) * index) / steps, untilMs: ((index + 1) * ms) / steps };
  };
}

/** Up from `from` to `to`, and at once back to `from`, every `periodMs`. */
export function sawtooth(from: number, to: number, periodMs: number, steps: number): Steps {
  const stages = Array.from({ length: steps }, (_, i) => ({
    ms: periodMs / steps,
    value: from + ((to - from) * i) / Math.max(1, steps - 1),
  }));
  return cycle(...stages);
}

/** `high` now and then, for times that look random around the two means, the same for the same seed. */
export function bursts(low: number, high: number, quietMs: number, burstMs: number, seed: number): Steps {
  const random = randomOf(seed);
  const stages = Array.from({ length: 64 }, (_, i) => {
    const mean = i % 2 === 0 ? quietMs : burstMs;
    return { ms: mean * (0.5 + random()), value: i % 2 === 0 ? low : high };
  });
  return cycle(...stages);
}

/** Numbers in [0, 1) that look random (mulberry32). */
export function randomOf(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
