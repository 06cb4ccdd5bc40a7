/** The scenarios that policies are compared on: `godwit replay --synthetic`. */
import { PAGE_BYTES } from "../samples.ts";
import { RAW_BYTES_PER_PAGE } from "./guest-memory.ts";
import { QEMU_BYTES_PER_SECOND } from "./pace.ts";
import type { PageClass, Scenario, Stretch, Workload } from "./scenario.ts";
import { bursts, constant, cycle, ramp, type Steps, sawtooth, sequence, shifted } from "./steps.ts";

const GIB = 2 ** 30;
const GBIT = 1e9 / 8;
/** Periodic loads are met at so many moments of their period: when a migration is started has nothing to do with them. */
const MOMENTS = 8;

/** Longer than any shipped rule's ladder for 1 GiB; and for large VMs so many times the bulk round. */
const HORIZON_MS = 900_000;
const HORIZON_ROUNDS = 12;
/** No longer than users would wait for a better moment. */
const HINDSIGHT_MS = 120_000;
const HINDSIGHT_ROUNDS = 2;

/** A load, by what it writes in relation to what can be sent: by the link, and by QEMU. */
interface Load {
  name: string;
  description: string;
  /** `linkPages` per second can be sent. */
  classes(memoryPages: number, linkPages: number): PageClass[];
  activity: Steps;
  /** After which it does the same again; 0 for loads that don't. */
  periodMs: number;
}

interface Size {
  gib: number;
  gbit: number;
}

/** A working set of a fifth of the memory that is written at random, at `share` of what the link carries. */
function random(share: number): Load["classes"] {
  return (memoryPages, linkPages) => [
    {
      pages: memoryPages / 5,
      writesPerSecond: share * linkPages,
      pattern: "random",
      form: "literal",
      wireBytesPerPage: PAGE_BYTES,
    },
  ];
}

const STEADY = { activity: constant(1), periodMs: 0 };

export const LOADS: readonly Load[] = [
  {
    name: "idle",
    description: "a few hundred pages a second in a small working set",
    classes: (memoryPages) => [
      { pages: memoryPages / 100, writesPerSecond: 500, pattern: "random", form: "literal", wireBytesPerPage: 2000 },
    ],
    ...STEADY,
  },
  { name: "half", description: "random pages at half of what the link carries", classes: random(0.5), ...STEADY },
  { name: "near", description: "at 0.9 of the link", classes: random(0.9), ...STEADY },
  { name: "over", description: "at 1.5 times the link", classes: random(1.5), ...STEADY },
  { name: "twice", description: "at twice the link", classes: random(2), ...STEADY },
  { name: "fourfold", description: "at four times the link", classes: random(4), ...STEADY },
  {
    name: "walk",
    description: "a word a page, page after page, at twice the link; compacts to a tenth",
    classes: (memoryPages, linkPages) => [
      {
        pages: memoryPages / 4,
        writesPerSecond: 20 * linkPages,
        pattern: "walk",
        form: "delta",
        wireBytesPerPage: PAGE_BYTES / 10,
      },
    ],
    ...STEADY,
  },
  {
    name: "hot-cold",
    description: "a hot set of 2 % at eight times the link, the rest of the working set at a tenth",
    classes: (memoryPages, linkPages) => [
      {
        pages: memoryPages / 50,
        writesPerSecond: 8 * linkPages,
        pattern: "random",
        form: "literal",
        wireBytesPerPage: PAGE_BYTES,
      },
      {
        pages: memoryPages / 4,
        writesPerSecond: 0.1 * linkPages,
        pattern: "random",
        form: "literal",
        wireBytesPerPage: PAGE_BYTES,
      },
    ],
    ...STEADY,
  },
  {
    name: "phases",
    description: "twice the link for 3 s, nothing for 2 s",
    classes: random(2),
    activity: cycle({ ms: 3000, value: 1 }, { ms: 2000, value: 0 }),
    periodMs: 5000,
  },
  {
    name: "long-phases",
    description: "twice the link for 20 s, a twentieth of that for 10 s",
    classes: random(2),
    activity: cycle({ ms: 20_000, value: 1 }, { ms: 10_000, value: 0.05 }),
    periodMs: 30_000,
  },
  {
    name: "sawtooth",
    description: "from nothing up to twice the link in 20 s, again and again",
    classes: random(2),
    activity: sawtooth(0, 1, 20_000, 40),
    periodMs: 20_000,
  },
  {
    name: "growing",
    description: "from a fifth of the link up to three times in 10 min",
    classes: random(1),
    activity: ramp(0.2, 3, 600_000, 300),
    periodMs: 0,
  },
  {
    name: "bursts",
    description: "three times the link for 4 s or so, next to nothing for 8 s or so",
    classes: random(3),
    activity: bursts(0.02, 1, 8000, 4000, 7),
    periodMs: 48_000,
  },
];

