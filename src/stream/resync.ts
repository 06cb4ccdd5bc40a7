import { RAM_FLAG, SECTION } from "./format.ts";

/** No pattern is longer: with fewer bytes at hand a place may be cut off. */
const RESUME_LOOKAHEAD_BYTES = 17;

/** The types of section that can follow a footer. */
const AFTER_FOOTER: readonly number[] = [
  SECTION.eof,
  SECTION.start,
  SECTION.part,
  SECTION.end,
  SECTION.full,
  SECTION.description,
  SECTION.command,
];

/** The flags that the first record of a RAM section has. */
const FIRST_FLAGS: readonly number[] = [
  RAM_FLAG.page,
  RAM_FLAG.zero,
  RAM_FLAG.xbzrle,
  RAM_FLAG.eos,
  RAM_FLAG.page | RAM_FLAG.continue,
  RAM_FLAG.zero | RAM_FLAG.continue,
  RAM_FLAG.xbzrle | RAM_FLAG.continue,
];

/** START of RAM without its type and id: the name "ram", instance 0, version 4 (QEMU migration/ram.c, ram_mig_init). */
const RAM_START_TAIL = Buffer.from("\x03ram\x00\x00\x00\x00\x00\x00\x00\x04", "latin1");

/** Where to go on: bytes before `at` are to be passed on; at `at` a section's type stands if `isResumed`. */
export interface Resume {
  at: number;
  isResumed: boolean;
}

/**
 * Looks in bytes that are not understood for the next place where the parser can be in step.
 *
 * Such a place is the footer of section `sectionId`, or the next part of RAM (section `ramId`), or, while no RAM section
 * is known, its start. The search itself is Buffer.indexOf, so that gigabytes of a device's state cost little.
 *
 * @returns the place; or, where there is none, how many bytes hold none for sure.
 */
export function findResume(bytes: Uint8Array, sectionId: number | undefined, ramId: number | undefined): Resume {
  const haystack = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let best: Resume | undefined;

  /** Searches `pattern`, which stands `before` bytes into the place, in front of the best place found so far. */
  const search = (pattern: Buffer, before: number, confirm: (place: number) => boolean | undefined): void => {
    const end = best === undefined ? haystack.length : Math.min(haystack.length, best.at + before + pattern.length);
    const within = haystack.subarray(0, end);
    for (let from = before; ; ) {
      const hit = within.indexOf(pattern, from);
      if (hit < 0) return;
      const place = hit - before;
      const isConfirmed = confirm(place);
      if (isConfirmed !== false) {
        best = { at: place, isResumed: isConfirmed ?? false };
        return;
      }
      from = hit + 1;
    }
  };

  if (sectionId !== undefined) {
    search(typeAndId(SECTION.footer, sectionId), 0, (place) => {
      const next = haystack[place + 5];
      return next === undefined ? undefined : AFTER_FOOTER.includes(next);
    });
  }
  if (ramId !== undefined) {
    for (const type of [SECTION.part, SECTION.end]) {
      search(typeAndId(type, ramId), 0, (place) => {
        if (haystack.length < place + 13) return undefined;
        return FIRST_FLAGS.includes(haystack.readUInt16BE(place + 11) & 0xfff);
      });
    }
  } else {
    search(RAM_START_TAIL, 5, (place) => haystack[place] === SECTION.start);
  }
  return best ?? { at: Math.max(0, haystack.length - (RESUME_LOOKAHEAD_BYTES - 1)), isResumed: false };
}

function typeAndId(type: number, id: number): Buffer {
  const pattern = Buffer.alloc(5);
  pattern[0] = type;
  pattern.writeUInt32BE(id, 1);
  return pattern;
}
