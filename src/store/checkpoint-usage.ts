import { COLUMN } from "./checkpoint-chunk.ts";
import { codeOf } from "./checkpoint-errors.ts";
import type { Manifest } from "./checkpoint-manifest.ts";
import { PACK_PAGES } from "./checkpoint-pack.ts";

const NOBODY = 0;
const SEVERAL = 255;

/** Which contents of a pack are alive, and how many of them a manifest has. */
interface PackUse {
  /** For each content whose it is: NOBODY, one more than the index of the only manifest, or SEVERAL. */
  readonly owners: Uint8Array;
  /** For each manifest how many of the pack's contents it names. */
  readonly named: number[];
  /** How many contents have each of the owners; made when it is asked for. */
  counts?: Uint32Array;
}

/** What the manifests of a VM name. */
export class Usage {
  readonly #packs = new Map<string, PackUse>();

  /** Reads the places of all manifests. What fails its checksum names nothing. */
  static async of(manifests: readonly Manifest[]): Promise<Usage> {
    const usage = new Usage();
    for (const [index, manifest] of manifests.entries()) await usage.#add(manifest, index);
    return usage;
  }

  /** Whether a content is alive. */
  isAlive(pack: string, content: number): boolean {
    return (this.#packs.get(pack)?.owners[content] ?? NOBODY) !== NOBODY;
  }

  /** How many contents of a pack are alive. */
  aliveIn(pack: string): number {
    const use = this.#packs.get(pack);
    return use === undefined ? 0 : PACK_PAGES - countsOf(use)[NOBODY]!;
  }

  /** The contents of a pack that a manifest names: those that only it does, and the others. */
  namedBy(index: number, pack: string): { own: number; shared: number } {
    const use = this.#packs.get(pack);
    if (use === undefined) return { own: 0, shared: 0 };
    const own = index + 1 < SEVERAL ? countsOf(use)[index + 1]! : 0;
    return { own, shared: (use.named[index] ?? 0) - own };
  }

  async #add(manifest: Manifest, index: number): Promise<void> {
    const seen = manifest.record.packs.map(() => new Uint8Array(PACK_PAGES / 8));
    const uses = manifest.record.packs.map((pack) => this.#useOf(pack));
    for (const use of uses) use.named[index] = 0;
    for (let chunk = 0; chunk < manifest.chunks; chunk++) {
      const places = await manifest.column(chunk, COLUMN.place).catch((error) => {
        if (codeOf(error) === "STORE_CHECKPOINT_DAMAGED") return Buffer.alloc(0);
        throw error;
      });
      for (let at = 0; at < places.length; at += 4) {
        const content = places.readUInt16LE(at);
        const pack = places.readUInt16LE(at + 2);
        const use = uses[pack];
        const bits = seen[pack];
        if (use === undefined || bits === undefined) continue;
        if ((bits[content >> 3]! & (1 << (content & 7))) !== 0) continue;
        bits[content >> 3]! |= 1 << (content & 7);
        use.named[index]!++;
        use.owners[content] = use.owners[content] === NOBODY ? Math.min(index + 1, SEVERAL) : SEVERAL;
      }
    }
  }

  #useOf(pack: string): PackUse {
    let use = this.#packs.get(pack);
    if (use === undefined) {
      use = { owners: new Uint8Array(PACK_PAGES), named: [] };
      this.#packs.set(pack, use);
    }
    return use;
  }
}

function countsOf(use: PackUse): Uint32Array {
  if (use.counts === undefined) {
    use.counts = new Uint32Array(SEVERAL + 1);
    for (const owner of use.owners) use.counts[owner]!++;
  }
  return use.counts;
}
