// Checkpoints from the destination's store to the source's index: what is offered, told and believed.
import { randomBytes } from "node:crypto";
import { describe, expect, test } from "vitest";
import { NOT_FOUND } from "../../src/compact/page-kernels.ts";
import { AgreedCheckpoints, type HeldCheckpoints } from "../../src/migration/agreed-checkpoints.ts";
import { SourceCheckpoints } from "../../src/migration/source-checkpoints.ts";
import type { VmFacts } from "../../src/qemu/facts.ts";
import { decodeMessage, encodeMessage } from "../../src/wire/encoding.ts";
import { HEADER_BYTES, type Message, type OfferedCheckpoint } from "../../src/wire/messages.ts";
import { FakeDisk } from "./support/disk-bodies.ts";

const MIB = 2 ** 20;
const PAGES = 20_000;
const CHUNK_HASHES = 8192;
const HASHES = Uint8Array.from(randomBytes(PAGES * 8));
const UUID = "11111111-2222-3333-4444-555555555555";
const NO_UUID = "00000000-0000-0000-0000-000000000000";

const facts = (changed: Partial<VmFacts> = {}): VmFacts => ({
  qemuVersion: { major: 10, minor: 0, micro: 0, package: "" },
  machineType: "pc-q35-10.0",
  memoryBytes: 256 * MIB,
  cpus: 1,
  blockDevices: [],
  name: "vm",
  uuid: UUID,
  ...changed,
});

/** A store with one checkpoint, and what was asked of it. */
function fakeStore(changed: Partial<{ memoryBytes: number; pages: number }> = {}) {
  const { memoryBytes, pages } = { memoryBytes: 256 * MIB, pages: PAGES, ...changed };
  const state = { asked: [] as string[], touched: [] as string[], isOpen: false, brokenAt: Number.POSITIVE_INFINITY };
  const store: HeldCheckpoints = {
    latest: async (identity) => {
      state.asked.push(identity);
      return { id: "0123456789ab", createdMs: 5, memoryBytes };
    },
    touch: async (id) => void state.touched.push(id),
    open: async () => {
      state.isOpen = true;
      return Object.assign(new FakeDisk(0, pages), {
        pages,
        seed: 0xabcn,
        async *hashes() {
          for (let page = 0; page < pages; page += CHUNK_HASHES) {
            if (page >= state.brokenAt) throw new Error("a bad block");
            yield HASHES.slice(page * 8, Math.min(page + CHUNK_HASHES, pages) * 8);
          }
        },
        async [Symbol.asyncDispose]() {
          state.isOpen = false;
        },
      });
    },
  };
  return { state, open: async () => store };
}

const fail = (message: string) => expect.unreachable(message);
const offerOf = (open: () => Promise<HeldCheckpoints>, source = facts(), own = facts(), maxPages = 2 ** 30) =>
  AgreedCheckpoints.open(open, source, own, maxPages, fail);

/** A link with room for some messages at a time; PINGs are answered when the test says so. */
class Link {
  readonly messages: Message[] = [];
  readonly pings: ((hasCome: boolean) => void)[] = [];
  roomFor = Number.POSITIVE_INFINITY;
  readonly backlog: { hasRoom: boolean };

  constructor() {
    const link = this;
    this.backlog = {
      get hasRoom() {
        return link.pings.length < link.roomFor;
      },
    };
  }

  send(message: Message): void {
    this.messages.push(message);
  }

  ping(): Promise<boolean> {
    return new Promise((resolve) => this.pings.push(resolve));
  }

  answer(hasCome = true): void {
    this.pings.shift()?.(hasCome);
  }
}

/** Each message as the other end reads it. */
function deliver(messages: readonly Message[], source: SourceCheckpoints): void {
  for (const message of messages) {
    const read = decodeMessage("HASHES", encodeMessage(message).subarray(HEADER_BYTES));
    if (read.type === "HASHES") source.onHashes(read);
  }
}

function numbersOf(source: SourceCheckpoints, hashes: Uint8Array): number[] {
  const out = new Uint32Array(256);
  source.places[0]!.index.lookup(hashes.slice(0, 256 * 8), out);
  return [...out.subarray(0, hashes.length / 8)];
}

