import type { DescriptionReport } from "./description.ts";
import type { OtherPage } from "./events.ts";
import { KIND, type Kind } from "./format.ts";

/** The forms that page records have in a stream: the canonical ones, and those that travel as raw bytes. */
export type PageForm = "zero" | "literal" | "blank" | "namedZero" | "namedPage" | "filled" | "xbzrle" | "compressed";

export const PAGE_FORMS: readonly PageForm[] = [
  "zero",
  "literal",
  "blank",
  "namedZero",
  "namedPage",
  "filled",
  "xbzrle",
  "compressed",
];

const KIND_FORMS: Readonly<Record<Kind, PageForm>> = {
  [KIND.zero]: "zero",
  [KIND.literal]: "literal",
  [KIND.blank]: "blank",
};

const OTHER_FORMS: Readonly<Record<OtherPage, PageForm>> = {
  "named-zero": "namedZero",
  "named-page": "namedPage",
  filled: "filled",
  xbzrle: "xbzrle",
  compressed: "compressed",
};

/** The form of records that the parser takes as a run, or of one that travels as raw bytes. */
export function formOf(record: Kind | OtherPage): PageForm {
  return typeof record === "number" ? KIND_FORMS[record] : OTHER_FORMS[record];
}

/** Page records by form. */
export type PageCounts = Record<PageForm, number>;

export function noPages(): PageCounts {
  return { zero: 0, literal: 0, blank: 0, namedZero: 0, namedPage: 0, filled: 0, xbzrle: 0, compressed: 0 };
}

export function sumOf(pages: PageCounts): number {
  return PAGE_FORMS.reduce((sum, form) => sum + pages[form], 0);
}

export interface RamblockReport {
  name: string;
  /** Null for a ramblock of which pages came but that no list names. */
  lengthBytes: number | null;
  pages: PageCounts;
}

/** A stretch of pages of which none repeats; `round` 0 is the bulk. */
export interface RoundReport {
  round: number;
  /** Raw offset of its first page record. */
  offset: number;
  /** Its page records, headers included. */
  bytes: number;
  pages: PageCounts;
}

/** A section with all its parts. `offset` is where it begins, `bytes` all that is framed by it. */
export interface SectionReport {
  kind: "ram" | "live" | "device";
  name: string;
  instance: number;
  version: number;
  id: number;
  offset: number;
  /** PART sections; 0 for a device. */
  parts: number;
  bytes: number;
  /** Its end (for a device: its footer) was seen. */
  isEnded: boolean;
}

export interface CommandReport {
  offset: number;
  /** QEMU's name for it, or its number. */
  command: string;
  bytes: number;
}

export interface LostReport {
  offset: number;
  why: string;
  /** Where the parser was in step again; null if it never was. */
  foundOffset: number | null;
}

/** The stream's bytes by what they are; the sum is all of it. */
export interface ByteCounts {
  /** Magic, configuration section, ends of stream. */
  configuration: number;
  /** What frames pages: headers and footers of RAM sections, the list of ramblocks. */
  ramFraming: number;
  /** Records of zero, literal and blank pages. */
  pages: number;
  /** Page records that travel as raw bytes: named, filled, xbzrle, compressed. */
  rawPages: number;
  /** Live sections other than RAM. */
  live: number;
  devices: number;
  commands: number;
  description: number;
  /** Not understood. */
  lost: number;
  /** The beginning of something whose rest is missing, at the very end. */
  cutOff: number;
}

/** What a stream holds. Lists are bounded; what did not fit is counted in `leftOut`. */
export interface Inspection {
  bytes: number;
  /** QEMU's magic stood at the beginning, or RAM was found later. */
  isStream: boolean;
  /** The end of the stream was seen, and with it all that was announced. */
  isComplete: boolean;
  /** What follows the end of a complete stream. */
  trailingBytes: number;
  machine: string | null;
  ramblocks: RamblockReport[];
  pages: PageCounts;
  rounds: RoundReport[];
  sections: SectionReport[];
  commands: CommandReport[];
  byteCounts: ByteCounts;
  description: DescriptionReport | null;
  lost: LostReport[];
  leftOut: { ramblocks: number; rounds: number; sections: number; commands: number; lost: number };
}
