// The two ends of a link: when it is lost, how it comes back, and who may take it over.
import { afterEach, beforeEach, describe, expect, onTestFinished, test, vi } from "vitest";
import { GodwitError } from "../../src/errors.ts";
import { FAREWELL_MS } from "../../src/migration/destination-hand-off.ts";
import { DestinationLink } from "../../src/migration/destination-link.ts";
import { MAX_BACK_OFF_MS, RETRY_TIMEOUT_MS } from "../../src/migration/link.ts";
import { Peer } from "../../src/migration/peer.ts";
import { backOffMs, SourceLink, type SourceLinkOptions } from "../../src/migration/source-link.ts";
import type { Message } from "../../src/wire/messages.ts";
import { memoryConnection } from "./support/memory-connection.ts";

type Hello = Extract<Message, { type: "HELLO" }>;
type MemoryConnection = ReturnType<typeof memoryConnection>[number];

const SESSION = "ab".repeat(16);
const GREETING = { session: SESSION, program: "test", pageFormat: 3, features: [], vm: {}, disks: [], cachePages: 0 };
const HELLO = { ...GREETING, checkpointPages: 0, tagKey: "0f".repeat(32), returnOffset: 0, knownHashes: 0 };

const welcomeOf = (generation: number, rawOffset: number) => ({
  ...{ type: "WELCOME" as const, ...GREETING, generation, checkpoints: [] },
  ...{ rawOffset, windowBytes: 8 << 20 },
});

/** Both ends of a session, and every connection between them. */
class Ends {
  readonly log: string[] = [];
  readonly connections: (readonly [MemoryConnection, MemoryConnection])[] = [];
  /** What the receiver says to the next HELLOs in place of WELCOME. */
  readonly refusals: Omit<Extract<Message, { type: "REFUSE" }>, "type">[] = [];
  /** Whether a connection can be made. */
  isReachable = true;
  /** HELLO and WELCOME pass, and nothing behind them. */
  passesGreetings = false;
  settling: Promise<number> = Promise.resolve(7);
  readonly gaveUp = Promise.withResolvers<unknown>();
  readonly source: SourceLink;
  destination: DestinationLink | undefined;

  constructor(options: Partial<SourceLinkOptions> = {}) {
    this.source = new SourceLink({
      session: SESSION,
      reconnectForMs: 60_000,
      handler: { onMessage: ({ type }) => void this.log.push(`source hears ${type}`) },
      hello: () => HELLO,
      connect: async () => this.connect(),
      onDown: ({ message }) => void this.log.push(`source down: ${message}`),
      onAttempt: (attempt) => void this.log.push(`attempt ${attempt}`),
      onUp: ({ rawOffset }, { generation }) => void this.log.push(`source up ${generation} at ${rawOffset}`),
      onGaveUp: (error) => this.gaveUp.resolve(error),
      ...options,
    });
    onTestFinished(() => {
      this.source.destroy();
      this.destination?.destroy();
    });
  }

  static async up(options?: Partial<SourceLinkOptions>): Promise<Ends> {
    const ends = new Ends(options);
    await ends.source.open();
    return ends;
  }

  connect(): MemoryConnection {
    if (!this.isReachable) throw new GodwitError("WIRE_UNREACHABLE", "nobody is there");
    const pair = memoryConnection();
    if (this.passesGreetings) for (const end of pair) passOne(end);
    this.connections.push(pair);
    const peer = new Peer(pair[1], "receiver", {
      onMessage: (message) => {
        if (message.type === "HELLO") void this.#onHello(peer, message);
      },
    });
    return pair[0];
  }