const SIZES: readonly Size[] = [
  { gib: 1, gbit: 0.1 },
  { gib: 1, gbit: 0.5 },
  { gib: 16, gbit: 1 },
  { gib: 64, gbit: 10 },
  { gib: 512, gbit: 25 },
  { gib: 4096, gbit: 100 },
];

/** By the link's speed, and a rough time for the bulk round over it. */
export const LINKS: Readonly<Record<string, (bytesPerSecond: number, bulkMs: number) => Steps>> = {
  steady: (bytesPerSecond) => constant(bytesPerSecond),
  /** Four tenths of it are gone a while after the bulk round. */
  dropping: (bytesPerSecond, bulkMs) =>
    sequence(constant(bytesPerSecond), 1.3 * bulkMs, constant(bytesPerSecond * 0.6)),
  /** A fifth of it for 2 s out of 10. */
  flapping: (bytesPerSecond) => cycle({ ms: 8000, value: bytesPerSecond }, { ms: 2000, value: bytesPerSecond / 5 }),
};

/** A scenario at the moments of its period. */
export interface StandardCase {
  name: string;
  load: string;
  link: string;
  scenarios: readonly Scenario[];
}

/** All loads and sizes over a steady link, and all loads at one size over the other links. */
export function standardSet(sizes: readonly Size[] = SIZES, otherLinksAt: Size = { gib: 16, gbit: 1 }): StandardCase[] {
  const steady = sizes.flatMap((size) => LOADS.map((load) => standardCase(load, size, "steady")));
  const others = ["dropping", "flapping"].flatMap((link) =>
    LOADS.map((load) => standardCase(load, otherLinksAt, link)),
  );
  return [...steady, ...others];
}

export function standardCase(load: Load, { gib, gbit }: Size, linkName: string): StandardCase {
  const linkBytesPerSecond = gbit * GBIT;
  const memoryBytes = gib * GIB;
  const memoryPages = memoryBytes / PAGE_BYTES;
  const stretches = stretchesOf(memoryPages);
  const bulkMs = stretches.reduce((sum, { pages, wireBytesPerPage, rawBytesPerPage }) => {
    const seconds = Math.max(wireBytesPerPage / linkBytesPerSecond, rawBytesPerPage / QEMU_BYTES_PER_SECOND);
    return sum + pages * seconds * 1000;
  }, 0);
  const link = LINKS[linkName]!(linkBytesPerSecond, bulkMs);
  const name = `${load.name}, ${gib < 1024 ? `${gib} GiB` : `${gib / 1024} TiB`}, ${gbit} Gbit/s${linkName === "steady" ? "" : ` ${linkName}`}`;
  const moments = load.periodMs > 0 ? MOMENTS : 1;
  const scenarios = Array.from({ length: moments }, (_, i) => {
    const workload: Workload = {
      name: load.name,
      memoryBytes,
      stretches,
      classes: load.classes(memoryPages, Math.min(linkBytesPerSecond, QEMU_BYTES_PER_SECOND) / PAGE_BYTES),
      activity: shifted(load.activity, (load.periodMs * i) / moments),
    };
    return scenarioOf(name, workload, link, bulkMs);
  });
  return { name, load: load.name, link: linkName, scenarios };
}

/** Half of the memory is zero, a third stands on the disk, the rest is packed to a half. */
function stretchesOf(memoryPages: number): Stretch[] {
  return [
    { form: "zero", pages: memoryPages / 2, wireBytesPerPage: 0.05, rawBytesPerPage: 9 },
    { form: "literal", pages: memoryPages / 6, wireBytesPerPage: PAGE_BYTES / 2, rawBytesPerPage: RAW_BYTES_PER_PAGE },
    { form: "disk", pages: memoryPages / 3, wireBytesPerPage: 20, rawBytesPerPage: RAW_BYTES_PER_PAGE },
  ];
}

function scenarioOf(name: string, workload: Workload, link: Steps, bulkMs: number): Scenario {
  return {
    name,
    workload,
    link,
    roundTripMs: 0.5,
    deviceBytes: 400_000,
    deviceMs: 10,
    transferMs: 0.25,
    loadMs: 12,
    handoffMs: 0.5,
    resumeMs: 20,
    hasSwitchoverBandwidth: true,
    horizonMs: HORIZON_MS + HORIZON_ROUNDS * bulkMs,
    hindsightMs: HINDSIGHT_MS + HINDSIGHT_ROUNDS * bulkMs,
  };
}
