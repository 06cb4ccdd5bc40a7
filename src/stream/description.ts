/** A description read is at most so long; that of a VM of 300 CPUs is about 3 MB. */
const MAX_DESCRIPTION_BYTES = 16 * 1024 * 1024;

/** The VM description at the end of a stream, and how it fits the sections found. */
export interface DescriptionReport {
  /** The JSON document, without its header. */
  bytes: number;
  state: "read" | "cut off" | "too long" | "malformed";
  /** Devices it describes. */
  devices: number;
  /** Devices described of which no section was found, as NAME/INSTANCE. */
  notFound: string[];
  /** Device sections found that it does not describe, as NAME/INSTANCE. */
  notDescribed: string[];
}

/** Collects the VM description: the JSON document that QEMU appends (QEMU migration/savevm.c, vmdesc). */
export class DescriptionCollector {
  readonly #bytes: number;
  #left: number;
  #parts: Uint8Array[] = [];

  /** @param headerBytes bytes of its header, which come first. */
  constructor(headerBytes: number, bytes: number) {
    this.#bytes = bytes;
    this.#left = headerBytes + bytes;
  }

  /** The next bytes of header and document; they are copied. */
  push(bytes: Uint8Array): void {
    if (this.#bytes <= MAX_DESCRIPTION_BYTES) this.#parts.push(bytes.slice(0, this.#left));
    this.#left -= Math.min(bytes.length, this.#left);
  }

  get isWhole(): boolean {
    return this.#left === 0;
  }

  /** @param found the device sections of the stream, as NAME/INSTANCE. */
  report(found: readonly string[]): DescriptionReport {
    const described = this.#devices();
    const isRead = Array.isArray(described);
    return {
      bytes: this.#bytes,
      state: isRead ? "read" : described,
      devices: isRead ? described.length : 0,
      notFound: isRead ? difference(described, found) : [],
      notDescribed: isRead ? difference(found, described) : [],
    };
  }

  #devices(): string[] | Exclude<DescriptionReport["state"], "read"> {
    if (!this.isWhole) return "cut off";
    if (this.#bytes > MAX_DESCRIPTION_BYTES) return "too long";
    try {
      const text = Buffer.concat(this.#parts).subarray(-this.#bytes).toString("utf8");
      const { devices } = JSON.parse(text) as { devices: { name: string; instance_id: number }[] };
      return devices.map(({ name, instance_id }) => sectionKey(name, instance_id));
    } catch {
      return "malformed";
    }
  }
}

/** How a device's section is named in reports. */
export function sectionKey(name: string, instance: number): string {
  return `${name}/${instance}`;
}

/** What `all` holds more often than `others`. */
function difference(all: readonly string[], others: readonly string[]): string[] {
  const left = new Map<string, number>();
  for (const other of others) left.set(other, (left.get(other) ?? 0) + 1);
  return all.filter((one) => {
    const count = left.get(one) ?? 0;
    left.set(one, count - 1);
    return count <= 0;
  });
}
