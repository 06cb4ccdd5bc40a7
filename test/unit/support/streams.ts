import fc from "fast-check";
import { PAGE_BYTES, RAM_FLAG, SECTION } from "../../../src/stream/format.ts";

/** Builds migration streams by hand, for cases that a real QEMU does not write on demand. */
export class StreamBuilder {
  readonly #parts: Uint8Array[] = [];

  header(machine = "pc-q35-10.0"): this {
    return this.bytes(Buffer.from("QEVM")).u32(3).u8(SECTION.configuration).u32(machine.length).text(machine);
  }
  u8(value: number): this {
    return this.bytes(Uint8Array.of(value));
  }
  u16(value: number): this {
    const part = Buffer.alloc(2);
    part.writeUInt16BE(value);
    return this.bytes(part);
  }
  u32(value: number): this {
    const part = Buffer.alloc(4);
    part.writeUInt32BE(value);
    return this.bytes(part);
  }
  u64(value: number): this {
    const part = Buffer.alloc(8);
    part.writeBigUInt64BE(BigInt(value));
    return this.bytes(part);
  }
  text(value: string): this {
    return this.bytes(Buffer.from(value, "latin1"));
  }
  name(value: string): this {
    return this.u8(value.length).text(value);
  }
  bytes(part: Uint8Array): this {
    this.#parts.push(part);
    return this;
  }
  start(id: number, name: string, kind: "start" | "full" = "start", version = 4): this {
    return this.u8(SECTION[kind]).u32(id).name(name).u32(0).u32(version);
  }
  part(id: number, kind: "part" | "end" = "part"): this {
    return this.u8(SECTION[kind]).u32(id);
  }
  footer(id: number): this {
    return this.u8(SECTION.footer).u32(id);
  }
  eos(): this {
    return this.u64(RAM_FLAG.eos);
  }
  ramStart(id: number, blocks: Record<string, number>): this {
    this.start(id, "ram");
    this.u64(Object.values(blocks).reduce((sum, bytes) => sum + bytes, 0) + RAM_FLAG.memSize);
    for (const [name, bytes] of Object.entries(blocks)) this.name(name).u64(bytes);
    return this.eos().footer(id);
  }
  /** A zero page; with `block`, the record names it. */
  zero(page: number, block?: string, fill = 0): this {
    this.u64(page * PAGE_BYTES + RAM_FLAG.zero + (block === undefined ? RAM_FLAG.continue : 0));
    if (block !== undefined) this.name(block);
    return this.u8(fill);
  }
  page(page: number, content: Uint8Array, block?: string): this {
    this.u64(page * PAGE_BYTES + RAM_FLAG.page + (block === undefined ? RAM_FLAG.continue : 0));
    if (block !== undefined) this.name(block);
    return this.bytes(content);
  }
  build(): Buffer {
    return Buffer.concat(this.#parts);
  }
}

/** A page of one byte, repeated. */
export function filled(byte: number): Uint8Array {
  return new Uint8Array(PAGE_BYTES).fill(byte);
}

type Step = (builder: StreamBuilder) => void;

const record: fc.Arbitrary<Step> = fc.oneof(
  fc.tuple(fc.nat(40), fc.nat(20)).map(([page, count]) => (b: StreamBuilder) => {
    for (let i = 0; i <= count; i++) b.zero(page + i);
  }),
  fc.tuple(fc.nat(40), fc.nat(3), fc.nat(2)).map(([page, count, byte]) => (b: StreamBuilder) => {
    for (let i = 0; i <= count; i++) b.page(page + i, filled(byte));
  }),
  fc.nat(40).map((page) => (b: StreamBuilder) => b.page(page, filled(7), "pc.ram")),
  fc.nat(40).map((page) => (b: StreamBuilder) => b.zero(page, "vga.vram")),
  fc.nat(40).map((page) => (b: StreamBuilder) => b.zero(page, undefined, 3)),
  fc.uint8Array({ maxLength: 40 }).map(
    (difference) => (b: StreamBuilder) =>
      b
        .u64(RAM_FLAG.xbzrle | RAM_FLAG.continue)
        .u8(1)
        .u16(difference.length)
        .bytes(difference),
  ),
);

/** Streams that are like QEMU's: several sections, RAM in parts, unknown sections between them, device state behind. */
export const streams: fc.Arbitrary<Buffer> = fc
  .tuple(
    fc.array(fc.tuple(fc.array(record, { maxLength: 12 }), fc.option(fc.uint8Array({ maxLength: 300 }))), {
      maxLength: 5,
    }),
    fc.uint8Array({ maxLength: 600 }),
  )
  .map(([parts, device]) => {
    const builder = new StreamBuilder().header().ramStart(2, { "pc.ram": 1 << 24, "vga.vram": 1 << 20 });
    builder
      .start(3, "dirty-bitmap")
      .bytes(Uint8Array.of(1, 2, 3))
      .footer(3);
    for (const [records, foreign] of parts) {
      builder.part(2);
      for (const step of records) step(builder);
      builder.eos().footer(2);
      if (foreign !== null) builder.part(3).bytes(foreign).footer(3);
    }
    builder.part(2, "end").eos().footer(2);
    builder.start(4, "timer", "full").bytes(device).footer(4);
    return builder.u8(SECTION.eof).build();
  });

/** A stream with some bytes overwritten, taken out or put in. */
export const mutated: fc.Arbitrary<Buffer> = fc
  .tuple(
    streams,
    fc.array(fc.tuple(fc.nat(), fc.constantFrom("set", "cut", "insert"), fc.uint8Array({ maxLength: 9 })), {
      maxLength: 6,
    }),
  )
  .map(([stream, mutations]) => {
    let bytes = stream;
    for (const [where, how, by] of mutations) {
      const at = where % (bytes.length + 1);
      const skipped = how === "insert" ? 0 : by.length;
      bytes = Buffer.concat([
        bytes.subarray(0, at),
        how === "cut" ? Buffer.alloc(0) : by,
        bytes.subarray(at + skipped),
      ]);
    }
    return bytes;
  });
