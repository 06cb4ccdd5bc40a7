import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { errorLine, logLine, type Role } from "../../src/cli/lines.ts";
import { advanceView, initialView, renderView } from "../../src/cli/view.ts";
import type { DestinationSummary, MigrationEvent, Progress, SourceSummary } from "../../src/migration/events.ts";
import { NOTHING_PREDICTED } from "../../src/migration/predictions.ts";
import type { VmFacts } from "../../src/qemu/facts.ts";

const MIB = 2 ** 20;

const vm: VmFacts = {
  qemuVersion: { major: 10, minor: 0, micro: 2, package: "" },
  machineType: "pc-q35-10.0",
  memoryBytes: 256 * MIB,
  cpus: 1,
  blockDevices: [],
  name: "web1",
  uuid: "00000000-0000-0000-0000-000000000000",
};

function progress(changes: Partial<Progress>): MigrationEvent {
  return {
    event: "progress",
    elapsedMs: 1300,
    round: 0,
    pages: {
      zeroPages: 12_000,
      diskPages: 0,
      checkpointPages: 0,
      samePages: 0,
      deltaPages: 0,
      literalPages: 8_000,
      blankPages: 0,
      rawPages: 12,
    },
    rawBytes: 33 * MIB,
    wireBytes: 31 * MIB,
    remainingBytes: 199 * MIB,
    totalBytes: 256 * MIB,
    linkBytesPerSecond: 25e6,
    effectiveBytesPerSecond: 66.3e6,
    wwsBytes: null,
    dirtyRatePagesPerSecond: 0,
    expectedEndMs: 8100,
    ...changes,
  };
}

function decision(given: { reason: string; isRefined?: boolean }): MigrationEvent {
  const limit = { downtimeLimitMs: 660, bandwidthBytesPerSecond: 65e6 };
  return { event: "decision", elapsedMs: 1300, isRefined: false, kind: "limit", limit, ...given };
}

const summary: SourceSummary = {
  event: "summary",
  role: "source",
  status: "completed",
  session: "00112233445566778899aabbccddeeff",
  totalMs: 6712,
  downtimeMs: 84.2,
  downtimeParts: { residualMs: 31, transferMs: 12, loadMs: 22, handoffMs: 11.2, resumeMs: 8 },
  predictedDowntimeMs: { expected: 80, low: 60, high: 110 },
  predictedDowntimeParts: {
    residualMs: { expected: 27, low: 20, high: 40 },
    transferMs: { expected: 14, low: 5, high: 25 },
    loadMs: { expected: 19, low: 15, high: 30 },
    handoffMs: { expected: 10, low: 5, high: 20 },
    resumeMs: { expected: 10, low: 5, high: 20 },
  },
  predictedTotalMs: { expected: 6500, low: 6000, high: 7100, atMs: 4000 },
  residualBytes: MIB,
  policy: "adaptive",
  wireBytes: 63 * MIB,
  rawBytes: 189 * MIB,
  rounds: 7,
  memoryBytes: 256 * MIB,
  pages: {
    zeroPages: 34_451,
    diskPages: 30_000,
    checkpointPages: 512,
    samePages: 99,
    deltaPages: 2_000,
    literalPages: 18_068,
    blankPages: 0,
    rawPages: 82,
  },
  deltaBytes: 3 * MIB,
  nackedPages: 17,
  diskIndex: { knownBlocks: 65_000, readBytes: 4 * MIB, readMs: 2 },
  bodies: {
    none: { bodies: 3, bodyBytes: 9000, wireBytes: 9000 },
    zstd: { bodies: 700, bodyBytes: 125 * MIB, wireBytes: 63 * MIB },
  },
  packing: { codec: "zstd", level: 1, reason: "to begin with" },
  savedBytes: {
    ...{ disk: 117 * MIB, checkpoint: 2 * MIB, same: 0, delta: 4 * MIB, blank: 0 },
    ...{ compression: 62 * MIB, inVain: 68 * 1024 },
  },
  cpuSeconds: { total: 1.23, encode: 0.4, pack: 0.31 },
  roundTripMs: 0.4,
  checkpoint: null,
};

