import fc from "fast-check";
import { goldenStreams, inspectBytes } from "../../unit/support/golden.ts";
import { MAX_SLOTS, roundtrip } from "../../unit/support/roundtrip.ts";
import { mutated } from "../../unit/support/streams.ts";
import { mutateBytes } from "../mutate.ts";
import type { Random } from "../random.ts";
import { type FuzzTarget, WrongOutput } from "../target.ts";

const MAX_BYTES = 150_000;

let streams: Buffer[] | undefined;

function seeds(): Buffer[] {
  // Made-up ones are shorter, and have all kinds of records and sections.
  streams ??= [...goldenStreams().map(({ bytes }) => bytes), ...fc.sample(mutated, { numRuns: 20, seed: 1 })];
  return streams;
}

/** A stretch of a real stream, mostly from its start, changed in a few places. */
function stretch(all: readonly Uint8Array[], random: Random): Uint8Array {
  const stream = random.pick(all);
  const from = random.chance(0.7) ? 0 : random.below(stream.length);
  const piece = stream.subarray(from, from + random.small(MAX_BYTES));
  return mutateBytes(piece, all, random, MAX_BYTES);
}

/** Any bytes come out as they went in: there is nothing to refuse. */
const identity: FuzzTarget = {
  name: "streams, there and back",
  share: 30,
  refuses: /^$/,
  seeds: () => seeds().map((stream) => stream.subarray(0, MAX_BYTES)),
  input: (_seeds, random) => stretch(seeds(), random),
  feed(input, random) {
    const options = {
      cuts: Array.from({ length: 1 + random.below(4) }, () => 1 + random.small(40_000)),
      aheadEvery: random.below(4),
      flushes: random.chance(0.3),
      slots: random.chance(0.5) ? MAX_SLOTS : 0,
    };
    const { decoded, counts } = roundtrip(input, { ...options, kernels: true });
    if (Buffer.compare(decoded, input) !== 0) throw new WrongOutput("other bytes came out than went in");
    if (input.length > 20_000 || !random.chance(0.2)) return;
    const plain = roundtrip(input, { ...options, kernels: false });
    if (JSON.stringify(plain.counts) !== JSON.stringify(counts))
      throw new WrongOutput("the kernels count otherwise than the reference");
  },
};

const inspector: FuzzTarget = {
  name: "inspection of streams",
  share: 5,
  refuses: /^STREAM_/,
  seeds: () => seeds().map((stream) => stream.subarray(0, MAX_BYTES)),
  input: (_seeds, random) => stretch(seeds(), random),
  async feed(input, random) {
    const whole = JSON.stringify(await inspectBytes(input));
    const cut = JSON.stringify(await inspectBytes(input, 1 + random.small(40_000)));
    if (whole !== cut) throw new WrongOutput("cuts change what is found");
  },
};

export const STREAM_TARGETS = [identity, inspector];
