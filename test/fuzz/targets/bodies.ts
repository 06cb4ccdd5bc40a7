import { BodyDecoder } from "../../../src/compact/decoder.ts";
import { CHECKPOINT, DELTA, DISK, KEPT, RAW, SAME } from "../../../src/compact/limits.ts";
import { PageSlots } from "../../../src/compact/page-slots.ts";
import { createKernels } from "../../../src/migration/kernels.ts";
import { Restorer } from "../../../src/migration/restorer.ts";
import { KIND, PAGE_BYTES, PAGE_RECORD_BYTES, ZERO_RECORD_BYTES } from "../../../src/stream/format.ts";
import { type DataHeader, MAX_BODY_BYTES, MAX_RAW_BYTES, type Message } from "../../../src/wire/messages.ts";
import { blockOf, bodyOf, FakeDisk, Pieces, runTag, TAG_KEY, varints } from "../../unit/support/disk-bodies.ts";
import { goldenStream } from "../../unit/support/golden.ts";
import { noise } from "../../unit/support/pages.ts";
import { decodePlainly, type Held } from "../../unit/support/plain-decoder.ts";
import { roundtrip } from "../../unit/support/roundtrip.ts";
import { mutateBytes } from "../mutate.ts";
import type { Random } from "../random.ts";
import { type FuzzTarget, WrongOutput } from "../target.ts";

const SLOTS = 16;
const BLOCKS = 40;
/** The pages that stand in the first slots of the page cache before each body. */
const KEPT_PAGES = Array.from({ length: 10 }, (_, slot) => noise(slot + 77, PAGE_BYTES));
const PRELUDE = bodyOf([new Pieces().kept(0, 0, KEPT_PAGES)]);
const blocksOfDisk = (disk: number) =>
  Buffer.concat(Array.from({ length: BLOCKS }, (_, block) => blockOf(disk, block)));
const HELD: Held = { 4: [blocksOfDisk(0), blocksOfDisk(1)], 5: [blocksOfDisk(5)] };

/** A body as an input: what its header says in front of it. */
function inputOf(tokenBytes: number, rawBytes: number, body: Uint8Array): Buffer {
  const header = Buffer.alloc(8);
  header.writeUInt32LE(tokenBytes, 0);
  header.writeUInt32LE(rawBytes, 4);
  return Buffer.concat([header, body]);
}

/** The body of an input; undefined for a header that the wire's reader would have refused. */
function bodyIn(input: Uint8Array): { header: DataHeader; body: Uint8Array } | undefined {
  if (input.length < 9 || input.length - 8 > MAX_BODY_BYTES) return undefined;
  const view = new DataView(input.buffer, input.byteOffset);
  const body = input.subarray(8);
  const [tokenBytes, rawBytes] = [view.getUint32(0, true), view.getUint32(4, true)];
  if (tokenBytes > body.length || rawBytes < 1 || rawBytes > MAX_RAW_BYTES) return undefined;
  const sizes = { tokenBytes, rawBytes, bodyBytes: body.length, encodedBytes: body.length };
  return { header: { rawOffset: 0, codec: "none", ...sizes }, body };
}

function seeds(): Buffer[] {
  const inputs: Buffer[] = [];
  for (const name of ["rounds-7.2", "blank-10.0"]) {
    const { bodies, tokenBytes } = roundtrip(goldenStream(name).bytes.subarray(0, 400_000), {
      kernels: true,
      slots: SLOTS,
      cuts: [30_000],
      flushes: true,
    });
    bodies.forEach((body, index) => {
      const { bytes } = decodePlainly(body, tokenBytes[index]!, { 4: [], 5: [] }, TAG_KEY, filledSlots());
      inputs.push(inputOf(tokenBytes[index]!, bytes.length, body));
    });
  }
  return inputs;
}

const filledSlots = () => Array.from({ length: SLOTS }, (_, slot) => KEPT_PAGES[slot] ?? noise(slot, PAGE_BYTES));

