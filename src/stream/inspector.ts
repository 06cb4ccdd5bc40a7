import { DescriptionCollector, sectionKey } from "./description.ts";
import type { OtherPage, StreamEvent, StreamHandler } from "./events.ts";
import type { Kind } from "./format.ts";
import {
  type ByteCounts,
  type CommandReport,
  formOf,
  type Inspection,
  type LostReport,
  noPages,
  type RamblockReport,
  type RoundReport,
  type SectionReport,
} from "./inspection.ts";
import { RoundTracker, type SeenPages } from "./rounds.ts";

/** Entries kept of each list. */
const MAX_ENTRIES = 4096;
/** A description's header: its type and u32 length. */
const DESCRIPTION_HEADER_BYTES = 5;

/** enum qemu_vm_cmd of QEMU migration/savevm.c. */
const COMMANDS: readonly string[] = [
  "invalid",
  "open-return-path",
  "ping",
  "postcopy-advise",
  "postcopy-listen",
  "postcopy-run",
  "postcopy-ram-discard",
  "packaged",
  "enable-colo",
  "postcopy-resume",
  "recv-bitmap",
  "switchover-start",
];

interface Ramblock extends RamblockReport {
  seen: SeenPages;
}

/** A list that keeps its first entries and counts the others. */
class BoundedList<T> {
  readonly entries: T[] = [];
  leftOut = 0;

  /** @returns whether it was kept. */
  add(entry: T): boolean {
    const fits = this.entries.length < MAX_ENTRIES;
    if (fits) this.entries.push(entry);
    else this.leftOut++;
    return fits;
  }
}

