import { describe, expect, test } from "vitest";
import { CodecChoice, type Conditions, NONE, nameOf, type Packing } from "../../src/compact/codec.ts";

const BODY_BYTES = 256 * 1024;

/** What a core does with the pages of a test: bytes a second and ratio, by name. */
type Cores = Record<string, readonly [bytesPerSecond: number, ratio: number]>;

const program: Cores = {
  lz4: [500e6, 0.53],
  "zstd 1": [370e6, 0.4],
  "zstd 3": [240e6, 0.37],
  "zstd 6": [110e6, 0.35],
  "zstd 9": [70e6, 0.345],
  none: [Number.POSITIVE_INFINITY, 1],
};
const noise: Cores = Object.fromEntries(Object.entries(program).map(([name, [speed]]) => [name, [2 * speed, 1]]));

/** A sender as the choice sees it: a link, threads that pack, and pages. It goes as fast as the slower of the two lets it. */
class Simulation {
  readonly changes: [name: string, reason: string][] = [];
  readonly choice: CodecChoice;
  readonly used: Record<string, number> = {};
  cores = program;
  linkBytesPerSecond: number;
  /** The share of a core that a thread gets. */
  coreShare = 1;
  readonly #threads: number;
  #nowMs = 0;
  #seenBytesPerSecond = 0;
  #linkMs = 0;
  #packingMs = 0;
  #atMs = 0;
  wireBytes = 0;
  bodyBytes = 0;

  constructor(linkBytesPerSecond: number, { threads = 1, only }: { threads?: number; only?: Packing } = {}) {
    this.linkBytesPerSecond = linkBytesPerSecond;
    this.#threads = threads;
    const onChange = (packing: Packing, reason: string) => this.changes.push([nameOf(packing), reason]);
    this.choice = new CodecChoice(threads, only, onChange);
  }