  async #onHello(peer: Peer, hello: Hello): Promise<void> {
    const refusal = this.refusals.shift();
    if (refusal !== undefined) return peer.send({ type: "REFUSE", ...refusal });
    if (this.destination !== undefined) return this.destination.offer(peer, hello);
    this.destination = new DestinationLink({
      hello,
      reconnectForMs: 60_000,
      handler: { onMessage: ({ type }) => void this.log.push(`destination hears ${type}`) },
      settle: () => this.settling,
      welcome: welcomeOf,
      onDown: ({ message }) => void this.log.push(`destination down: ${message}`),
      onUp: ({ generation }) => void this.log.push(`destination up ${generation}`),
      onGaveUp: (error) => this.log.push(`destination gave up: ${(error as Error).message}`),
    });
    this.destination.begin(peer);
    this.destination.send(welcomeOf(hello.generation, 0));
    void peer.startPulse();
  }

  /** A connection of whoever it is, with what it says first. */
  stranger(hello: Partial<Hello>): Message[] {
    const heard: Message[] = [];
    const peer = new Peer(this.connect(), "sender", { onMessage: (message) => void heard.push(message) });
    peer.send({ type: "HELLO", ...HELLO, generation: 1, ...hello });
    return heard;
  }
}

/** Nothing passes behind the first message that this end says. */
function passOne(end: MemoryConnection): void {
  const write = end.write.bind(end);
  end.write = (...args) => {
    write(...args);
    end.isBlackHole = true;
  };
}

const broken = () => new GodwitError("WIRE_CLOSED", "it broke");

describe("a link", () => {
  test("that breaks comes back with the next generation, and goes on where the destination says", async () => {
    const ends = await Ends.up();
    ends.connections[0]![0].cut(broken());
    await expect.poll(() => ends.log).toContain("source up 2 at 7");
    expect(ends.log.toSorted()).toEqual([
      "attempt 1",
      "destination down: it broke",
      "destination up 2",
      "source down: it broke",
      "source up 1 at 0",
      "source up 2 at 7",
    ]);
    expect([ends.source.isUp, ends.destination!.isUp]).toEqual([true, true]);
    ends.source.send({ type: "SWITCHOVER" });
    await expect.poll(() => ends.log).toContain("destination hears SWITCHOVER");
  });

  test("counts the bytes of all its connections", async () => {
    const ends = await Ends.up();
    const { wireBytes } = ends.source;
    expect(wireBytes).toBeGreaterThan(500);
    ends.connections[0]![0].cut(broken());
    await expect.poll(() => ends.source.generation).toBe(2);
    expect(ends.source.wireBytes).toBeGreaterThan(wireBytes * 1.9);
  });

  test("says nothing while it is down, and does not fail", async () => {
    const ends = await Ends.up();
    ends.isReachable = false;
    ends.connections[0]![0].cut(broken());
    await expect.poll(() => ends.source.isUp).toBe(false);
    ends.source.send({ type: "SWITCHOVER" });
    expect(await ends.source.ping()).toBe(false);
    ends.isReachable = true;
    await expect.poll(() => ends.source.isUp).toBe(true);
    expect(ends.log).not.toContain("destination hears SWITCHOVER");
  });

  test("is tried again after whatever may pass, and not after a refusal that holds", async () => {
    const ends = await Ends.up({ backOffMs: () => 0 });
    ends.refusals.push({ code: "MIGRATION_BUSY", message: "a plan is measuring" });
    ends.connections[0]![0].cut(broken());
    await expect.poll(() => ends.source.generation).toBe(3);
    ends.refusals.push({ code: "MIGRATION_UNKNOWN_SESSION", message: "never heard of it" });
    ends.connections.at(-1)![0].cut(broken());
    expect(await ends.gaveUp.promise).toMatchObject({
      code: "PEER_REFUSED",
      details: { code: "MIGRATION_UNKNOWN_SESSION" },
    });
    expect(ends.source.isOver).toBe(true);
  });

  test("that was told never to reconnect ends with what has ended it", async () => {
    const ends = await Ends.up({ reconnectForMs: 0 });
    ends.connections[0]![0].cut(broken());
    expect(await ends.gaveUp.promise).toMatchObject({ code: "WIRE_CLOSED", message: "it broke" });
    expect(ends.connections.length).toBe(1);
  });

  test("ends where the peer does what it may not: it would do so again", async () => {
    const ends = await Ends.up();
    ends.destination!.peer!.send({ type: "NACK", rawOffset: 0, rawBytes: 1 });
    ends.connections[0]![1].write([new Uint8Array(8).fill(0xff)]);
    expect(await ends.gaveUp.promise).toMatchObject({ code: "WIRE_BAD_HEADER" });
  });

  test("that was ended does not come back", async () => {
    const ends = await Ends.up();
    ends.source.end();
    await expect.poll(() => ends.log).toContain("destination down: sender:1 closed the connection");
    expect(ends.connections.length).toBe(1);
    expect(ends.log).not.toContain("attempt 1");
  });
});

