import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { GodwitError } from "../../src/errors.ts";
import {
  GREETING_BYTES,
  HEADER_BYTES,
  MAX_BODY_BYTES,
  MAX_OPTIONAL_BYTES,
  MAX_REPAIR_BYTES,
  SHAPES,
} from "../../src/wire/messages.ts";
import { MessageReader } from "../../src/wire/reader.ts";
import { anyMessage, collector, data, encode, exchange, repair } from "./wire-fixtures.ts";

function header(code: number, payloadBytes: number, flags = 0, reserved = 0): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint8(0, code);
  view.setUint8(1, flags);
  view.setUint16(2, reserved, true);
  view.setUint32(4, payloadBytes, true);
  return bytes;
}

function codeOf(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    if (error instanceof GodwitError) return error.code;
    throw error;
  }
  return "nothing";
}

const wire = Buffer.concat(exchange.map(encode));

describe("round trip", () => {
  test("of every message, in one chunk", () => {
    const { messages, reader } = collector();
    expect(reader.push(wire)).toBe(true);
    expect(messages).toEqual(exchange);
    expect(reader.wireBytes).toBe(wire.length);
  });

  test("a byte at a time", () => {
    const { messages, reader } = collector();
    for (const byte of wire) reader.push(Uint8Array.of(byte));
    expect(messages).toEqual(exchange);
    expect(reader.wireBytes).toBe(wire.length);
  });

  test("with every single cut", () => {
    for (let cut = 0; cut <= wire.length; cut++) {
      const { messages, reader } = collector();
      reader.push(wire.subarray(0, cut));
      reader.push(wire.subarray(cut));
      expect(messages).toEqual(exchange);
    }
  });

  test("of any messages, cut anywhere, with room only now and then", () => {
    fc.assert(
      fc.property(
        fc.array(anyMessage, { maxLength: 8 }),
        fc.array(fc.integer({ min: 1, max: 300 }), { minLength: 1 }),
        fc.infiniteStream(fc.boolean()),
        (sent, cuts, room) => {
          const { messages, reader } = collector(() => room.next().value === true);
          const bytes = Buffer.concat(sent.map(encode));
          for (let at = 0, i = 0; at < bytes.length; i++) {
            const cut = cuts[i % cuts.length] ?? 1;
            let taken = reader.push(bytes.subarray(at, at + cut));
            while (!taken) taken = reader.resume();
            at += cut;
          }
          while (reader.waiting) reader.resume();
          expect(messages).toEqual(sent);
          expect(reader.wireBytes).toBe(bytes.length);
        },
      ),
    );
  });

  test("unknown optional messages are skipped", () => {
    const { messages, reader } = collector();
    const skipped = Buffer.concat([
      header(0x80, 0),
      header(0xff, MAX_OPTIONAL_BYTES),
      Buffer.alloc(MAX_OPTIONAL_BYTES),
    ]);
    reader.push(Buffer.concat([skipped, wire.subarray(0, 7)]));
    reader.push(wire.subarray(7));
    expect(messages).toEqual(exchange);
  });
});

describe("room", () => {
  test("without room the reader stops, takes no more, and goes on where it stood", () => {
    let free = 0;
    const first = data({ rawOffset: 0, rawBytes: 1, tokenBytes: 0, codec: "none" }, [1, 2, 3]);
    const second = data({ rawOffset: 1, rawBytes: 1, tokenBytes: 0, codec: "none" }, [4]);
    const { messages, reader } = collector(() => free-- > 0);
    const bytes = Buffer.concat([encode(first), encode(second)]);
    expect(reader.push(bytes)).toBe(false);
    expect(reader.waiting).toBe(true);
    expect(() => reader.push(bytes)).toThrow("waiting for room");
    expect(reader.resume()).toBe(false);
    expect(messages).toEqual([]);
    free = 1;
    expect(reader.resume()).toBe(false);
    expect(messages).toEqual([first]);
    free = 1;
    expect(reader.resume()).toBe(true);
    expect(messages).toEqual([first, second]);
  });

  test("bodies go straight into shared memory", () => {
    const memory = new Uint8Array(new SharedArrayBuffer(64));
    const reader = new MessageReader({
      onMessage: () => {},
      onData: ({ encodedBytes }) => memory.subarray(8, 8 + encodedBytes),
      onDataComplete: () => {},
      onRepair: ({ rawBytes }) => memory.subarray(20, 20 + rawBytes),
      onRepairComplete: () => {},
    });
    reader.push(encode(data({ rawOffset: 0, rawBytes: 1, tokenBytes: 0, codec: "none" }, [1, 2, 3])));
    reader.push(encode(repair(0, [4, 5])));
    expect([...memory.subarray(7, 12)]).toEqual([0, 1, 2, 3, 0]);
    expect([...memory.subarray(19, 23)]).toEqual([0, 4, 5, 0]);
  });
});