/** A body of tokens of all kinds, most of them sound. */
function randomBody(random: Random): Buffer {
  const tokens: Uint8Array[] = [];
  const payload: Uint8Array[] = [];
  let rawBytes = 0;
  for (let left = 1 + random.small(12); left > 0; left--) {
    const kind = random.pick([RAW, KIND.zero, KIND.literal, KIND.blank, DISK, CHECKPOINT, SAME, DELTA, KEPT]);
    const count = 1 + random.small(kind === RAW ? 300 : 6);
    const slot = random.below(SLOTS - 5);
    tokens.push(varints(count * 16 + kind));
    if (kind !== RAW) tokens.push(varints(2 * random.small(2 ** 30)));
    if (kind === DISK || kind === CHECKPOINT) {
      const source = kind === DISK ? random.below(2) : 0;
      const block = random.below(BLOCKS - 6);
      const pages = Array.from({ length: count }, (_, i) => blockOf(kind === DISK ? source : 5, block + i));
      tokens.push(varints(source, 2 * block), random.chance(0.8) ? runTag(TAG_KEY, pages) : random.bytes(16));
    }
    if (kind === SAME || kind === DELTA || kind === KEPT) tokens.push(varints(2 * slot));
    if (kind === SAME) tokens.push(runTag(TAG_KEY, KEPT_PAGES.slice(slot, slot + count)));
    if (kind === DELTA) {
      const words = Array.from({ length: count }, () => random.small(40));
      tokens.push(varints(...words.map((number) => 64 + 8 * number)));
      for (const number of words) payload.push(difference(number, random));
    }
    if (kind === RAW) payload.push(random.bytes(count));
    if (kind === KIND.literal || kind === KEPT) payload.push(noise(count, count * PAGE_RECORD_BYTES));
    rawBytes += kind === RAW ? count : count * (kind === KIND.zero ? ZERO_RECORD_BYTES : PAGE_RECORD_BYTES);
  }
  const tokenBytes = tokens.reduce((sum, token) => sum + token.length, 0);
  return inputOf(tokenBytes, rawBytes, Buffer.concat([...tokens, ...payload]));
}

function difference(words: number, random: Random): Buffer {
  const bytes = Buffer.alloc(64 + 8 * words);
  for (let set = 0; set < words; ) {
    const bit = random.below(512);
    if (((bytes[bit >> 3]! >> (bit & 7)) & 1) === 1) continue;
    bytes[bit >> 3]! |= 1 << (bit & 7);
    set++;
  }
  random.bytes(8 * words).copy(bytes, 64);
  return bytes;
}

/** A body whose tokens are changed, which then often makes another number of bytes. */
function otherBody(all: readonly Uint8Array[], random: Random): Uint8Array {
  const input = random.chance(0.6) ? randomBody(random) : Buffer.from(random.pick(all));
  if (random.chance(0.2)) return mutateBytes(input, all, random, 200_000);
  const tokenBytes = input.readUInt32LE(0);
  const tokens = input.subarray(8, 8 + tokenBytes);
  const mutated = random.chance(0.3) ? tokens : mutateBytes(tokens, [tokens], random, 50_000);
  const rawBytes = Math.max(1, input.readUInt32LE(4) + (random.chance(0.3) ? random.below(9000) - 4500 : 0));
  return inputOf(mutated.length, rawBytes, Buffer.concat([mutated, input.subarray(8 + tokenBytes)]));
}

const GUARD = Buffer.alloc(64, 0xa5);
const kernels = createKernels(MAX_RAW_BYTES + 2 * GUARD.length + 65_536 + PageSlots.memoryBytes(SLOTS));
const OUTPUT = kernels.base + GUARD.length;
const CACHE = kernels.base + MAX_RAW_BYTES + 65_536;

function assertGuards(end: number): void {
  for (const at of [OUTPUT - GUARD.length, end])
    if (!GUARD.equals(kernels.bytes.subarray(at, at + GUARD.length)))
      throw new WrongOutput("it wrote beyond its output");
}

