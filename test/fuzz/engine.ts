import { createHash } from "node:crypto";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { GodwitError } from "../../src/errors.ts";
import { mutateBytes } from "./mutate.ts";
import { Random } from "./random.ts";
import type { FuzzTarget } from "./target.ts";

/** CPU time that an input may take; what grows with the square of its length is found. */
const MAX_INPUT_MS = 2_000;
/** Beyond what it had when it was warm. */
const MAX_GROWTH_BYTES = 256 * 2 ** 20;
const DEFAULT_MAX_BYTES = 64 * 1024;
/** After so many inputs everything has been compiled and every buffer allocated. */
const WARM_INPUTS = 200;

export interface FuzzFigures {
  readonly target: string;
  readonly bytes: number;
  readonly inputs: number;
  readonly refused: number;
  readonly accepted: number;
  readonly maxMs: number;
  readonly growthBytes: number;
}

/** An input that a target did not take as it must. */
export class FuzzFailure extends Error {
  readonly target: string;
  readonly input: Uint8Array;

  constructor(target: string, input: Uint8Array, why: string, cause?: unknown) {
    super(`${target}: ${why}`, { cause });
    this.target = target;
    this.input = input;
  }
}

export interface FuzzOptions {
  readonly bytes: number;
  readonly seed: number;
  /** Is told of an input before it is fed, for the case that it never ends. */
  readonly onInput?: (input: Uint8Array) => void;
}

/**
 * Feeds a target so many bytes.
 *
 * @throws FuzzFailure for the first input that is not taken as it must
 */
export async function fuzz(target: FuzzTarget, { bytes, seed, onInput = () => {} }: FuzzOptions): Promise<FuzzFigures> {
  const seeds = await target.seeds();
  const figures = { target: target.name, bytes: 0, inputs: 0, refused: 0, accepted: 0, maxMs: 0 };
  let warmBytes = 0;
  const feed = async (input: Uint8Array) => {
    onInput(input);
    const before = process.threadCpuUsage();
    const isAccepted = await feedOne(target, input);
    const { user, system } = process.threadCpuUsage(before);
    const ms = (user + system) / 1000;
    if (ms > MAX_INPUT_MS) throw new FuzzFailure(target.name, input, `an input took ${Math.round(ms)} ms`);
    figures.maxMs = Math.max(figures.maxMs, ms);
    figures.bytes += input.length;
    figures.inputs++;
    if (isAccepted) figures.accepted++;
    else figures.refused++;
    if (figures.inputs === WARM_INPUTS) warmBytes = residentBytes();
  };
  for (const input of seeds) await feed(input);
  for (let index = 0; figures.bytes < bytes; index++) {
    const random = new Random(seed, hashOf(target.name), index);
    const make =
      target.input ??
      ((all, random) => mutateBytes(random.pick(all), all, random, target.maxBytes ?? DEFAULT_MAX_BYTES));
    await feed(make(seeds, random));
  }
  const growthBytes = warmBytes === 0 ? 0 : residentBytes() - warmBytes;
  if (growthBytes > MAX_GROWTH_BYTES + figures.inputs * (target.leakBytes ?? 0)) {
    throw new FuzzFailure(
      target.name,
      new Uint8Array(0),
      `its memory grew by ${Math.round(growthBytes / 2 ** 20)} MiB`,
    );
  }
  return { ...figures, growthBytes };
}

/**
 * Feeds a target one input. What does not belong to the input follows from its bytes, so that a saved one fails again.
 *
 * @returns whether it was accepted
 * @throws FuzzFailure
 */
export async function feedOne(target: FuzzTarget, input: Uint8Array): Promise<boolean> {
  try {
    await target.feed(input, new Random(hashOf(input)));
    return true;
  } catch (error) {
    if (error instanceof GodwitError && target.refuses.test(error.code)) return false;
    const what = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
    throw new FuzzFailure(target.name, input, what, error);
  }
}

function hashOf(data: string | Uint8Array): number {
  return createHash("sha256").update(data).digest().readUInt32LE();
}

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;

function residentBytes(): number {
  collectGarbage();
  return process.memoryUsage().rss;
}
