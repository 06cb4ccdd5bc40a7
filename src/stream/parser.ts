import type { StreamEvent, StreamHandler } from "./events.ts";
import { isPrintable, name8, name32, u64 } from "./fields.ts";
import {
  FLAGS_PAGE,
  FLAGS_ZERO,
  HEADER_BYTES,
  PAGE_BYTES,
  PAGE_RECORD_BYTES,
  RAM_FLAG,
  recordBytesOf,
  SECTION,
  STREAM_MAGIC,
  STREAM_VERSION,
  ZERO_RECORD_BYTES,
} from "./format.ts";
import { readOtherPage } from "./other-page.ts";
import { findResume } from "./resync.ts";
import type { PageScanner } from "./scanner.ts";

/** No record, header or name that the parser waits for is longer; what `push` leaves is always less. */
export const MAX_HELD_BYTES = 8192;
/** Section ids remembered. A PC has about 60 sections; past this a stream is not QEMU's. */
const MAX_SECTIONS = 4096;
/** target-page-bits of x86 (QEMU target/i386/cpu-param.h). With another page size pages are carried as raw bytes. */
const PAGE_BITS = 12;

type State = "magic" | "section" | "configuration" | "blocks" | "ram" | "skip" | "foreign";

interface Section {
  name: string;
  instance: number;
  version: number;
}

/**
 * A streaming parser of QEMU's migration stream: an optimiser, never a gatekeeper.
 *
 * It takes any bytes, cut anywhere, and hands every one of them on, in order: as runs of page records where it is sure of
 * them, else as raw bytes. What it does not know (device state, sections of other live devices, garbage) is passed on while
 * it looks for the next place where it can be in step. A wrong guess costs bytes on the wire, never correctness: a run is
 * only reported where the bytes are exactly those that the run's kind, page and count regenerate.
 *
 * The fast path is RAM: the scanner takes all canonical records of the bytes at hand in one call. All else is one step of
 * a state machine at a time.
 */
export class StreamParser {
  readonly #scanner: PageScanner;
  readonly #handler: StreamHandler;
  #state: State = "magic";
  #offset = 0;
  #bytes: Uint8Array = new Uint8Array(0);
  #view: DataView = new DataView(this.#bytes.buffer);
  readonly #sections = new Map<number, Section>();
  /** The section we are in; undefined between sections. */
  #sectionId: number | undefined;
  #ramId: number | undefined;
  #block = "";
  #blockBytesLeft = 0;
  #skipBytes = 0;
  #pagesAreKnown = true;

  constructor(scanner: PageScanner, handler: StreamHandler) {
    this.#scanner = scanner;
    this.#handler = handler;
  }

  /** Raw offset of the first byte not yet handed on. */
  get offset(): number {
    return this.#offset;
  }

  /**
   * Parses bytes[at, end), which follow what earlier calls have taken.
   *
   * @returns the address of the first byte not taken. Fewer than MAX_HELD_BYTES are left; the caller gives them again,
   * followed by more, in the next call (the addresses may differ).
   */
  push(bytes: Uint8Array, at: number, end: number): number {
    if (bytes !== this.#bytes) {
      this.#bytes = bytes;
      this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    }
    for (;;) {
      const state = this.#state;
      const next = this.#step(at, end);
      this.#offset += next - at;
      if (next === at && state === this.#state) return at;
      at = next;
    }
  }

  /** One step of the state machine from `at`: returns the address up to which bytes were handed on. */
  #step(at: number, end: number): number {
    switch (this.#state) {
      case "magic":
        return this.#magic(at, end);
      case "section":
        return this.#section(at, end);
      case "configuration":
        return this.#configuration(at, end);
      case "blocks":
        return this.#ramblock(at, end);
      case "ram":
        return this.#ram(at, end);
      case "skip":
        return this.#skip(at, end);
      case "foreign":
        return this.#foreign(at, end);
    }
  }