describe("the destination", () => {
  test("drops a connection that looks alive for a newer one, and hears no more of it", async () => {
    const ends = await Ends.up();
    const heard = ends.stranger({ generation: 5 });
    await expect.poll(() => heard.map(({ type }) => type)).toContain("WELCOME");
    expect(heard[0]).toMatchObject({ generation: 5, rawOffset: 7 });
    expect(ends.log).toContain("destination down: sender:1 goes on with the migration");
    // The sender that it was taken from comes back, and is told that its generation is too old.
    expect(await ends.gaveUp.promise).toMatchObject({ details: { code: "WIRE_REPLAY", generation: 5 } });
  });

  test.each<[string, Partial<Hello>, string]>([
    ["a generation that was there", { generation: 1 }, "WIRE_REPLAY"],
    ["another key of tags", { generation: 2, tagKey: "f0".repeat(32) }, "MIGRATION_UNKNOWN_SESSION"],
    ["another session", { generation: 2, session: "cd".repeat(16) }, "MIGRATION_UNKNOWN_SESSION"],
  ])("refuses %s, and the connection that is up is not disturbed", async (_name, hello, code) => {
    const ends = await Ends.up();
    const heard = ends.stranger(hello);
    await expect.poll(() => heard).toMatchObject([{ type: "REFUSE", code }]);
    ends.source.send({ type: "SWITCHOVER" });
    await expect.poll(() => ends.log).toContain("destination hears SWITCHOVER");
    expect(ends.log.filter((line) => line.includes("down"))).toEqual([]);
  });

  test("answers the newest of those that wait while its QEMU is slow", async () => {
    const ends = await Ends.up();
    const settled = Promise.withResolvers<number>();
    ends.settling = settled.promise;
    const [first, second] = [ends.stranger({ generation: 5 }), ends.stranger({ generation: 6 })];
    await expect.poll(() => ends.destination!.isUp).toBe(false);
    settled.resolve(9);
    await expect.poll(() => second.map(({ type }) => type)).toContain("WELCOME");
    expect(first).toEqual([]);
    expect(ends.destination!.generation).toBe(6);
  });
});

test("a process that was started again learns how far the generations have come", async () => {
  const ends = await Ends.up();
  const heard = ends.stranger({ generation: 40 });
  await expect.poll(() => heard.length).toBeGreaterThan(0);
  ends.source.destroy();
  const again = new SourceLink({
    ...{ session: SESSION, reconnectForMs: 5000, handler: { onMessage: () => {} }, hello: () => HELLO },
    ...{ connect: async () => ends.connect(), onDown: () => {}, onUp: () => {}, backOffMs: () => 0 },
    onGaveUp: (error) => ends.gaveUp.resolve(error),
  });
  onTestFinished(() => again.destroy());
  again.reopen();
  await expect.poll(() => again.isUp).toBe(true);
  expect(again.generation).toBe(41);
});

test("attempts come at once, then further and further apart, and not all links' at the same time", () => {
  const waits = Array.from({ length: 10 }, (_, attempt) => Array.from({ length: 100 }, () => backOffMs(attempt)));
  const [least, most] = [waits.map((ms) => Math.min(...ms)), waits.map((ms) => Math.max(...ms))];
  [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000].forEach((ms, attempt) => {
    expect(most[attempt]).toBeLessThanOrEqual(ms);
    expect(most[attempt]).toBeGreaterThanOrEqual(ms * 0.9);
    expect(least[attempt]).toBeGreaterThanOrEqual(ms / 2);
    expect(least[attempt]).toBeLessThanOrEqual(ms * 0.6);
  });
});

