/** What is done to a migration, and when. Pure: a plan follows from its seed. */
import type { MigrationEvent } from "../../src/migration/events.ts";
import type { LinkFault } from "../link-faults.ts";

/** The two QEMUs and the two programs. */
export type Part = "source QEMU" | "destination QEMU" | "send" | "receive";
export const PARTS: readonly Part[] = ["source QEMU", "destination QEMU", "send", "receive"];

export type Fault =
  | { readonly kind: "kill"; readonly part: Part }
  /** SIGSTOP, and SIGCONT after `ms`. */
  | { readonly kind: "freeze"; readonly part: Part; readonly ms: number }
  /** A program that has a hard life from its start, or from the step on. */
  | { readonly kind: "hardship"; readonly part: "send" | "receive"; readonly hardship: Hardship }
  /** The link is healed after `ms`. */
  | { readonly kind: "link"; readonly fault: LinkFault; readonly ms: number };

/**
 * Where the state folder is full or can't be written to, so many files may be open (Node takes 20 for itself), or the clock jumps by
 * a day.
 */
const HARDSHIPS = [
  "full disk",
  "read-only disk",
  "24 descriptors",
  "28 descriptors",
  "32 descriptors",
  "clock jumps",
] as const;
export type Hardship = (typeof HARDSHIPS)[number];

/** The steps of a migration, each by the event that says it: of `send`, or of `receive`. */
export const STEPS = {
  connected: ["send", "connected"],
  started: ["send", "started"],
  round: ["send", "round"],
  /** Some time after it has started. */
  "any time": ["send", "started"],
  switchover: ["send", "switchover"],
  loaded: ["receive", "loaded"],
  committed: ["send", "committed"],
  running: ["receive", "running"],
} as const satisfies Record<string, readonly ["send" | "receive", MigrationEvent["event"]]>;
export type Step = keyof typeof STEPS;

export interface Plan {
  readonly number: number;
  readonly step: Step;
  /** From the step to the fault. */
  readonly delayMs: number;
  readonly fault: Fault;
  /** How late the link is each way, to begin with. */
  readonly linkDelayMs: number;
  /** For --reconnect-for. */
  readonly reconnectForS: number;
  /** When a person starts a killed program again. */
  readonly restartMs: number;
}

const LINK_FAULTS: readonly LinkFault[] = [
  { kind: "refuse" },
  { kind: "black-hole" },
  { kind: "reset" },
  { kind: "half-open", told: "sender" },
  { kind: "half-open", told: "receiver" },
  { kind: "slow", bytesPerSecond: 1000 },
  { kind: "flap", upMs: 400, downMs: 300 },
  { kind: "flap", upMs: 700, downMs: 500, as: "black-hole" },
];

/** A fault's name, as the table of outcomes has it. */
export function nameOf(fault: Fault): string {
  if (fault.kind === "hardship") return `${fault.hardship}, ${fault.part}`;
  if (fault.kind !== "link") return `${fault.kind} ${fault.part}`;
  const { fault: link } = fault;
  if (link.kind === "half-open") return `link half-open, ${link.told} told`;
  if (link.kind === "flap") return `link flaps${link.as ? `, ${link.as}` : ""}`;
  return link.kind === "slow" ? "link at 1 kB/s" : `link ${link.kind}`;
}

/** All faults, of a length each. */
function faults(ms: number): Fault[] {
  return [
    ...PARTS.map((part): Fault => ({ kind: "kill", part })),
    ...PARTS.map((part): Fault => ({ kind: "freeze", part, ms })),
    ...LINK_FAULTS.map((fault): Fault => ({ kind: "link", fault, ms })),
  ];
}

export const FAULTS: readonly string[] = faults(0).map(nameOf);

/** The fault of that name, of such a length. @throws Error if there is none */
export function faultNamed(name: string, ms: number): Fault {
  const found = faults(ms).find((fault) => nameOf(fault) === name);
  if (found === undefined) throw new Error(`no fault ${name}; there are: ${FAULTS.join(", ")}`);
  return found;
}

/**
 * Plan number `number` of a seed: every fault meets every step once in {@link FAULTS} × {@link STEPS} plans that follow each other.
 */
export function planOf(seed: number, number: number): Plan {
  const random = randomOf(seed, number);
  const steps = Object.keys(STEPS) as Step[];
  const combinations = FAULTS.length * steps.length;
  // In another order for each seed: the stride has no divisor in common with the number of combinations, a power of two.
  const combination = (((seed * 2 + 1) * 31 + number * (2 * (seed % 50) + 37)) >>> 0) % combinations;
  const step = steps[combination % steps.length]!;
  const spread = [0, 20, 200][Math.floor(random() * 3)]!;
  const reconnectForS = random() < 0.2 ? 4 : 40;
  const lengthMs = Math.round(200 * (random() < 0.25 ? 60 : 15) ** random());
  return {
    number,
    step,
    delayMs: Math.round(random() * (step === "any time" ? 4000 : spread)),
    fault: faults(lengthMs)[Math.floor(combination / steps.length)]!,
    linkDelayMs: random() < 0.5 ? 0 : Math.round(5 + 45 * random()),
    reconnectForS,
    restartMs: Math.round(200 + 2000 * random()),
  };
}

/** Each hardship of each program, as plans from `first` on. */
export function hardships(first: number): Plan[] {
  return HARDSHIPS.flatMap((hardship, i) =>
    (["send", "receive"] as const).map((part, j) => ({
      ...{
        number: first + 2 * i + j,
        step: "round" as const,
        delayMs: 0,
        fault: { kind: "hardship" as const, part, hardship },
      },
      ...{ linkDelayMs: 0, reconnectForS: 40, restartMs: 500 },
    })),
  );
}

/** Numbers from 0 to 1 (mulberry32). */
function randomOf(seed: number, number: number): () => number {
  let state = Math.imul(seed + 1, 0x9e3779b1) ^ Math.imul(number + 1, 0x85ebca6b);
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