const destinationSummary: DestinationSummary = {
  event: "summary",
  role: "destination",
  status: "completed",
  session: summary.session,
  totalMs: 9000,
  wireBytes: 63 * MIB,
  rawBytes: 189 * MIB,
  diskPages: 0,
  checkpointPages: 0,
  samePages: 0,
  deltaPages: 0,
  cpuSeconds: { total: 1.5, unpack: 0.2 },
  nackedPages: 0,
  loadMs: 22,
  resumeMs: 8,
};

const later = { round: 3, wwsBytes: 41 * MIB, dirtyRatePagesPerSecond: 2068 };
const sourceEvents: MigrationEvent[] = [
  { event: "connected", session: summary.session, peer: "10.0.0.2:7747", vm, roundTripMs: 0.41, checkpoint: null },
  { event: "started", memoryBytes: 256 * MIB },
  progress({}),
  progress({ elapsedMs: 1600, remainingBytes: 128 * MIB, expectedEndMs: null }),
  {
    event: "codec",
    codec: "lz4",
    level: 0,
    reason: "the link has room, and packing with zstd 1 holds the migration back",
  },
  { event: "round", round: 2, ms: 400, pages: 3072, rawBytes: 12 * MIB, wireBytes: 10 * MIB, remainingBytes: 41 * MIB },
  { event: "round", round: 3, ms: 40, pages: 307, rawBytes: 1 * MIB, wireBytes: 1 * MIB, remainingBytes: null },
  decision({ reason: "rounds stopped shrinking at 43 MB; switching costs 0.69 s, and waiting would not save enough" }),
  decision({ reason: "rounds stopped shrinking at 41 MB; switching costs 0.66 s, …", isRefined: true }),
  {
    event: "predicted",
    elapsedMs: 1300,
    isAtBest: false,
    downtimeMs: { expected: 660, low: 520, high: 810 },
    downtimeParts: null,
    totalMs: { expected: 6500, low: 6000, high: 7100 },
  },
  progress({ ...later, remainingBytes: 41 * MIB, expectedEndMs: null }),
  progress({ ...later, remainingBytes: 12 * MIB, expectedEndMs: 376 }),
  { event: "switchover", elapsedMs: 6500 },
  progress({ ...later, remainingBytes: 1 * MIB }),
  { event: "loaded", loadMs: 22.4 },
  { event: "committed" },
  { event: "running", resumeMs: 8.1, isPaused: false },
  { event: "keeping", elapsedMs: 0, readBytes: 0, totalBytes: 256 * MIB },
  { event: "keeping", elapsedMs: 250, readBytes: 99 * MIB, totalBytes: 256 * MIB },
  { event: "checkpoint", id: "3fa9c07d1b2e", pages: 30_123, bytes: 61 * MIB, ms: 712 },
  summary,
];

const destinationEvents: MigrationEvent[] = [
  { event: "listening", host: "2001:db8::2", port: 7747 },
  {
    event: "connected",
    session: summary.session,
    peer: "10.0.0.1:59978",
    vm: { ...vm, name: null },
    roundTripMs: 0,
    checkpoint: { id: "0123456789ab", pages: 18_068, createdMs: 1_790_000_000_000 },
  },
  { event: "receiving", elapsedMs: 2500, rawBytes: 47 * MIB, wireBytes: 29 * MIB, linkBytesPerSecond: 25e6 },
  { event: "switchover", elapsedMs: 6500 },
  { event: "committed" },
  { event: "running", resumeMs: 0, isPaused: true },
  destinationSummary,
];