  #magic(at: number, end: number): number {
    if (end - at < 8) return at;
    if (this.#view.getUint32(at) !== STREAM_MAGIC) return this.#lost(at, "it does not begin with QEMU's magic");
    if (this.#view.getUint32(at + 4) !== STREAM_VERSION) return this.#lost(at, "the version of the stream is not 3");
    this.#state = "section";
    return this.#raw(at, at + 8);
  }

  #section(at: number, end: number): number {
    if (end - at < 1) return at;
    const type = this.#bytes[at]!;
    switch (type) {
      case SECTION.eof:
        this.#event({ type: "end-of-stream", offset: this.#offset });
        return this.#raw(at, at + 1);
      case SECTION.start:
      case SECTION.full:
        return this.#sectionStart(at, end, type === SECTION.start ? "start" : "full");
      case SECTION.part:
      case SECTION.end:
        return this.#sectionGoesOn(at, end, type === SECTION.part ? "part" : "end");
      case SECTION.footer:
        return this.#footer(at, end);
      case SECTION.configuration: {
        const name = name32(this.#view, at + 1, end);
        if (name === undefined) return at;
        if (name === null) return this.#lost(at, "the name of the machine type is too long");
        this.#event({ type: "machine", offset: this.#offset, name });
        this.#state = "configuration";
        return this.#raw(at, at + 5 + name.length);
      }
      case SECTION.command: {
        if (end - at < 5) return at;
        const bytes = this.#view.getUint16(at + 3);
        this.#event({ type: "command", offset: this.#offset, command: this.#view.getUint16(at + 1), bytes });
        return this.#skipFrom(at, 5, bytes);
      }
      case SECTION.description: {
        if (end - at < 5) return at;
        const bytes = this.#view.getUint32(at + 1);
        this.#event({ type: "description", offset: this.#offset, bytes });
        return this.#skipFrom(at, 5, bytes);
      }
      default:
        return this.#lost(at, `no section begins with the byte 0x${type.toString(16)}`);
    }
  }

  #sectionStart(at: number, end: number, kind: "start" | "full"): number {
    const name = name8(this.#view, at + 5, end);
    if (name === undefined) return at;
    const after = at + 6 + name.length;
    if (end - after < 8) return at;
    const id = this.#view.getUint32(at + 1);
    if (!isPrintable(name)) return this.#lost(at, "a section's name is not printable");
    if (this.#sections.size >= MAX_SECTIONS && !this.#sections.has(id))
      return this.#lost(at, "there are too many sections");
    const section = { name, instance: this.#view.getUint32(after), version: this.#view.getUint32(after + 4) };
    this.#sections.set(id, section);
    this.#event({ type: "section", offset: this.#offset, kind, id, ...section });
    this.#enter(id, name === "ram" && kind === "start");
    return this.#raw(at, after + 8);
  }

  #sectionGoesOn(at: number, end: number, kind: "part" | "end"): number {
    if (end - at < 5) return at;
    const id = this.#view.getUint32(at + 1);
    const section = this.#sections.get(id);
    if (section === undefined) return this.#lost(at, `section ${id} goes on that did not begin`);
    this.#event({ type: "section", offset: this.#offset, kind, id, ...section });
    this.#enter(id, id === this.#ramId);
    return this.#raw(at, at + 5);
  }

  #enter(id: number, isRam: boolean): void {
    this.#sectionId = id;
    if (isRam) this.#ramId = id;
    this.#state = isRam && this.#pagesAreKnown ? "ram" : "foreign";
  }

  #footer(at: number, end: number): number {
    if (end - at < 5) return at;
    const id = this.#view.getUint32(at + 1);
    if (id !== this.#sectionId) return this.#lost(at, `section ${id} ends that we are not in`);
    this.#event({ type: "section-end", offset: this.#offset, id });
    this.#sectionId = undefined;
    return this.#raw(at, at + 5);
  }

  /** Subsections of the configuration section: those whose length is known (QEMU migration/savevm.c, vmstate_configuration). */
  #configuration(at: number, end: number): number {
    if (end - at < 1) return at;
    if (this.#bytes[at] !== SECTION.subsection) {
      this.#state = "section";
      return at;
    }
    const name = name8(this.#view, at + 1, end);
    if (name === undefined) return at;
    const body = at + 2 + name.length + 4;
    switch (name) {
      case "configuration/uuid":
        return end - body < 16 ? at : this.#raw(at, body + 16);
      case "configuration/target-page-bits":
        if (end - body < 4) return at;
        this.#pagesAreKnown = this.#view.getUint32(body) === PAGE_BITS;
        return this.#raw(at, body + 4);
      case "configuration/capabilities": {
        if (end - body < 4) return at;
        let after = body + 4;
        const capabilities = this.#view.getUint32(body);
        if (capabilities > 256) return this.#lost(at, "the configuration names too many capabilities");
        for (let i = 0; i < capabilities; i++) {
          const capability = name8(this.#view, after, end);
          if (capability === undefined)
            return end - at < MAX_HELD_BYTES - 512 ? at : this.#lost(at, "the list of capabilities is too long");
          after += 1 + capability.length;
        }
        return this.#raw(at, after);
      }
      default:
        return this.#lost(at, `the subsection ${isPrintable(name) ? name : "of the configuration"} is not known`);
    }
  }

  #ramblock(at: number, end: number): number {
    const name = name8(this.#view, at, end);
    if (name === undefined || end - at < 1 + name.length + 8) return at;
    const lengthBytes = u64(this.#view, at + 1 + name.length);
    if (!isPrintable(name) || lengthBytes > this.#blockBytesLeft)
      return this.#lost(at, "the list of ramblocks does not add up");
    this.#event({ type: "ramblock", offset: this.#offset, name, lengthBytes });
    this.#blockBytesLeft -= lengthBytes;
    if (this.#blockBytesLeft === 0) this.#state = "ram";
    return this.#raw(at, at + 1 + name.length + 8);
  }

  #ram(at: number, end: number): number {
    const scan = this.#scanner.scan(this.#bytes, at, end);
    if (scan.runs > 0) {
      for (let i = 0; i < scan.runs; i++) {
        const { kind, records, firstPage } = this.#scanner.run(i);
        const to = at + records * recordBytesOf(kind);
        this.#handler.pages(kind, at, to, firstPage, records, this.#block);
        at = to;
      }
      return at;
    }
    if (end - at < HEADER_BYTES) return at;
    const low = this.#view.getUint32(at + 4);
    const flags = low & 0xfff;
    const isCutOff =
      (flags === FLAGS_PAGE && end - at < PAGE_RECORD_BYTES) || (flags === FLAGS_ZERO && end - at < ZERO_RECORD_BYTES);
    return isCutOff ? at : this.#otherRecord(at, end, flags);
  }

  /** A record of RAM that the scanner left: the ends, the list of ramblocks, pages that travel as raw bytes. */
  #otherRecord(at: number, end: number, flags: number): number {
    const address = u64(this.#view, at) - flags;
    switch (flags) {
      case RAM_FLAG.eos:
        if (address !== 0) return this.#lost(at, "RAM ends at an address");
        this.#state = "section";
        return this.#raw(at, at + HEADER_BYTES);
      case RAM_FLAG.memSize:
        this.#blockBytesLeft = address;
        this.#state = address === 0 ? "ram" : "blocks";
        return this.#raw(at, at + HEADER_BYTES);
      case RAM_FLAG.hook:
      case RAM_FLAG.multifdFlush:
        return this.#raw(at, at + HEADER_BYTES);
    }
    const record = readOtherPage(this.#view, at, end, flags, this.#block);
    if (record === undefined) return at;
    if ("why" in record) return this.#lost(at, record.why);
    this.#block = record.block;
    this.#event({ type: "page", offset: this.#offset, ...record, page: address / PAGE_BYTES });
    return this.#raw(at, at + record.bytes);
  }

  #skip(at: number, end: number): number {
    const bytes = Math.min(end - at, this.#skipBytes);
    this.#skipBytes -= bytes;
    if (this.#skipBytes === 0) this.#state = "section";
    return this.#raw(at, at + bytes);
  }

  #skipFrom(at: number, headerBytes: number, bytes: number): number {
    this.#skipBytes = bytes;
    this.#state = "skip";
    return this.#raw(at, at + headerBytes);
  }

  /** Bytes that are not understood: handed on while looking for the end of this section or for more RAM. */
  #foreign(at: number, end: number): number {
    const ramId = this.#pagesAreKnown ? this.#ramId : undefined;
    const found = findResume(this.#bytes.subarray(at, end), this.#sectionId, ramId);
    if (found.isResumed) {
      this.#event({ type: "found", offset: this.#offset + found.at });
      this.#state = "section";
    }
    this.#raw(at, at + found.at);
    return at + found.at;
  }

  #lost(at: number, why: string): number {
    this.#event({ type: "lost", offset: this.#offset, why });
    this.#state = "foreign";
    return at;
  }

  #raw(from: number, to: number): number {
    if (to > from) this.#handler.raw(from, to);
    return to;
  }

  #event(event: StreamEvent): void {
    this.#handler.event?.(event);
  }
}
