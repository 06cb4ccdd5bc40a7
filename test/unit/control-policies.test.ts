import { describe, expect, test } from "vitest";
import { POLICIES } from "../../src/control/policies/all.ts";
import { KubevirtStall } from "../../src/control/policies/kubevirt-stall.ts";
import { KubevirtRamp, Nova, Ovirt, Proxmox, QemuDefault, Xen } from "../../src/control/policies/shipped.ts";
import { type Decision, limitOf, type Policy } from "../../src/control/policy.ts";
import { aRound, aTick } from "./support/control.ts";

const GIB = 2 ** 30;

function started<P extends Policy>(policy: P, gib = 1): P {
  policy.start({ memoryBytes: gib * GIB, hasSwitchoverBandwidth: true });
  return policy;
}

/** The limits that it sets, and how it ends, with the time or the round. */
function limitsOf(samples: readonly [number, Decision | undefined][]): (string | number)[][] {
  return samples.flatMap(([at, decision]) => {
    if (decision === undefined) return [];
    return [[at, decision.kind === "limit" ? decision.limit.downtimeLimitMs : decision.kind]];
  });
}

test("every policy has the name that it is called by, and starts with a limit", () => {
  for (const [name, create] of Object.entries(POLICIES)) {
    const policy = create();
    expect(policy.name).toBe(name);
    const { limit } = policy.start({ memoryBytes: GIB, hasSwitchoverBandwidth: true });
    expect(limit.downtimeLimitMs).toBeGreaterThanOrEqual(1);
  }
});

describe("a limit in bytes", () => {
  test.each([
    [1_000_000, 62_500_000],
    [123_456_789, 1e9],
    [3, 1e9],
    [1e12, 1000],
  ])("of %d at %d bytes/s is met exactly, as QEMU reckons in whole bytes per ms", (bytes, bandwidth) => {
    const { downtimeLimitMs, bandwidthBytesPerSecond } = limitOf(bytes, bandwidth, true);
    const threshold = Math.floor(bandwidthBytesPerSecond! / 1000) * downtimeLimitMs;
    expect(threshold).toBeGreaterThanOrEqual(bytes);
    expect(threshold - bytes).toBeLessThan(downtimeLimitMs);
    expect(Number.isInteger(downtimeLimitMs) && downtimeLimitMs >= 1 && downtimeLimitMs <= 2_000_000).toBe(true);
  });

  test("of a QEMU that can't be told its bandwidth is a limit alone", () => {
    expect(limitOf(5e6, 1e8, false)).toEqual({ downtimeLimitMs: 50, bandwidthBytesPerSecond: null });
  });
});

describe("as shipped", () => {
  test("qemu: 300 ms, 128 MiB/s", () => {
    expect(new QemuDefault().start()).toEqual({
      limit: { downtimeLimitMs: 300, bandwidthBytesPerSecond: null },
      maxBytesPerSecond: 134_217_728,
      autoConverge: false,
    });
  });

  test("nova: ten equal steps of 75 s × GiB, and an end after 800 s × GiB", () => {
    for (const [isForced, end] of [
      [false, "abort"],
      [true, "switch"],
    ] as const) {
      const nova = started(new Nova({ isForced }), 2);
      const seconds = [0, 149, 150, 151, 300, 1499, 1500, 1599, 1600];
      const limits = limitsOf(seconds.map((s) => [s, nova.onTick(aTick({ atMs: s * 1000 }))]));
      expect(limits).toEqual([
        [150, 95],
        [300, 140],
        [1499, 455],
        [1500, 500],
        [1600, end],
      ]);
    }
  });

  test("ovirt: 150, 200, 300, 400 and 500 ms at the stalls 1, 2, 3, 4, 6, then the end", () => {
    const ovirt = started(new Ovirt());
    const remaining = [9, 5, 6, 4, 5, 6, 7, 8, 9, 10];
    const limits = limitsOf(remaining.map((bytes, i) => [i, ovirt.onTick(aTick({ remainingBytes: bytes }))]));
    expect(limits).toEqual([
      [2, 150],
      [4, 200],
      [5, 300],
      [6, 400],
      [8, 500],
      [9, "abort"],
    ]);
  });

  test("proxmox: the limit doubles with every sixth poll at which more or nothing remained", () => {
    const proxmox = started(new Proxmox());
    const poll = (i: number, remainingBytes: number): [number, Decision | undefined] => [
      i,
      proxmox.onTick(aTick({ atMs: i * 1000, remainingBytes, wireBytes: 0 })),
    ];
    const rising = Array.from({ length: 14 }, (_, i) => poll(i + 1, 100 + i));
    expect(limitsOf(rising)).toEqual([
      [7, 200],
      [13, 400],
    ]);
    const empty = Array.from({ length: 6 }, (_, i) => poll(i + 15, 0));
    expect(limitsOf(empty)).toEqual([[19, 800]]);
    expect(proxmox.start().autoConverge).toBe(true);
  });

  test("kubevirt-ramp: 150 ms a step from round 3 on, 10 s apart, up to 1,050", () => {
    const ramp = started(new KubevirtRamp());
    const rounds = Array.from({ length: 40 }, (_, round): [number, Decision | undefined] => [
      round,
      ramp.onRound(aRound({ round, atMs: round * 4000 })),
    ]);
    expect(limitsOf(rounds)).toEqual([
      [3, 300],
      [6, 450],
      [9, 600],
      [12, 750],
      [15, 900],
      [18, 1050],
    ]);
  });

  test("xen: after five rounds, whatever remains", () => {
    const xen = started(new Xen());
    const rounds = Array.from({ length: 6 }, (_, round): [number, Decision | undefined] => [
      round,
      xen.onRound(aRound({ round })),
    ]);
    expect(limitsOf(rounds)).toEqual([[4, "switch"]]);
  });

  describe("kubevirt-stall", () => {
    /** A round every 10 s, sent at 1,000 pages a second, so that 4.096 MB are a second. */
    function decisions(remainingSeconds: readonly number[]): (string | number)[][] {
      const policy = started(new KubevirtStall());
      return limitsOf(
        remainingSeconds.map((seconds, i) => {
          const round = {
            round: i,
            atMs: i * 10_000,
            durationMs: 10_000,
            pages: 10_000,
            remainingBytes: seconds * 4_096_000,
          };
          return [i, policy.onRound(aRound(round))];
        }),
      );
    }

    test("no decision while less remains than a minute ago", () => {
      expect(decisions([10, 9, 8, 7, 6, 5, 4, 3.5, 3, 2.5, 2, 1.5, 1, 0.8, 0.6])).toEqual([]);
    });

    test("stalled: switches at the best round since, if that is bearable", () => {
      // The minute is over at round 7; the best of it was 0.8.
      expect(decisions([0.9, 0.95, 0.8, 0.9, 0.9, 0.9, 0.9, 0.95, 0.9, 0.82])).toEqual([[9, 900]]);
    });

    test("gives up where the implied downtime is half as much again as is allowed", () => {
      expect(decisions([5, 5, 5, 5, 5, 5, 5, 5])).toEqual([[7, "abort"]]);
    });

    test("after its patience the next best will do, then after half of it the next", () => {
      const rounds = [1, 1, 0.5, 0.6, 0.9, 0.9, 0.9, ...Array.from({ length: 12 }, () => 0.7)];
      // Patience is over a minute after the stall began at 8 (0.7 is no less than 1 − 4 %... of 0.5): the next best is 0.6, then 0.7.
      expect(decisions(rounds).at(0)?.[1]).toBe(900);
      expect(decisions(rounds).at(0)![0]).toBeGreaterThan(14);
    });
  });
});