/** Takes what a parser finds in a stream and says in the end what was there. Its memory is bounded. */
export class StreamInspector implements StreamHandler {
  readonly #memory: Uint8Array;
  readonly #byteCounts: ByteCounts = {
    configuration: 0,
    ramFraming: 0,
    pages: 0,
    rawPages: 0,
    live: 0,
    devices: 0,
    commands: 0,
    description: 0,
    lost: 0,
    cutOff: 0,
  };
  #bytes = 0;
  /** What the next raw bytes are. */
  #rawKind: keyof ByteCounts = "configuration";
  #isStream = true;
  #machine: string | null = null;
  readonly #pages = noPages();
  readonly #ramblocks = new Map<string, Ramblock>();
  readonly #ramblockList = new BoundedList<Ramblock>();
  #lastRamblock: Ramblock | undefined;
  readonly #tracker = new RoundTracker();
  readonly #rounds = new BoundedList<RoundReport>();
  #round: RoundReport | undefined;
  readonly #sectionList = new BoundedList<SectionReport>();
  readonly #sections = new Map<number, SectionReport>();
  #section: SectionReport | undefined;
  readonly #commands = new BoundedList<CommandReport>();
  readonly #lost = new BoundedList<LostReport>();
  #loss: LostReport | undefined;
  #isPostcopy = false;
  #endOffset: number | undefined;
  #description: DescriptionCollector | undefined;
  #descriptionEnd = 0;

  /** @param memory the bytes that the parser is given; addresses are indexes into it. */
  constructor(memory: Uint8Array) {
    this.#memory = memory;
  }

  raw(from: number, to: number): void {
    const bytes = to - from;
    this.#bytes += bytes;
    this.#byteCounts[this.#rawKind] += bytes;
    if (this.#section) this.#section.bytes += bytes;
    if (this.#rawKind === "description") this.#description!.push(this.#memory.subarray(from, to));
    // An event of a page is followed by its record's bytes alone.
    if (this.#rawKind === "rawPages") this.#rawKind = "ramFraming";
  }

  pages(kind: Kind, from: number, to: number, firstPage: number, records: number, block: string): void {
    this.#countPages(kind, block, firstPage, records, (to - from) / records);
    this.#byteCounts.pages += to - from;
    if (this.#section) this.#section.bytes += to - from;
    this.#bytes += to - from;
  }

  event(event: StreamEvent): void {
    switch (event.type) {
      case "machine":
        this.#leaveSection("configuration");
        this.#machine ??= event.name;
        break;
      case "ramblock":
        this.#ramblock(event.name).lengthBytes = event.lengthBytes;
        break;
      case "section":
        this.#onSection(event);
        break;
      case "section-end":
        this.#enterSection(this.#sections.get(event.id));
        if (this.#section?.kind === "device") this.#section.isEnded = true;
        break;
      case "page":
        this.#countPages(event.form, event.block, event.page, 1, event.bytes);
        this.#rawKind = "rawPages";
        break;
      case "command":
        this.#leaveSection("commands");
        this.#isPostcopy ||= COMMANDS[event.command] === "postcopy-run";
        this.#commands.add({
          offset: event.offset,
          command: COMMANDS[event.command] ?? String(event.command),
          bytes: event.bytes,
        });
        break;
      case "end-of-stream":
        this.#leaveSection("configuration");
        this.#endOffset ??= event.offset;
        break;
      case "description":
        this.#leaveSection("description");
        this.#description = new DescriptionCollector(DESCRIPTION_HEADER_BYTES, event.bytes);
        this.#descriptionEnd = event.offset + DESCRIPTION_HEADER_BYTES + event.bytes;
        break;
      case "lost":
        this.#leaveSection("lost");
        if (event.offset === 0) this.#isStream = false;
        this.#loss = { offset: event.offset, why: event.why, foundOffset: null };
        this.#lost.add(this.#loss);
        break;
      case "found":
        // Also told at the end of every section whose body was not looked into; that was no loss.
        if (this.#loss) this.#loss.foundOffset = event.offset;
        this.#loss = undefined;
        break;
    }
  }

  /** What the stream held. @param heldBytes bytes at its end that the parser did not take. */
  finish(heldBytes: number): Inspection {
    // Bytes held while it is lost are only looked at; otherwise they are the beginning of something.
    this.#byteCounts[this.#loss ? "lost" : "cutOff"] += heldBytes;
    const bytes = this.#bytes + heldBytes;
    const end = this.#endOffset === undefined ? undefined : Math.max(this.#endOffset + 1, this.#descriptionEnd);
    const sections = this.#sectionList.entries;
    const devices = sections.filter(({ kind }) => kind === "device");
    return {
      bytes,
      isStream: bytes >= 8 && (this.#isStream || sections.some(({ kind }) => kind === "ram")),
      isComplete: end !== undefined && end <= bytes && this.#byteCounts.cutOff === 0,
      trailingBytes: end === undefined ? 0 : Math.max(0, bytes - end),
      machine: this.#machine,
      ramblocks: this.#ramblockList.entries.map(({ name, lengthBytes, pages }) => ({ name, lengthBytes, pages })),
      pages: this.#pages,
      rounds: this.#rounds.entries,
      sections,
      commands: this.#commands.entries,
      byteCounts: this.#byteCounts,
      description: this.#description?.report(devices.map(({ name, instance }) => sectionKey(name, instance))) ?? null,
      lost: this.#lost.entries,
      leftOut: {
        ramblocks: this.#ramblockList.leftOut,
        rounds: this.#rounds.leftOut,
        sections: this.#sectionList.leftOut,
        commands: this.#commands.leftOut,
        lost: this.#lost.leftOut,
      },
    };
  }

  #onSection(event: Extract<StreamEvent, { type: "section" }>): void {
    const { kind, id, name, instance, version, offset } = event;
    // The stream goes on: what looked like its end was none.
    this.#endOffset = undefined;
    if (kind === "start" || kind === "full") {
      const isRam = kind === "start" && name === "ram";
      const section: SectionReport = {
        kind: kind === "full" ? "device" : isRam ? "ram" : "live",
        ...{ name, instance, version, id, offset, parts: 0, bytes: 0, isEnded: false },
      };
      this.#sectionList.add(section);
      this.#sections.set(id, section);
    }
    const section = this.#sections.get(id);
    this.#enterSection(section);
    if (section === undefined) return;
    if (kind === "part") section.parts++;
    if (kind !== "end") return;
    section.isEnded = true;
    // QEMU syncs once more when the source has stopped (migration/ram.c, ram_save_complete), but not after postcopy.
    if (section.kind === "ram" && !this.#isPostcopy) this.#round = undefined;
  }

  #enterSection(section: SectionReport | undefined): void {
    this.#section = section;
    const kind = section?.kind ?? "live";
    this.#rawKind = kind === "ram" ? "ramFraming" : kind === "device" ? "devices" : "live";
  }

  #leaveSection(rawKind: keyof ByteCounts): void {
    this.#section = undefined;
    this.#rawKind = rawKind;
  }

  #ramblock(name: string): Ramblock {
    if (this.#lastRamblock?.name === name) return this.#lastRamblock;
    let block = this.#ramblocks.get(name);
    if (block === undefined) {
      block = { name, lengthBytes: null, pages: noPages(), seen: new Map() };
      if (this.#ramblockList.add(block)) this.#ramblocks.set(name, block);
    }
    this.#lastRamblock = block;
    return block;
  }

  #countPages(record: Kind | OtherPage, name: string, firstPage: number, pages: number, recordBytes: number): void {
    const block = this.#ramblock(name);
    const form = formOf(record);
    block.pages[form] += pages;
    this.#pages[form] += pages;
    for (let counted = 0; counted < pages; ) {
      if (this.#round === undefined) this.#beginRound(this.#bytes + counted * recordBytes);
      const taken = this.#tracker.note(block.seen, firstPage + counted, pages - counted);
      this.#round!.pages[form] += taken;
      this.#round!.bytes += taken * recordBytes;
      counted += taken;
      if (counted < pages) this.#round = undefined;
    }
  }

  #beginRound(offset: number): void {
    const round = this.#rounds.entries.length + this.#rounds.leftOut;
    this.#round = { round, offset, bytes: 0, pages: noPages() };
    this.#rounds.add(this.#round);
    this.#tracker.begin();
  }
}