describe("what is offered", () => {
  test("the newest checkpoint of this very VM, which counts as used", async () => {
    const { open, state } = fakeStore();
    const agreed = await offerOf(open);
    const seed = "0000000000000abc";
    expect(agreed.offers).toEqual([{ id: "0123456789ab", pages: PAGES, createdMs: 5, seed, hashBytes: 5 }]);
    expect(state).toMatchObject({ asked: [`uuid:${UUID}`], touched: ["0123456789ab"], isOpen: true });
    await agreed.close();
    expect(state.isOpen).toBe(false);
  });

  test.each([
    ["another UUID here", facts(), facts({ uuid: UUID.replaceAll("1", "a") })],
    ["a UUID at one end only", facts({ uuid: NO_UUID }), facts()],
    ["another name, and no UUID", facts({ uuid: NO_UUID }), facts({ uuid: NO_UUID, name: "other" })],
    ["neither name nor UUID", facts({ uuid: NO_UUID, name: null }), facts({ uuid: NO_UUID, name: null })],
  ])("none to %s", async (_, source, own) => {
    const { open, state } = fakeStore();
    expect((await offerOf(open, source, own)).offers).toEqual([]);
    expect(state.asked).toEqual([]);
  });

  test("none to a source that wants none, of another memory size, or without a page", async () => {
    expect((await offerOf(fakeStore().open, facts(), facts(), 0)).offers).toEqual([]);
    expect((await offerOf(fakeStore({ memoryBytes: 128 * MIB }).open)).offers).toEqual([]);
    const empty = fakeStore({ pages: 0 });
    expect((await offerOf(empty.open)).offers).toEqual([]);
    expect(empty.state.isOpen).toBe(false);
  });

  test("no more pages than the source has room for", async () => {
    const agreed = await offerOf(fakeStore().open, facts(), facts(), 9000);
    expect(agreed.offers).toMatchObject([{ pages: 9000 }]);
    const link = new Link();
    agreed.tell(link);
    await expect.poll(() => link.messages.length).toBe(2);
    const source = SourceCheckpoints.of(9000 * 4096);
    source.welcome(agreed.offers);
    deliver(link.messages, source);
    await source.received();
    expect(numbersOf(source, HASHES.slice(8999 * 8, 9001 * 8))).toEqual([8999, NOT_FOUND]);
  });

  test("nothing where the store can't be read: said once", async () => {
    const warnings: string[] = [];
    const open = () => Promise.reject(new Error("no such folder"));
    const agreed = await AgreedCheckpoints.open(open, facts(), facts(), 1, (message) => warnings.push(message));
    expect(agreed.offers).toEqual([]);
    expect(warnings).toEqual(["no references to a checkpoint of this VM: no such folder"]);
    await agreed.close();
  });
});

