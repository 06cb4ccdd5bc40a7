import { Pack } from "./checkpoint-pack.ts";

/** Packs that are open without being read from, at most: 64 GiB of contents. Their tables take 64 KiB each. */
const MAX_IDLE = 256;

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
  #isEnded = false;

  constructor(folder: string, folderId: Buffer, ids: readonly string[]) {
    this.#folder = folder;
    this.#folderId = folderId;
    this.#ids = ids;
  }

  /** Opens those there is room for, so that they can be read even when the checkpoint is deleted. */
  async openAll(): Promise<void> {
    const opened = this.#ids.slice(0, MAX_IDLE).map((_, number) => this.use(number, async () => {}).catch(ignore));
    await Promise.all(opened);
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
      const isLast = this.#entries.get(number) === entry;
      if (isLast && (await failed(entry))) this.#entries.delete(number); // the next one tries again
      throw error;
    } finally {
      entry.users--;
      await this.#closeIdle(this.#isEnded ? 0 : MAX_IDLE);
    }
  }

  /** Those that are being read from are closed once they are not. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#isEnded = true;
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

/** Whoever wants a page of it is told. */
function ignore(): void {}

function failed({ pack }: Entry): Promise<boolean> {
  return pack.then(
    () => false,
    () => true,
  );
}
