/**
 * The rules that others ship, to compare with. They set QEMU's downtime-limit, which QEMU multiplies with its own estimate of its
 * bandwidth. Where a rule ships with more than a rule (another form of pages, say), only the rule is compared: all use the same pipe.
 */
import { type Decision, type LimitSetting, limitOf, type Policy, type StartSettings } from "../policy.ts";
import { MAX_DOWNTIME_LIMIT_MS } from "../qemu.ts";
import { type MigrationFacts, PAGE_BYTES, type RoundSample, type TickSample } from "../samples.ts";

const GIB = 2 ** 30;

/** A limit as these rules set it: in ms, of QEMU's own estimate. */
export function ofOwnEstimate(downtimeLimitMs: number): LimitSetting {
  const wholeMs = Math.min(MAX_DOWNTIME_LIMIT_MS, Math.round(downtimeLimitMs));
  return { downtimeLimitMs: wholeMs, bandwidthBytesPerSecond: null };
}

function startWith(downtimeLimitMs: number, more: Partial<StartSettings> = {}): StartSettings {
  return { limit: ofOwnEstimate(downtimeLimitMs), maxBytesPerSecond: null, autoConverge: false, ...more };
}

function raiseTo(downtimeLimitMs: number, why: string): Decision {
  const limit = ofOwnEstimate(downtimeLimitMs);
  return { kind: "limit", limit, reason: `the limit is now ${limit.downtimeLimitMs} ms: ${why}` };
}

/** 300 ms for ever, and at most 128 MiB/s (DEFAULT_MIGRATE_SET_DOWNTIME, MAX_THROTTLE; migration/options.c). */
export class QemuDefault implements Policy {
  readonly name = "qemu";
  readonly tickMs = 1000;

  start(): StartSettings {
    return startWith(300, { maxBytesPerSecond: 128 * 2 ** 20 });
  }

  onRound(): undefined {}

  onTick(): undefined {}
}

/** 300 ms for ever, given up after an hour. */
export class CloudHypervisor implements Policy {
  readonly name = "cloud-hypervisor";
  readonly tickMs = 1000;

  start(): StartSettings {
    return startWith(300);
  }

  onRound(): undefined {}

  onTick({ atMs }: TickSample): Decision | undefined {
    return atMs >= 3_600_000 ? { kind: "abort", reason: "it took longer than 3,600 s" } : undefined;
  }
}

/** Five rounds, or fewer than 50 dirty pages. */
export class Xen implements Policy {
  readonly name = "xen";
  readonly tickMs = 1000;

  start(): StartSettings {
    return { limit: limitOf(50 * PAGE_BYTES, 1e9, true), maxBytesPerSecond: null, autoConverge: false };
  }

  onRound({ round }: RoundSample): Decision | undefined {
    return round === 4 ? { kind: "switch", reason: "five rounds are over" } : undefined;
  }

  onTick(): undefined {}
}

/** From 50 to 500 ms in ten equal steps of 75 s × GiB; after 800 s × GiB it is given up, or forced. */
export class Nova implements Policy {
  readonly name: string;
  readonly tickMs = 500;
  readonly #isForced: boolean;
  #gib = 0;
  #step = 0;

  constructor({ isForced }: { isForced: boolean }) {
    this.name = isForced ? "nova-force" : "nova";
    this.#isForced = isForced;
  }

  start({ memoryBytes }: MigrationFacts): StartSettings {
    this.#gib = memoryBytes / GIB;
    return startWith(50);
  }

  onRound(): undefined {}

  onTick({ atMs }: TickSample): Decision | undefined {
    const seconds = atMs / 1000;
    if (seconds >= 800 * this.#gib) {
      const reason = `it took longer than ${Math.round(800 * this.#gib)} s`;
      return this.#isForced ? { kind: "switch", reason } : { kind: "abort", reason };
    }
    const step = Math.min(10, Math.floor(seconds / (75 * this.#gib)));
    if (step === this.#step) return undefined;
    this.#step = step;
    return raiseTo(50 + 45 * step, `step ${step} of 10`);
  }
}

/** Stall counts 1, 2, 3, 4, 6 mean 150, 200, 300, 400, 500 ms; then it is given up. A stall: more remains than at the poll before. */
export class Ovirt implements Policy {
  readonly name = "ovirt";
  readonly tickMs = 5000;
  #stalls = 0;
  #remainingBytes = Number.POSITIVE_INFINITY;

  start(): StartSettings {
    return startWith(100);
  }

  onRound(): undefined {}

  onTick({ remainingBytes }: TickSample): Decision | undefined {
    const isStall = remainingBytes > this.#remainingBytes;
    this.#remainingBytes = remainingBytes;
    if (!isStall) return undefined;
    this.#stalls++;
    if (this.#stalls > 6) return { kind: "abort", reason: `it has stalled ${this.#stalls} times` };
    const limitMs = [150, 200, 300, 400, undefined, 500][this.#stalls - 1];
    return limitMs === undefined ? undefined : raiseTo(limitMs, `stall ${this.#stalls}`);
  }
}

/**
 * Starts at 100 ms; a poll at which more or nothing remained counts, and past five the limit doubles, up to 2,000 s. With
 * auto-converge. Polls every second, ten times a second once less remains than is sent between polls (QemuMigrate.pm).
 */
export class Proxmox implements Policy {
  readonly name = "proxmox";
  readonly tickMs = 100;
  #limitMs = 100;
  #count = 0;
  #polls = 0;
  #nextPollMs = 1000;
  #isFast = false;
  #remainingBytes: number | undefined;

  start(): StartSettings {
    return startWith(this.#limitMs, { autoConverge: true });
  }

  onRound(): undefined {}

  onTick({ atMs, remainingBytes, wireBytes }: TickSample): Decision | undefined {
    if (atMs < this.#nextPollMs) return undefined;
    this.#polls++;
    this.#isFast ||= remainingBytes < wireBytes / this.#polls;
    this.#nextPollMs = atMs + (this.#isFast ? 100 : 1000);
    const before = this.#remainingBytes;
    this.#remainingBytes = remainingBytes;
    if (remainingBytes === 0 || (before !== undefined && remainingBytes > before)) this.#count++;
    if (this.#count <= 5) return undefined;
    this.#count = 0;
    this.#limitMs = Math.min(MAX_DOWNTIME_LIMIT_MS, this.#limitMs * 2);
    return raiseTo(this.#limitMs, "more remained at six polls than before");
  }
}

/** VEP 291: from 150 to 1,050 ms in seven steps, after round 3, 10 s apart. */
export class KubevirtRamp implements Policy {
  readonly name = "kubevirt-ramp";
  readonly tickMs = 1000;
  #step = 1;
  #raisedMs = Number.NEGATIVE_INFINITY;

  start(): StartSettings {
    return startWith(150);
  }

  onRound({ atMs, round }: RoundSample): Decision | undefined {
    if (round < 3 || this.#step === 7 || atMs < this.#raisedMs + 10_000) return undefined;
    this.#step++;
    this.#raisedMs = atMs;
    return raiseTo(150 * this.#step, `step ${this.#step} of 7`);
  }

  onTick(): undefined {}
}