function frames(role: Role, events: readonly MigrationEvent[], columns = 100): string {
  let view = initialView(role);
  const drawn = [renderView(view, columns).join("\n")];
  for (const event of events) {
    view = advanceView(view, event);
    const frame = renderView(view, columns).join("\n");
    if (frame !== drawn.at(-1)) drawn.push(frame);
  }
  return `\n${drawn.join("\n---\n")}\n`;
}

function log(role: Role, events: readonly MigrationEvent[]): string {
  return `\n${events.flatMap((event) => logLine(event, role) ?? []).join("\n")}\n`;
}

const lost: readonly MigrationEvent[] = [
  progress({}),
  { event: "disconnected", reason: "10.0.0.2:7747 has been silent for 4.0 s" },
  { event: "reconnecting", attempt: 1 },
  { event: "reconnecting", attempt: 2 },
  { event: "reconnected", generation: 3, peer: "10.0.0.3:7747", awayMs: 1530 },
];

test("a connection that is lost, and comes back", () => {
  expect(frames("source", lost)).toMatchInlineSnapshot(`
    "
    connecting
    ---
    round 0 (bulk) [#####-------------------]  22 %
    199 MiB left (50,944 pages) of 256 MiB
    link 200 Mbit/s, effective 66.3 MB/s of guest memory
    1.3 s, 20,012 pages as 31.0 MiB on the wire, round ends in about 8 s
    ---
    the connection is lost
    round 0 (bulk) [#####-------------------]  22 %
    199 MiB left (50,944 pages) of 256 MiB
    link 200 Mbit/s, effective 66.3 MB/s of guest memory
    1.3 s, 20,012 pages as 31.0 MiB on the wire, round ends in about 8 s
    ---
    the connection is lost, attempt 1 to connect again
    round 0 (bulk) [#####-------------------]  22 %
    199 MiB left (50,944 pages) of 256 MiB
    link 200 Mbit/s, effective 66.3 MB/s of guest memory
    1.3 s, 20,012 pages as 31.0 MiB on the wire, round ends in about 8 s
    ---
    the connection is lost, attempt 2 to connect again
    round 0 (bulk) [#####-------------------]  22 %
    199 MiB left (50,944 pages) of 256 MiB
    link 200 Mbit/s, effective 66.3 MB/s of guest memory
    1.3 s, 20,012 pages as 31.0 MiB on the wire, round ends in about 8 s
    ---
    round 0 (bulk) [#####-------------------]  22 %
    199 MiB left (50,944 pages) of 256 MiB
    link 200 Mbit/s, effective 66.3 MB/s of guest memory
    1.3 s, 20,012 pages as 31.0 MiB on the wire, round ends in about 8 s
    "
  `);
  expect(log("source", lost)).toMatchInlineSnapshot(`
    "
    the connection is lost: 10.0.0.2:7747 has been silent for 4.0 s
    connecting again
    connected again with 10.0.0.3:7747 after 1.5 s, connection 3
    "
  `);
});

