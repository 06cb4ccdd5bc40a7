/** What QEMU's stream is written in: big-endian numbers and counted names. The caller knows how far its bytes reach. */

/** qemu_get_counted_string: a byte of length, then the name. */
const MAX_NAME_BYTES = 255;

/** A name behind a byte of length; undefined when it is cut off. Latin-1, so that its length is its bytes. */
export function name8(view: DataView, at: number, end: number): string | undefined {
  if (end - at < 1) return undefined;
  const bytes = view.getUint8(at);
  return end - at < 1 + bytes ? undefined : latin1(view, at + 1, bytes);
}

/** A name behind a u32 of length; undefined when it is cut off, null when it is too long to be one. */
export function name32(view: DataView, at: number, end: number): string | undefined | null {
  if (end - at < 4) return undefined;
  const bytes = view.getUint32(at);
  if (bytes > MAX_NAME_BYTES) return null;
  return end - at < 4 + bytes ? undefined : latin1(view, at + 4, bytes);
}

/** A u64 as a number; above 2^53 it is not exact, and compares unequal or too large to what is looked for. */
export function u64(view: DataView, at: number): number {
  return view.getUint32(at) * 2 ** 32 + view.getUint32(at + 4);
}

/** Whether a name can be one that QEMU gave. */
export function isPrintable(name: string): boolean {
  return /^[\x20-\x7e]+$/.test(name);
}

function latin1(view: DataView, at: number, bytes: number): string {
  return String.fromCharCode(...new Uint8Array(view.buffer, view.byteOffset + at, bytes));
}