describe("bad input", () => {
  const push = (...parts: Uint8Array[]) => codeOf(() => collector().reader.push(Buffer.concat(parts)));
  const json = (text: string) => Buffer.from(text);

  test.each(Object.entries(SHAPES))("%s is refused by its length, from the header alone", (_, shape) => {
    expect(push(header(shape.code, shape.maxBytes + 1))).toBe("WIRE_TOO_LONG");
    expect(push(header(shape.code, 0xffff_ffff))).toBe("WIRE_TOO_LONG");
    if (shape.minBytes > 0) expect(push(header(shape.code, shape.minBytes - 1))).toBe("WIRE_BAD_MESSAGE");
  });

  test("headers", () => {
    expect(push(header(SHAPES.SWITCHOVER.code, 0, 1))).toBe("WIRE_BAD_HEADER");
    expect(push(header(SHAPES.SWITCHOVER.code, 0, 0, 1))).toBe("WIRE_BAD_HEADER");
    expect(push(header(0x1c, 0))).toBe("WIRE_UNKNOWN_MESSAGE");
    expect(push(header(0x7f, 0))).toBe("WIRE_UNKNOWN_MESSAGE");
    expect(push(header(0x80, MAX_OPTIONAL_BYTES + 1))).toBe("WIRE_TOO_LONG");
    expect(push(json("GET / HTTP/1.1\r\n"))).toBe("WIRE_BAD_HEADER");
  });

  test("another protocol, another version", () => {
    const hello = Buffer.from(encode(exchange[0]!));
    const other = Buffer.from(hello);
    other.write("GDWX", HEADER_BYTES);
    expect(() => collector().reader.push(other)).toThrow("the peer does not speak godwit's protocol");
    const next = Buffer.from(hello);
    next.writeUInt16LE(2, HEADER_BYTES + 4);
    expect(() => collector().reader.push(next)).toThrow(
      "the source speaks version 2.3 of the protocol, the destination 1.3: update godwit at the destination",
    );
    const minor = Buffer.from(hello);
    minor.writeUInt16LE(7, HEADER_BYTES + 6);
    expect(push(minor)).toBe("nothing");
  });

  test("an older version: which side to update is said before anything of it is read", () => {
    const welcome = header(SHAPES.WELCOME.code, GREETING_BYTES + 2);
    const old = Buffer.from("GDWT\x01\0\x01\0{}", "latin1");
    expect(() => collector().reader.push(Buffer.concat([welcome, old]))).toThrow(
      "the destination speaks version 1.1 of the protocol, the source 1.3: update godwit at the destination",
    );
  });

  test.each([
    ["offsets beyond 2^53", (b: Buffer) => b.writeBigUInt64LE(1n << 53n, 0)],
    ["no raw bytes", (b: Buffer) => b.writeUInt32LE(0, 8)],
    ["too many raw bytes", (b: Buffer) => b.writeUInt32LE((4 << 20) + 1, 8)],
    ["too long a body", (b: Buffer) => b.writeUInt32LE(MAX_BODY_BYTES + 1, 12)],
    ["more tokens than body", (b: Buffer) => b.writeUInt32LE(6, 16)],
    ["an unknown codec", (b: Buffer) => b.writeUInt8(3, 20)],
    ["reserved bytes", (b: Buffer) => b.writeUInt8(1, 23)],
    ["a plain body of another length", (b: Buffer) => b.writeUInt32LE(6, 12)],
  ])("DATA with %s", (_, spoil) => {
    const bytes = Buffer.from(
      encode(data({ rawOffset: 0, rawBytes: 1, tokenBytes: 5, codec: "none" }, [1, 2, 3, 4, 5])),
    );
    expect(push(bytes)).toBe("nothing");
    spoil(bytes.subarray(HEADER_BYTES));
    expect(push(bytes)).toBe("WIRE_BAD_MESSAGE");
  });

  test.each([
    ["an offset beyond 2^53", (b: Buffer) => b.writeBigUInt64LE((1n << 53n) - 5n, 0)],
    ["no bytes", (b: Buffer) => b.writeUInt32LE(0, 8)],
    ["fewer bytes than it says", (b: Buffer) => b.writeUInt32LE(6, 8)],
    ["too many bytes", (b: Buffer) => b.writeUInt32LE(MAX_REPAIR_BYTES + 1, 8)],
  ])("REPAIR with %s", (_, spoil) => {
    const bytes = Buffer.from(encode(repair(0, [1, 2, 3, 4, 5])));
    expect(push(bytes)).toBe("nothing");
    spoil(bytes.subarray(HEADER_BYTES));
    expect(push(bytes)).toBe("WIRE_BAD_MESSAGE");
  });

  test("a NACK of nothing, or of more than one run", () => {
    const bytes = Buffer.from(encode({ type: "NACK", rawOffset: 0, rawBytes: MAX_REPAIR_BYTES }));
    expect(push(bytes)).toBe("nothing");
    for (const rawBytes of [0, MAX_REPAIR_BYTES + 1]) {
      bytes.writeUInt32LE(rawBytes, HEADER_BYTES + 8);
      expect(push(bytes)).toBe("WIRE_BAD_MESSAGE");
    }
  });

  test.each([
    ["ABORT", "{"],
    ["ABORT", "[]"],
    ["ABORT", '{"code":"a b","message":""}'],
    ["ABORT", '{"code":"A","message":7}'],
    ["ABORT", "\xff\xff"],
    ["LOADED", '{"loadMs":-1,"rawBytes":0}'],
    ["LOADED", '{"loadMs":1,"rawBytes":9007199254740992}'],
    ["RUNNING", '{"resumeMs":"1"}'],
    ["RUNNING", "[".repeat(60_000)],
    ["REFUSE", `{"code":"A","message":"","details":{"deep":${"[".repeat(32)}${"]".repeat(32)}}}`],
  ] as const)("%s with %s", (type, text) => {
    const payload = Buffer.from(text, "latin1");
    expect(push(header(SHAPES[type].code, payload.length), payload)).toBe("WIRE_BAD_MESSAGE");
  });

  test("a peer's text can't steer a terminal", () => {
    const { messages, reader } = collector();
    reader.push(encode({ type: "ABORT", code: "A", message: "\u001b[2Jgone\r\n\u009b" }));
    expect(messages).toEqual([{ type: "ABORT", code: "A", message: " [2Jgone   " }]);
  });

  test("long texts are clipped, other long messages are an error of the sending side", () => {
    const { messages, reader } = collector();
    reader.push(encode({ type: "ABORT", code: "A", message: "x".repeat(100_000) }));
    expect(messages[0]).toMatchObject({ message: "x".repeat(4096) });
    const details = { text: "x".repeat(70_000) };
    expect(codeOf(() => encode({ type: "REFUSE", code: "A", message: "", details }))).toBe("WIRE_TOO_LONG");
  });

  test("after an error, also one of the handler, nothing more is taken", () => {
    const { messages, reader } = collector();
    expect(codeOf(() => reader.push(header(0x7f, 0)))).toBe("WIRE_UNKNOWN_MESSAGE");
    expect(codeOf(() => reader.push(wire))).toBe("WIRE_UNKNOWN_MESSAGE");
    expect(codeOf(() => reader.resume())).toBe("WIRE_UNKNOWN_MESSAGE");
    expect(messages).toEqual([]);
    const picky = new MessageReader({
      onMessage: () => {
        throw new GodwitError("WIRE_OUT_OF_ORDER", "no");
      },
      onData: () => null,
      onDataComplete: () => {},
      onRepair: () => new Uint8Array(0),
      onRepairComplete: () => {},
    });
    expect(codeOf(() => picky.push(wire))).toBe("WIRE_OUT_OF_ORDER");
    expect(codeOf(() => picky.push(wire))).toBe("WIRE_OUT_OF_ORDER");
  });

  test("garbage and spoilt messages give GodwitErrors, and never ask for more room than the limit", () => {
    const spoilt = fc
      .tuple(
        fc.array(anyMessage, { minLength: 1, maxLength: 4 }),
        fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 4 }),
      )
      .map(([messages, changes]) => {
        const bytes = Buffer.concat(messages.map(encode));
        for (const [at, value] of changes) bytes[at % bytes.length] = value;
        return bytes;
      });
    fc.assert(
      fc.property(
        fc.oneof(fc.uint8Array({ maxLength: 2000 }), spoilt),
        fc.integer({ min: 1, max: 100 }),
        (bytes, cut) => {
          const reader = new MessageReader({
            onMessage: () => {},
            onData: ({ encodedBytes, rawBytes, bodyBytes }) => {
              expect(encodedBytes).toBeLessThanOrEqual(MAX_BODY_BYTES);
              expect(bodyBytes).toBeLessThanOrEqual(MAX_BODY_BYTES);
              expect(rawBytes).toBeLessThanOrEqual(4 << 20);
              return new Uint8Array(encodedBytes);
            },
            onDataComplete: () => {},
            onRepair: ({ rawBytes }) => {
              expect(rawBytes).toBeLessThanOrEqual(MAX_REPAIR_BYTES);
              return new Uint8Array(rawBytes);
            },
            onRepairComplete: () => {},
          });
          codeOf(() => {
            for (let at = 0; at < bytes.length; at += cut) reader.push(bytes.subarray(at, at + cut));
          });
        },
      ),
      { numRuns: 500 },
    );
  });
});
