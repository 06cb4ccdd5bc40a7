import type { ByForm, RoundSample } from "../samples.ts";
import type { Stretch } from "./scenario.ts";

/** What of a round's sample is not counted while it runs. */
type Found = Pick<
  RoundSample,
  | "leftPages"
  | "dirtiedPages"
  | "remainingBytes"
  | "goodputBytesPerSecond"
  | "roundTripMs"
  | "restoreBytesPerSecond"
  | "throttlePercent"
>;

/** What was sent in a round. */
export class RoundTally {
  readonly number: number;
  readonly #startMs: number;
  #pages = 0;
  #wireBytes = 0;
  readonly #pagesByForm: ByForm = {};
  readonly #wireBytesByForm: ByForm = {};

  constructor(number: number, startMs: number) {
    this.number = number;
    this.#startMs = startMs;
  }

  add(pages: number, { form, wireBytesPerPage }: Stretch): void {
    this.#pages += pages;
    this.#wireBytes += pages * wireBytesPerPage;
    this.#pagesByForm[form] = (this.#pagesByForm[form] ?? 0) + pages;
    this.#wireBytesByForm[form] = (this.#wireBytesByForm[form] ?? 0) + pages * wireBytesPerPage;
  }

  /** No page is sent twice in a round. */
  end(atMs: number, found: Found): RoundSample {
    return {
      ...found,
      atMs,
      round: this.number,
      durationMs: atMs - this.#startMs,
      pages: this.#pages,
      distinctPages: this.#pages,
      redirtiedPages: this.number === 0 ? 0 : this.#pages,
      wireBytes: this.#wireBytes,
      pagesByForm: this.#pagesByForm,
      wireBytesByForm: this.#wireBytesByForm,
    };
  }
}
