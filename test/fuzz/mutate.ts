import type { Random } from "./random.ts";

/** Numbers at which something may go wrong. */
const EDGES = [
  0n,
  1n,
  0x7fn,
  0x80n,
  0xffn,
  0x7fffn,
  0xffffn,
  0x7fff_ffffn,
  0x8000_0000n,
  0xffff_ffffn,
  (1n << 53n) - 1n,
  1n << 53n,
  (1n << 63n) - 1n,
  (1n << 64n) - 1n,
];
const WIDTHS = [1, 2, 4, 8] as const;

/** Real input, changed in a few places; now and then as it was. */
export function mutateBytes(
  input: Uint8Array,
  others: readonly Uint8Array[],
  random: Random,
  maxBytes: number,
): Buffer {
  let bytes: Buffer = Buffer.from(input);
  for (let mutations = random.chance(0.03) ? 0 : 1 + random.small(8); mutations > 0; mutations--) {
    const at = random.below(bytes.length + 1);
    switch (random.below(9)) {
      case 0:
      case 1:
        if (at < bytes.length) bytes[at]! ^= 1 << random.below(8);
        break;
      case 2:
        if (at < bytes.length) bytes[at] = random.uint32();
        break;
      case 3:
        putNumber(bytes, at, random);
        break;
      case 4:
        bytes = Buffer.from(bytes.subarray(0, at)); // cut off
        break;
      case 5:
        bytes = spliced(bytes, at, random.small(300), Buffer.alloc(0));
        break;
      case 6:
        bytes = spliced(bytes, at, 0, random.bytes(random.small(300)));
        break;
      case 7: {
        const other = random.pick(others);
        const from = random.below(other.length + 1);
        const piece = other.subarray(from, from + random.small(other.length + 1));
        bytes = spliced(bytes, at, random.chance(0.5) ? piece.length : 0, piece);
        break;
      }
      default: {
        const piece = bytes.subarray(at, at + random.small(4096));
        bytes = spliced(bytes, random.below(bytes.length + 1), 0, piece); // doubled elsewhere
      }
    }
  }
  return bytes.subarray(0, maxBytes);
}

function spliced(bytes: Buffer, at: number, removed: number, by: Uint8Array): Buffer {
  return Buffer.concat([bytes.subarray(0, at), by, bytes.subarray(at + removed)]);
}

function putNumber(bytes: Buffer, at: number, random: Random): void {
  const width = random.pick(WIDTHS);
  if (at + width > bytes.length) return;
  const edge = random.pick(EDGES) + BigInt(random.below(3) - 1);
  const number = Buffer.alloc(8);
  number.writeBigUInt64LE(BigInt.asUintN(64, edge));
  const low = number.subarray(0, width);
  bytes.set(random.chance(0.5) ? low : Buffer.from(low).reverse(), at);
}

const TEXTS = [
  "",
  "\u0000",
  "\n",
  "\u202e",
  "\ud800",
  "x".repeat(5000),
  "1e999",
  "-0",
  "__proto__",
  "constructor",
  "0x10",
  "९",
  "0".repeat(400),
];
const VALUES: readonly unknown[] = [null, true, false, 0, -1, 0.5, 1e300, 2 ** 53, -(2 ** 53), [], {}, [[]], ...TEXTS];

/** A JSON value changed in a few places; never the one that was given. */
export function mutateJson(value: unknown, random: Random): unknown {
  let root = structuredClone(value);
  for (let mutations = 1 + random.small(4); mutations > 0; mutations--) {
    const places = placesIn(root);
    if (places.length === 0 || random.chance(0.02)) root = random.pick(VALUES);
    else {
      const { holder, key } = random.pick(places);
      mutateAt(holder, key, random);
    }
  }
  return root;
}

type Holder = Record<string, unknown>;

function mutateAt(holder: Holder, key: string, random: Random): void {
  const old = holder[key];
  if (random.chance(0.15)) delete holder[key];
  else if (random.chance(0.1))
    Object.defineProperty(holder, random.pick(TEXTS), {
      value: old,
      enumerable: true,
      configurable: true,
      writable: true,
    });
  else if (typeof old === "number" && random.chance(0.6))
    holder[key] = old + random.pick([-1, 1, 0.5, 2 ** 31, 2 ** 53, -old]);
  else if (typeof old === "string" && random.chance(0.6)) {
    const at = random.below(old.length + 1);
    holder[key] = old.slice(0, at) + random.pick(TEXTS) + old.slice(at + random.below(3));
  } else if (Array.isArray(old) && random.chance(0.5)) holder[key] = longArray(old[0], random);
  else holder[key] = structuredClone(random.pick(VALUES));
}

/** Of one value, again and again; of a large one not as often. */
function longArray(value: unknown, random: Random): unknown[] {
  const bytes = JSON.stringify(value ?? null).length;
  return Array.from({ length: Math.min(random.small(9000), Math.ceil(200_000 / bytes)) }, () => structuredClone(value));
}

function placesIn(value: unknown): { holder: Holder; key: string }[] {
  if (typeof value !== "object" || value === null) return [];
  const holder = value as Holder;
  return Object.keys(holder).flatMap((key) => [{ holder, key }, ...placesIn(holder[key])]);
}
