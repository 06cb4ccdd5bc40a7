import type { Kind } from "./format.ts";

/** A page record that is not canonical and travels as raw bytes: it names its ramblock, or has a form of its own. */
export type OtherPage = "named-zero" | "named-page" | "filled" | "xbzrle" | "compressed";

/** What the parser understood of the stream's structure. `offset` is the raw offset at which it begins. */
export type StreamEvent =
  | { type: "machine"; offset: number; name: string }
  | { type: "ramblock"; offset: number; name: string; lengthBytes: number }
  | {
      type: "section";
      offset: number;
      kind: "start" | "part" | "end" | "full";
      id: number;
      name: string;
      instance: number;
      version: number;
    }
  | { type: "section-end"; offset: number; id: number }
  | { type: "page"; offset: number; form: OtherPage; block: string; page: number; bytes: number }
  | { type: "command"; offset: number; command: number; bytes: number }
  | { type: "end-of-stream"; offset: number }
  | { type: "description"; offset: number; bytes: number }
  /** The bytes from here on are not understood; they are carried as they are. */
  | { type: "lost"; offset: number; why: string }
  /** Back in step. */
  | { type: "found"; offset: number };

/**
 * Takes what the parser finds, in the order of the stream and without gaps. Addresses are those of the bytes pushed; they
 * are borrowed, valid during the call.
 */
export interface StreamHandler {
  /** Bytes [from, to) that are carried as they are. */
  raw(from: number, to: number): void;
  /** `records` canonical page records [from, to) of one kind, for consecutive pages of ramblock `block`. */
  pages(kind: Kind, from: number, to: number, firstPage: number, records: number, block: string): void;
  /** Structure, told before the bytes that it is made of are handed to `raw`. */
  event?(event: StreamEvent): void;
}