  run(forMs: number): this {
    for (const endMs = this.#nowMs + forMs; this.#nowMs < endMs; ) {
      const packing = this.choice.next(BODY_BYTES);
      const name = nameOf(packing);
      const [bytesPerSecond, ratio] = this.cores[name]!;
      const linkMs = (BODY_BYTES * ratio * 1000) / this.linkBytesPerSecond;
      const packMs = (BODY_BYTES * 1000) / (bytesPerSecond * this.coreShare * this.#threads);
      this.#nowMs += Math.max(linkMs, packMs);
      if (linkMs > packMs) this.#linkMs += linkMs;
      else this.#packingMs += packMs;
      this.used[name] = (this.used[name] ?? 0) + 1;
      this.bodyBytes += BODY_BYTES;
      this.wireBytes += BODY_BYTES * ratio;
      const achieved = (BODY_BYTES * ratio * 1000) / Math.max(linkMs, packMs);
      this.#seenBytesPerSecond =
        linkMs > packMs ? this.linkBytesPerSecond : Math.max(this.#seenBytesPerSecond, achieved);
      if (packing.codec !== "none")
        this.choice.packed(packing, BODY_BYTES, BODY_BYTES * ratio, this.#ms(bytesPerSecond));
      this.#decide();
    }
    return this;
  }

  /** How long a thread takes for a body. One that does not get a core all of the time is now and then lucky. */
  #ms(bytesPerSecond: number): number {
    const isLucky = Math.round(this.bodyBytes / BODY_BYTES) % 3 === 0;
    return (BODY_BYTES * 1000) / (bytesPerSecond * (isLucky ? 1 : this.coreShare));
  }

  #decide(): void {
    if (!this.choice.isDue(this.#nowMs)) return;
    const ms = this.#nowMs - this.#atMs || 1;
    const conditions: Conditions = {
      linkBytesPerSecond: this.#seenBytesPerSecond,
      linkShare: this.#linkMs / ms,
      packingShare: this.#packingMs / ms,
    };
    this.choice.decide(conditions, this.#nowMs);
    [this.#linkMs, this.#packingMs, this.#atMs] = [0, 0, this.#nowMs];
  }

  get names(): string[] {
    return this.changes.map(([name]) => name);
  }
}

describe("the choice of codec", () => {
  test("packs from the first body on, and stays where the link is slow and the pages shrink", () => {
    const simulation = new Simulation(62.5e6);
    expect(nameOf(simulation.choice.next(BODY_BYTES))).toBe("zstd 1");
    expect(simulation.run(20_000).names).toEqual([]);
    expect(simulation.wireBytes / simulation.bodyBytes).toBeLessThan(0.41);
  });

  test("takes a heavier level only where the link is slow enough for it to tell", () => {
    const gainful = { ...program, "zstd 3": [240e6, 0.3] as const, "zstd 6": [110e6, 0.22] as const };
    const simulation = new Simulation(10e6);
    simulation.cores = gainful;
    simulation.run(60_000);
    expect(nameOf(simulation.choice.current)).toBe("zstd 6");
    expect(simulation.changes[0]![1]).toMatch(
      /^the link carries 10 MB\/s: zstd \d makes it \d+ MB\/s, zstd 1 makes it \d+ MB\/s$/,
    );
    simulation.linkBytesPerSecond = 62.5e6; // zstd 6 would pack no more than 110 MB/s, where zstd 3 makes 208 MB/s
    simulation.run(30_000);
    expect(nameOf(simulation.choice.current)).toBe("zstd 3");
  });

  test("a link that is faster than packing: lighter, then none at all", () => {
    const simulation = new Simulation(1.25e9).run(3000); // 10 Gbit/s
    expect(simulation.names.slice(0, 2)).toEqual(["lz4", "none"]);
    expect(simulation.changes[0]![1]).toBe("the link has room, and packing with zstd 1 holds the migration back");
    expect(nameOf(simulation.choice.current)).toBe("none");
  });

  test("but with many threads it is packed", () => {
    const simulation = new Simulation(1.25e9, { threads: 8 }).run(10_000);
    expect(simulation.choice.current.codec).not.toBe("none");
    expect(simulation.used.none ?? 0).toBe(0);
  });

  test("where lighter is slower, that is found out less and less often", () => {
    const simulation = new Simulation(200e6); // zstd 1: 370 MB/s of pages, LZ4 377 MB/s, none 200 MB/s
    simulation.cores = { ...program, lz4: [500e6, 0.75] };
    simulation.run(60_000);
    expect(nameOf(simulation.choice.current)).toBe("zstd 1");
    expect(simulation.names.length).toBeLessThan(16);
    expect((simulation.used.lz4 ?? 0) / (simulation.used["zstd 1"] ?? 0)).toBeLessThan(0.1);
  });

  test("threads that wait for a core are no reason to pack less", () => {
    const simulation = new Simulation(62.5e6);
    simulation.coreShare = 0.2;
    expect(simulation.run(20_000).names).toEqual([]);
  });

  test("pages that do not shrink are no reason to stop packing: others come behind them", () => {
    const simulation = new Simulation(62.5e6);
    simulation.cores = noise;
    expect(simulation.run(20_000).names).toEqual([]);
    expect(simulation.bodyBytes / 20).toBeGreaterThan(62.5e6 * 0.98); // a second
  });

  test("unless packing is slower than the link: then it is tried again now and then", () => {
    const simulation = new Simulation(400e6);
    simulation.cores = { ...noise, lz4: [300e6, 1], "zstd 1": [250e6, 1], "zstd 3": [200e6, 1] };
    simulation.run(10_000);
    expect(nameOf(simulation.choice.current)).toBe("none");
    expect(simulation.bodyBytes / 10).toBeGreaterThan(400e6 * 0.95);
    simulation.cores = { ...program, lz4: [800e6, 0.5] };
    simulation.run(10_000);
    expect(nameOf(simulation.choice.current)).toBe("lz4");
  });

  test("what a user asks for is done, whatever the bottleneck", () => {
    for (const only of [NONE, { codec: "lz4", level: 0 }, { codec: "zstd", level: 9 }] as const) {
      const simulation = new Simulation(1.25e9, { only });
      expect(simulation.run(2000).names).toEqual([]);
      expect(Object.keys(simulation.used)).toEqual([nameOf(only)]);
      expect(simulation.choice.reason).toBe("as asked for");
    }
  });

  test("small bodies go as they are", () => {
    const choice = new CodecChoice(1);
    expect(choice.next(100)).toMatchObject(NONE);
    expect(choice.nextUrgent(100, 1e6)).toMatchObject(NONE);
  });

  test("while the guest is stopped a body is packed only if it arrives sooner for it", () => {
    const choice = new CodecChoice(1);
    const urgent = (bodyBytes: number, link: number) => nameOf(choice.nextUrgent(bodyBytes, link));
    expect(urgent(BODY_BYTES, 62.5e6)).toBe("zstd 1");
    expect(urgent(BODY_BYTES, 250e6)).toBe("none");
    expect(urgent(16 * 1024, 62.5e6)).toBe("none"); // it would have arrived before it is packed
    expect(urgent(BODY_BYTES, 0)).toBe("none");
    for (let i = 0; i < 300; i++) choice.packed({ codec: "zstd", level: 1 }, BODY_BYTES, BODY_BYTES, 0.7);
    expect(urgent(BODY_BYTES, 62.5e6)).toBe("none");
  });
});
