import { runTag } from "./disk-bodies.ts";

const PAGE_BYTES = 4096;

/** A reference in a body, and where in the output what it regenerates begins. */
export interface Reference {
  readonly at: number;
  readonly bytes: number;
  readonly holds: boolean;
}

/** What references may be to, by kind. */
export interface Held {
  readonly 4: readonly Uint8Array[];
  readonly 5: readonly Uint8Array[];
}

/**
 * Decodes a body as docs/page-format.md says, and in no way fast: a witness that shares nothing with the decoder.
 *
 * Pages of references that do not hold are left as they were read.
 *
 * @param slots the page cache as the bodies before have left it; it is changed
 */
export function decodePlainly(
  body: Uint8Array,
  tokenBytes: number,
  held: Held,
  key: Uint8Array,
  slots: Uint8Array[] = [],
): { bytes: Buffer; references: Reference[] } {
  const output: Uint8Array[] = [];
  const references: Reference[] = [];
  let [token, payload, outputBytes, page, lastSource, lastBlock, slot] = [0, tokenBytes, 0, 0, "", 0, 0];
  const varint = (): number => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = body[token++]!;
      value += (byte % 128) * scale;
      if (byte < 128) return value;
    }
  };
  const signed = (): number => {
    const value = varint();
    return value % 2 === 0 ? value / 2 : -(value + 1) / 2;
  };
  const put = (bytes: Uint8Array) => {
    output.push(bytes);
    outputBytes += bytes.length;
  };
  const copy = (bytes: number) => {
    put(body.subarray(payload, payload + bytes));
    payload += bytes;
  };
  const record = (flags: number, content: Uint8Array) => {
    const header = Buffer.alloc(8);
    header.writeBigUInt64BE(BigInt(page++) * 4096n + BigInt(flags));
    put(Buffer.concat([header, content]));
  };
  const reference = (pages: readonly Uint8Array[]) => {
    const tag = body.subarray(token, token + 16);
    token += 16;
    const holds = Buffer.compare(runTag(key, pages), tag) === 0;
    references.push({ at: outputBytes, bytes: pages.length * 4104, holds });
    for (const content of pages) record(0x28, content);
  };
  /** The page `older` with the words that the next difference of the payload has. */
  const changed = (older: Uint8Array, bytes: number): Uint8Array => {
    const newer = Uint8Array.from(older);
    let word = payload + 64;
    for (let bit = 0; bit < 512; bit++) {
      if (((body[payload + Math.floor(bit / 8)]! >> (bit % 8)) & 1) === 0) continue;
      newer.set(body.subarray(word, word + 8), bit * 8);
      word += 8;
    }
    payload += bytes;
    if (word !== payload) throw new Error("a difference of another length than its bitmap says");
    return newer;
  };
  while (token < tokenBytes) {
    const head = varint();
    const [kind, count] = [head % 16, Math.floor(head / 16)];
    if (kind !== 0) page += signed();
    if (kind === 0) copy(count);
    else if (kind === 1) for (let i = 0; i < count; i++) record(0x22, Buffer.alloc(1));
    else if (kind === 3) for (let i = 0; i < count; i++) record(0x28, Buffer.alloc(PAGE_BYTES));
    else if (kind === 2) {
      copy(count * 4104);
      page += count;
    } else if (kind === 4 || kind === 5) {
      const source = varint();
      const block = signed() + (`${kind} ${source}` === lastSource ? lastBlock : 0);
      const place = (i: number) => held[kind][source]!.subarray((block + i) * PAGE_BYTES, (block + i + 1) * PAGE_BYTES);
      reference(Array.from({ length: count }, (_, i) => place(i)));
      [lastSource, lastBlock] = [`${kind} ${source}`, block + count];
    } else if (kind === 6) {
      slot += signed();
      reference(slots.slice(slot, slot + count));
      slot += count;
    } else if (kind === 7) {
      slot += signed();
      for (const bytes of Array.from({ length: count }, varint)) {
        slots[slot] = changed(slots[slot]!, bytes);
        record(0x28, slots[slot++]!);
      }
    } else if (kind === 8) {
      slot += signed();
      for (let i = 0; i < count; i++) slots[slot++] = body.slice(payload + i * 4104 + 8, payload + (i + 1) * 4104);
      copy(count * 4104);
      page += count;
    } else throw new Error(`kind ${kind}`);
  }
  if (payload !== body.length) throw new Error("the payload was not used up");
  return { bytes: Buffer.concat(output), references };
}
