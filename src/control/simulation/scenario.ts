/** What is migrated, and over what. */
import type { Form } from "../samples.ts";
import type { Steps } from "./steps.ts";

/** Pages of the guest that are written alike. */
export interface PageClass {
  pages: number;
  /** Page writes per second over the whole class, at activity 1. */
  writesPerSecond: number;
  /** random: any page next; walk: one after the other, so that none is written twice before all were. */
  pattern: "random" | "walk";
  /** In which they are sent again. */
  form: Form;
  /** What one of them costs on the wire, after compaction. */
  wireBytesPerPage: number;
}

/** Of all of them. */
export function pagesOf(classes: readonly PageClass[]): number {
  return classes.reduce((sum, { pages }) => sum + pages, 0);
}

/** A stretch of guest memory as the bulk round meets it. */
export interface Stretch {
  form: Form;
  pages: number;
  wireBytesPerPage: number;
  /** In QEMU's stream: 9 for a zero page, 4104 for others (migration/ram.c). */
  rawBytesPerPage: number;
}

export interface Workload {
  name: string;
  memoryBytes: number;
  /** In the order in which they are sent; together all of the memory. */
  stretches: readonly Stretch[];
  /** Pages that are written; the rest of the memory is not. */
  classes: readonly PageClass[];
  /** Of a page that is sent again, in QEMU's stream; 4104 unless given. More stands for ends that take their time over it. */
  rawBytesPerPage?: number;
  /**
   * A page that is written in a round before it is sent is found by the next sync though it is as it was sent: of such pages so many
   * cost nothing. 0 unless given.
   */
  unchangedShare?: number;
  /** Multiplies the writes. */
  activity: Steps;
}

export interface Scenario {
  name: string;
  workload: Workload;
  /** From the command to the first page; 0 unless given. */
  startMs?: number;
  /** Bytes per second of payload that arrive. */
  link: Steps;
  roundTripMs: number;
  /** Saving device state. */
  deviceBytes: number;
  deviceMs: number;
  /** The parts of the downtime that do not depend on what is left, round trips included. */
  transferMs: number;
  loadMs: number;
  handoffMs: number;
  resumeMs: number;
  hasSwitchoverBandwidth: boolean;
  /** A migration that has not ended by then counts as endless. */
  horizonMs: number;
  /** Until then the best moment in hindsight is looked for. */
  hindsightMs: number;
}
