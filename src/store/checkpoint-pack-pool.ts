import { Pack } from "./checkpoint-pack.ts";

/** Packs that are open without being read from, at most: their tables take 80 KB each. */
const MAX_IDLE = 64;

interface Entry {
  readonly pack: Promise<Pack>;
  users: number;
}

/** The packs of a checkpoint, opened when they are needed. */
export class PackPool implements AsyncDisposable {
  readonly #folder: string;
  readonly #folderId: Buffer;
  readonly #ids: readonly string[];
  /** By the number in the manifest, those used last behind. */
  readonly #entries = new Map<number, Entry>();

  constructor(folder: string, folderId: Buffer, ids: readonly string[]) {
    this.#folder = folder;
    this.#folderId = folderId;
    this.#ids = ids;
  }

  /** Works with a pack, which stays open meanwhile. */
  async use<T>(number: number, work: (pack: Pack) => Promise<T>): Promise<T> {
    const entry = this.#entries.get(number) ?? this.#open(number);
    this.#entries.delete(number);
    this.#entries.set(number, entry);
    entry.users++;
    try {
      return await work(await entry.pack);
    } catch (error) {
      if (await failed(entry)) this.#entries.delete(number); // the next one tries again
      throw error;
    } finally {
      entry.users--;
      await this.#closeIdle(MAX_IDLE);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#closeIdle(0);
  }

  #open(number: number): Entry {
    return { pack: Pack.open(this.#folder, this.#ids[number]!, this.#folderId), users: 0 };
  }

  async #closeIdle(left: number): Promise<void> {
    for (const [number, entry] of this.#entries) {
      if (this.#entries.size <= left) return;
      if (entry.users > 0) continue;
      this.#entries.delete(number);
      if (!(await failed(entry))) await (await entry.pack).close();
    }
  }
}

function failed({ pack }: Entry): Promise<boolean> {
  return pack.then(
    () => false,
    () => true,
  );
}