describe("what is told", () => {
  test("all hashes, and the source finds the pages by them", async () => {
    const agreed = await offerOf(fakeStore().open);
    const source = SourceCheckpoints.of(256 * MIB);
    source.welcome(agreed.offers);
    const link = new Link();
    agreed.tell(link);
    await expect.poll(() => link.messages.length).toBe(3);
    deliver(link.messages.slice(0, 1), source);
    expect(numbersOf(source, HASHES.slice(8191 * 8, 8193 * 8))).toEqual([8191, NOT_FOUND]);
    deliver(link.messages.slice(1), source);
    await source.received();
    expect(numbersOf(source, HASHES.slice(19_000 * 8))).toEqual(
      Array.from({ length: 256 }, (_, i) => 19_000 + i).slice(0, 256),
    );
    await agreed.close();
  });

  test.each([
    [1, [1, 8192, 16_384]],
    [8192, [8192, 16_384]],
    [10_000, [10_000, 16_384]],
    [PAGES, []],
  ])("on a new connection: what the source does not know, from page %i on", async (known, pages) => {
    const agreed = await offerOf(fakeStore().open);
    const source = SourceCheckpoints.of(256 * MIB);
    source.welcome(agreed.offers);
    const lost = new Link();
    lost.roomFor = 1;
    agreed.tell(lost);
    await expect.poll(() => lost.messages.length).toBe(1);
    deliver(lost.messages, source);
    expect(source.knownHashes).toBe(8192);
    lost.answer(false);
    const link = new Link();
    agreed.tell(link, known);
    const told = () => link.messages.map((message) => message.type === "HASHES" && message.page);
    await expect.poll(told).toEqual(pages);
    await agreed.close();
  });

  test("no faster than it arrives, and no more once the source does not need it", async () => {
    const agreed = await offerOf(fakeStore().open);
    const link = new Link();
    link.roomFor = 1;
    agreed.tell(link);
    await expect.poll(() => link.messages.length).toBe(1);
    link.answer();
    await expect.poll(() => link.messages.length).toBe(2);
    agreed.stopTelling();
    link.answer();
    await agreed.close();
    expect(link.messages.length).toBe(2);
  });

  test("nothing more to a peer that is gone", async () => {
    const agreed = await offerOf(fakeStore().open);
    const link = new Link();
    link.roomFor = 0;
    agreed.tell(link);
    await expect.poll(() => link.messages.length).toBe(1);
    link.answer(false);
    await agreed.close();
    expect(link.messages.length).toBe(1);
  });

  test("as far as it can be read: said once", async () => {
    const { open, state } = fakeStore();
    state.brokenAt = CHUNK_HASHES;
    const warnings: string[] = [];
    const agreed = await AgreedCheckpoints.open(open, facts(), facts(), PAGES, (message) => warnings.push(message));
    const link = new Link();
    agreed.tell(link);
    await expect.poll(() => warnings).toEqual(["not all of a checkpoint is used: a bad block"]);
    expect(link.messages.length).toBe(1);
    await agreed.close();
  });
});

describe("what is believed", () => {
  const offer: OfferedCheckpoint = { id: "aa", pages: 100, createdMs: 0, seed: "0".repeat(16), hashBytes: 5 };
  const hashes = (checkpoint: number, page: number, bytes: number) =>
    ({ type: "HASHES", checkpoint, page, hashes: new Uint8Array(bytes).fill(1) }) as const;

  test("no offer of more pages than were asked for", () => {
    const source = SourceCheckpoints.of(199 * 4096);
    expect(() => source.welcome([offer, offer])).toThrow(expect.objectContaining({ code: "PEER_BAD_CHECKPOINTS" }));
    expect(() => SourceCheckpoints.none().welcome([offer])).toThrow("larger checkpoints than were asked for");
    SourceCheckpoints.of(200 * 4096).welcome([offer, offer]);
  });

  test.each([
    ["of a checkpoint that was not offered", [hashes(2, 0, 5)]],
    ["of the second before the first", [hashes(1, 0, 5)]],
    ["twice", [hashes(0, 0, 5), hashes(0, 0, 5)]],
    ["with a gap", [hashes(0, 0, 5), hashes(0, 2, 5)]],
    ["cut off", [hashes(0, 0, 14)]],
    ["more than there are pages", [hashes(0, 0, 99 * 5), hashes(0, 99, 10)]],
    ["after the last", [hashes(0, 0, 500), hashes(1, 0, 500), hashes(1, 100, 5)]],
  ])("no hashes %s", (_, messages) => {
    const source = SourceCheckpoints.of(256 * MIB);
    source.welcome([offer, offer]);
    for (const message of messages.slice(0, -1)) source.onHashes(message);
    expect(() => source.onHashes(messages.at(-1)!)).toThrow(expect.objectContaining({ code: "PEER_BAD_HASHES" }));
  });

  test("hashes that don't come are waited for half a second, and none where nothing was offered", async () => {
    const source = SourceCheckpoints.of(256 * MIB);
    source.welcome([offer]);
    const startMs = performance.now();
    await source.received();
    expect(performance.now() - startMs).toBeGreaterThan(490);
    const [without, waiting] = [SourceCheckpoints.of(256 * MIB), SourceCheckpoints.of(256 * MIB)];
    without.welcome([]);
    waiting.welcome([offer]);
    const first = [waiting.received().then(() => "waiting"), without.received().then(() => "without")];
    expect(await Promise.race(first)).toBe("without");
  });
});