describe("time", () => {
  beforeEach(
    () =>
      void vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "setInterval", "clearInterval", "performance"] }),
  );
  afterEach(() => void vi.useRealTimers());

  /** So much of it passes, and what can happen then happens. */
  async function pass(ms: number): Promise<void> {
    for (let passed = 0; passed < ms; passed += 100) {
      await vi.advanceTimersByTimeAsync(100);
      for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve));
    }
  }

  test.each([
    ["while the guest runs", false, 4000],
    ["while it is stopped", true, 1500],
  ])("a peer that is silent is noticed: %s", async (_name, isUrgent, silenceMs) => {
    const ends = await Ends.up();
    for (const link of [ends.source, ends.destination!]) link.hurry(isUrgent);
    await pass(3000);
    expect(ends.log).toEqual(["source up 1 at 0"]);
    for (const end of ends.connections[0]!) end.isBlackHole = true;
    await pass(silenceMs - 500);
    expect(ends.source.generation).toBe(1);
    await pass(1100);
    expect(ends.log).toContainEqual(expect.stringMatching(/^source down: receiver:1 has been silent for/));
    vi.useRealTimers();
    await expect.poll(() => ends.source.generation).toBe(2);
  });

  test("that this process stood still is no silence of the peer", async () => {
    const ends = await Ends.up();
    await pass(1000);
    for (let pause = 0; pause < 5; pause++) {
      const now = performance.now();
      const stood = vi.spyOn(performance, "now").mockReturnValue(now + 20_000);
      await vi.advanceTimersByTimeAsync(500); // timers that are due come before what has arrived
      stood.mockRestore();
      vi.setSystemTime(Date.now() + 20_000);
      await pass(600);
    }
    expect(ends.log).toEqual(["source up 1 at 0"]);
  });

  test("a link that lets greetings pass and nothing behind them is away all the same", async () => {
    const ends = await Ends.up({ reconnectForMs: 60_000, backOffMs: () => 0 });
    await pass(1000);
    ends.passesGreetings = true;
    for (const end of ends.connections[0]!) end.isBlackHole = true;
    const fromMs = performance.now();
    while (!ends.source.isOver) await pass(500);
    expect(await ends.gaveUp.promise).toMatchObject({ code: "MIGRATION_LINK_LOST" });
    expect(performance.now() - fromMs).toBeLessThan(66_000);
    expect(ends.log.filter((line) => line.startsWith("source up")).length).toBeGreaterThan(3);
  });

  test("attempts on a link without answers come further and further apart, and at once again when there was one", async () => {
    const waits: number[] = [];
    const backOffMs = (attempt: number) => {
      waits.push(attempt);
      return 0;
    };
    const ends = await Ends.up({ backOffMs });
    ends.passesGreetings = true;
    for (const end of ends.connections[0]!) end.isBlackHole = true;
    while (waits.length < 4) await pass(500);
    ends.passesGreetings = false;
    await pass(12_000);
    ends.connections.at(-1)![0].cut(broken());
    await pass(1000);
    expect(waits.slice(0, 4)).toEqual([0, 1, 2, 3]);
    expect(waits.at(-1)).toBe(0);
  });

  test("how long to wait may be shortened while it is away", async () => {
    const ends = await Ends.up();
    ends.isReachable = false;
    ends.connections[0]![0].cut(broken());
    await pass(10_000);
    expect(ends.source.isOver).toBe(false);
    ends.source.reconnectForMs = 12_000;
    await pass(1000);
    expect(ends.source.isOver).toBe(false);
    await pass(1200);
    expect(await ends.gaveUp.promise).toMatchObject({
      code: "MIGRATION_LINK_LOST",
      message: "the connection to receiver:1 was lost, and did not come back within 12 s",
    });
    expect(ends.source.isOver).toBe(true);
  });

  test("a destination with nothing more to lose waits from then on as long as a source may need to dial", async () => {
    const ends = await Ends.up({ backOffMs: () => 3_600_000 });
    ends.isReachable = false;
    ends.connections[0]![0].cut(broken());
    await pass(20_000);
    ends.destination!.waitAtMost(FAREWELL_MS);
    await pass(MAX_BACK_OFF_MS + RETRY_TIMEOUT_MS - 500);
    expect(ends.destination!.isOver).toBe(false);
    await pass(1000);
    expect(ends.log.at(-1)).toMatch(/^destination gave up: .* did not come back within 30 s/);
  });
});