const decoder: FuzzTarget = {
  name: "bodies",
  share: 20,
  refuses: /^FORM_TOKENS$/,
  seeds,
  input: otherBody,
  feed(input) {
    const given = bodyIn(input);
    if (given === undefined) return;
    const { header, body } = given;
    const { bytes: memory } = kernels;
    const decoder = new BodyDecoder(kernels.writer);
    decoder.cache = new PageSlots(kernels.pages, memory, CACHE, SLOTS);
    decoder.diskBlocks = [BLOCKS, BLOCKS];
    decoder.checkpointPages = [BLOCKS];
    decoder.decode(PRELUDE.body, PRELUDE.tokenBytes, PRELUDE.raw.length, memory, OUTPUT);
    const end = OUTPUT + header.rawBytes;
    memory.set(GUARD, OUTPUT - GUARD.length);
    memory.set(GUARD, end);
    const { bytes, placeRuns } = decoder.decode(body, header.tokenBytes, header.rawBytes, memory, OUTPUT);
    assertGuards(end);
    if (bytes.length !== header.rawBytes) throw new WrongOutput("it makes another number of bytes than it says");
    const slots = filledSlots();
    const plain = decodePlainly(body, header.tokenBytes, HELD, TAG_KEY, slots);
    for (const { address, count, kind } of placeRuns) {
      if (kind === SAME) continue; // what stands there is the cache's
      for (let page = 0; page < count; page++) {
        const at = address + page * PAGE_RECORD_BYTES + 8;
        memory.set(plain.bytes.subarray(at - OUTPUT, at - OUTPUT + PAGE_BYTES), at);
      }
    }
    if (!plain.bytes.equals(bytes)) throw new WrongOutput("the plain decoder makes other bytes of it");
    KEPT_PAGES.forEach((_, slot) => {
      const at = CACHE + slot * PAGE_BYTES;
      if (Buffer.compare(slots[slot]!, memory.subarray(at, at + PAGE_BYTES)) !== 0)
        throw new WrongOutput("the plain decoder leaves another page cache");
    });
  },
};

let restorer: Restorer | undefined;
let sent: Message[] = [];

function openRestorer(): Restorer {
  const opened = new Restorer({ cachePages: SLOTS, send: (message) => void sent.push(message), onOwed: () => {} });
  const place = (disk: number) => ({ blocks: BLOCKS, reader: new FakeDisk(disk, BLOCKS) });
  opened.usePlaces({ disks: [place(0), place(1)], checkpoints: [place(5)] }, TAG_KEY, () => {});
  return opened;
}

const references: FuzzTarget = {
  name: "references and repairs",
  share: 5,
  refuses: /^FORM_TOKENS$/,
  seeds: () => [],
  input: (_seeds, random) => otherBody([Buffer.alloc(9)], random),
  async feed(input) {
    const given = bodyIn(input);
    if (given === undefined) return;
    const { header, body } = given;
    restorer ??= openRestorer();
    sent = [];
    restorer.useCache(SLOTS);
    const output = restorer.takeOutput()!;
    try {
      await restorer.restore({ ...header, ...sizesOf(PRELUDE) }, PRELUDE.body, output);
      const restored = restorer.restore(header, body, output);
      const plain = decodePlainly(body, header.tokenBytes, HELD, TAG_KEY, filledSlots());
      const wrong = plain.references.filter(({ holds }) => !holds);
      // What is asked for is known once all has been read.
      for (let turn = 0; turn < 1000 && sent.length < wrong.length; turn++) await new Promise(setImmediate);
      const asked = sent.map((message) => (message.type === "NACK" ? message.rawOffset : -1)).sort((a, b) => a - b);
      if (asked.join() !== wrong.map(({ at }) => at).join())
        throw new WrongOutput("it asks for other ranges than those that do not hold");
      for (const { at, bytes } of wrong) {
        restorer.onRepair({ rawOffset: at, rawBytes: bytes }).set(plain.bytes.subarray(at, at + bytes));
        restorer.onRepairComplete();
      }
      const bytes = await restored;
      if (bytes === undefined || !plain.bytes.equals(bytes))
        throw new WrongOutput("the plain decoder makes other bytes of it");
    } finally {
      restorer.releaseOutput(output);
    }
  },
};

function sizesOf({ body, tokenBytes, raw }: ReturnType<typeof bodyOf>) {
  return { tokenBytes, rawBytes: raw.length, bodyBytes: body.length, encodedBytes: body.length };
}

export const BODY_TARGETS = [decoder, references];