describe("the live view", () => {
  test("of the source", () => {
    expect(frames("source", sourceEvents)).toMatchInlineSnapshot(`
      "
      connecting
      ---
      preparing
      ---
      round 0 (bulk) [#####-------------------]  22 %
      199 MiB left (50,944 pages) of 256 MiB
      link 200 Mbit/s, effective 66.3 MB/s of guest memory
      1.3 s, 20,012 pages as 31.0 MiB on the wire, round ends in about 8 s
      ---
      round 0 (bulk) [############------------]  50 %
      128 MiB left (32,768 pages) of 256 MiB
      link 200 Mbit/s, effective 66.3 MB/s of guest memory
      1.6 s, 20,012 pages as 31.0 MiB on the wire, measuring
      ---
      round 0 (bulk) [############------------]  50 %
      128 MiB left (32,768 pages) of 256 MiB
      link 200 Mbit/s, effective 66.3 MB/s of guest memory, compression lz4
      1.6 s, 20,012 pages as 31.0 MiB on the wire, measuring
      ---
      round 3        [------------------------]   0 %
      41.0 MiB left (10,496 pages) of a working set of 41.0 MiB, the guest dirties 2,068 pages/s
      link 200 Mbit/s, effective 66.3 MB/s of guest memory, compression lz4
      1.3 s, 20,012 pages as 31.0 MiB on the wire
      expected: downtime 660 ms (520 ms to 810 ms), total 6.5 s (6.0 s to 7.1 s)
      rounds stopped shrinking at 41 MB; switching costs 0.66 s, …
      ---
      round 3        [################--------]  70 %
      12.0 MiB left (3,072 pages) of a working set of 41.0 MiB, the guest dirties 2,068 pages/s
      link 200 Mbit/s, effective 66.3 MB/s of guest memory, compression lz4
      1.3 s, 20,012 pages as 31.0 MiB on the wire
      expected: downtime 660 ms (520 ms to 810 ms), total 6.5 s (6.0 s to 7.1 s)
      rounds stopped shrinking at 41 MB; switching costs 0.66 s, …
      ---
      the guest is stopped, the rest is on its way
      ---
      the destination has loaded the VM, handing over
      ---
      handed over, waiting for the destination
      ---
      the VM is at the destination
      ---
      the VM is at the destination; keeping a checkpoint of it: 0 % of 256 MiB
      ---
      the VM is at the destination; keeping a checkpoint of it: 38 % of 256 MiB
      "
    `);
  });

  test("of the destination", () => {
    expect(frames("destination", destinationEvents)).toMatchInlineSnapshot(`
      "
      starting
      ---
      waiting for godwit send
      ---
      waiting for the first bytes
      ---
      receiving, link 200 Mbit/s
      2.5 s, 29.0 MiB on the wire, 47.0 MiB into QEMU
      ---
      the guest is stopped, the rest is on its way
      ---
      starting the VM
      ---
      the VM is at the destination
      "
    `);
  });

  test("of a destination goes back to waiting when a sender was refused", () => {
    const error: MigrationEvent = { event: "error", code: "MIGRATION_MISMATCH", message: "", vm: "", advice: "" };
    const view = [...destinationEvents.slice(0, 3), error].reduce(advanceView, initialView("destination"));
    expect(renderView(view, 100)).toEqual(["waiting for godwit send"]);
  });

  test("of a paused VM shows how its memory moves, though the switch-over comes first", () => {
    const events: MigrationEvent[] = [{ event: "switchover", elapsedMs: 40 }, progress({})];
    const [first] = renderView(events.reduce(advanceView, initialView("source")), 100);
    expect(first).toContain("round 0 (bulk)");
  });

  test("is cut to the width of the terminal", () => {
    for (const line of frames("source", sourceEvents, 40).split("\n")) expect(line.length).toBeLessThan(40);
  });

  test("draws a bar that never runs backwards within a round", () => {
    const step = fc.record({ round: fc.nat(4), remainingBytes: fc.nat(300 * MIB), wwsBytes: fc.nat(300 * MIB) });
    fc.assert(
      fc.property(fc.array(step), (steps) => {
        let view = initialView("source");
        let before = { round: -1, percent: 0 };
        for (const { round, ...rest } of steps.sort((a, b) => a.round - b.round)) {
          view = advanceView(view, progress({ round, ...rest }));
          const percent = Number(/(\d+) %/.exec(renderView(view, 100)[0]!)![1]);
          expect(percent).toBeGreaterThanOrEqual(round === before.round ? before.percent : 0);
          expect(percent).toBeLessThanOrEqual(100);
          before = { round, percent };
        }
      }),
    );
  });
});

