import { createHash } from "node:crypto";
import { open } from "node:fs/promises";

/** Hashes, counts and, if wanted, records what flows through it; it holds nothing back and changes nothing. */
export class Meter {
  readonly #hash = createHash("sha256");
  readonly #recordTo: string | undefined;
  #bytes = 0;

  constructor(recordTo?: string) {
    this.#recordTo = recordTo;
  }

  async *measure(chunks: AsyncIterable<Uint8Array>): AsyncIterable<Uint8Array> {
    await using file = this.#recordTo === undefined ? undefined : await open(this.#recordTo, "w");
    for await (const chunk of chunks) {
      this.#hash.update(chunk);
      this.#bytes += chunk.length;
      await file?.writeFile(chunk); // from where the last one ended
      yield chunk;
    }
  }

  /** Of what flowed so far. */
  digest(): { readonly sha256: string; readonly bytes: number } {
    return { sha256: this.#hash.copy().digest("hex"), bytes: this.#bytes };
  }
}
