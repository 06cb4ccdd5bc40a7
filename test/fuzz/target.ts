import type { Random } from "./random.ts";

/** Something that reads what others wrote. */
export interface FuzzTarget {
  readonly name: string;
  /** Of all bytes, the part that this one is fed, beside the shares of the others. */
  readonly share: number;
  /** The codes of errors with which it may refuse an input. */
  readonly refuses: RegExp;
  /** Real input; it is read when the target is first used. */
  seeds(): readonly Uint8Array[] | Promise<readonly Uint8Array[]>;
  /** An input made of the seeds; default: {@link mutateBytes}, of at most {@link maxBytes}. */
  input?(seeds: readonly Uint8Array[], random: Random): Uint8Array;
  /** Default: 64 KiB. */
  readonly maxBytes?: number;
  /** What its memory may grow by beyond what the engine allows, for each input: what Node itself does not give back. */
  readonly leakBytes?: number;
  /**
   * Feeds it one input, and makes sure that nothing wrong comes out.
   *
   * @param random for what does not belong to the input, such as how it is cut; the same for the same input
   * @throws GodwitError when the input is refused; anything else that it throws is a bug
   */
  feed(input: Uint8Array, random: Random): void | Promise<void>;
  /** Gives back what it has opened. */
  close?(): void | Promise<void>;
}

/** Accepted, and wrong. */
export class WrongOutput extends Error {}