describe("the log", () => {
  test("of the source", () => {
    expect(log("source", sourceEvents)).toMatchInlineSnapshot(`
      "
      connected to 10.0.0.2:7747, web1, QEMU 10.0.2, pc-q35-10.0, 256 MiB, round trip 0.4 ms
      started, 256 MiB of guest memory
      compression is now lz4: the link has room, and packing with zstd 1 holds the migration back
      round 2: 3,072 pages in 400 ms, 12.0 MiB as 10.0 MiB on the wire (210 Mbit/s), 41.0 MiB left
      round 3: 307 pages in 40 ms, 1.00 MiB as 1.00 MiB on the wire (210 Mbit/s)
      rounds stopped shrinking at 43 MB; switching costs 0.69 s, and waiting would not save enough
      expected: downtime 660 ms (520 ms to 810 ms), total 6.5 s (6.0 s to 7.1 s)
      switchover after 6.5 s: the guest is stopped at the source
      loaded at the destination, 22 ms after its last byte
      handed over: the destination may run the VM
      the VM runs at the destination, 8.1 ms after it was handed over
      keeping a checkpoint of the VM here
      checkpoint 3fa9c07d1b2e is kept here for when the VM comes back: 30,123 pages, 61.0 MiB on the disk, in 712 ms
      completed: the VM runs at the destination
        total     6.7 s, 7 rounds; expected after 4.0 s: 6.5 s (6.0 s to 7.1 s)
        downtime  84 ms: residual 31 ms, transfer 12 ms, load 22 ms, hand-off 11 ms, resume 8.0 ms
        expected  80 ms (60 ms to 110 ms): residual 27 ms, transfer 14 ms, load 19 ms, hand-off 10 ms, resume 10 ms
        bytes     189 MiB -> 63.0 MiB on the wire (3.0 : 1)
        memory    256 MiB, pages sent: 34,451 zero, 30,000 disk, 512 checkpoint, 99 same, 2,000 delta (3.00 MiB), 18,068 literal, 82 raw; 17 referred to in vain
        saved     185 MiB: disk 117 MiB, checkpoint 2.00 MiB, delta 4.00 MiB, compression 62.0 MiB, less 68.0 KiB in vain
        packing   zstd 1: to begin with
        cost      1.2 s of CPU time, of it encode 400 ms, pack 310 ms
      "
    `);
  });

  test("of the destination", () => {
    expect(log("destination", destinationEvents)).toMatchInlineSnapshot(`
      "
      listening on [2001:db8::2]:7747
      connected by 10.0.0.1:59978, QEMU 10.0.2, pc-q35-10.0, 256 MiB; a checkpoint of it here has 18,068 pages
      switchover after 6.5 s: the guest is stopped at the source
      taken over: the VM is ours
      the VM is paused at the destination, as it was at the source
      completed: the VM is here
        total     9.0 s, waiting included
        downtime  load 22 ms, resume 8.0 ms; godwit send knows all of it
        bytes     63.0 MiB on the wire -> 189 MiB
        cost      1.5 s of CPU time, of it unpack 200 ms
      "
    `);
  });

  test("of what did not complete", () => {
    expect(logLine({ ...summary, status: "in-doubt" }, "source")).toBe("in doubt after 6.7 s, 63.0 MiB on the wire");
    expect(logLine({ ...destinationSummary, status: "refused", wireBytes: 0 }, "destination")).toBe(
      "refused after 9.0 s",
    );
  });

  test("of a VM that was paused", () => {
    const text = logLine(
      { ...summary, ...NOTHING_PREDICTED, downtimeMs: null, downtimeParts: null, rounds: 1 },
      "source",
    );
    expect(text).toContain("the VM is paused at the destination");
    expect(text).toContain("1 round\n");
    expect(text).toContain("downtime  none, the VM was paused already");
  });
});

test("an error is one line, whatever QEMU or the peer said", () => {
  const line = errorLine("the source QEMU gave up: bad\r\n\u001b[2Jthing", "the VM keeps running here", "try again");
  expect(line).toBe("godwit: the source QEMU gave up: bad [2Jthing; the VM keeps running here; try again");
  expect(errorLine("no", "nothing was changed", "")).toBe("godwit: no; nothing was changed");
});
