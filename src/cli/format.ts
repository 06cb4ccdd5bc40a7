/** Numbers as people read them. */

const SIZE_UNITS = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"] as const;
const BIT_RATE_UNITS = ["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"] as const;
const BYTE_RATE_UNITS = ["B/s", "kB/s", "MB/s", "GB/s", "TB/s"] as const;

/** `1536` → `1.50 KiB`; powers of 1024, as memory and disks are counted. */
export function formatBytes(bytes: number): string {
  return scaled(bytes, 1024, SIZE_UNITS);
}

/** Rates of a link, from bytes per second: `62500000` → `500 Mbit/s`; powers of 1000, as links are sold. */
export function formatLinkRate(bytesPerSecond: number): string {
  return scaled(bytesPerSecond * 8, 1000, BIT_RATE_UNITS);
}

/** Rates of memory: `1.2e9` → `1.20 GB/s`. */
export function formatByteRate(bytesPerSecond: number): string {
  return scaled(bytesPerSecond, 1000, BYTE_RATE_UNITS);
}

/** `12345` → `12,345`. */
export function formatCount(count: number): string {
  return Math.round(count).toLocaleString("en-US");
}

/** `8.4` → `8.4 ms`, `12345` → `12.3 s`, `754000` → `12 min 34 s`. */
export function formatDuration(ms: number): string {
  if (ms < 9.95) return `${ms.toFixed(1)} ms`;
  if (ms < 999.5) return `${Math.round(ms)} ms`;
  if (ms < 59_950) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

/** A moment in the time zone of the machine: `2026-11-22 16:55`. */
export function formatTime(ms: number): string {
  return new Date(ms).toLocaleString("sv-SE", { dateStyle: "short", timeStyle: "short" });
}

/** What is left to wait for, without false precision: `8.4 s` → `about 8 s`. */
export function formatWait(ms: number): string {
  const seconds = Math.round(ms / 1000);
  if (ms < 1000) return "less than 1 s";
  return `about ${seconds < 60 ? `${seconds} s` : formatDuration(seconds * 1000)}`;
}

/** One line without control characters or characters that reorder text: messages quote QEMU, peers and paths. */
export function oneLine(text: string): string {
  return text.replace(/[\p{Cc}\p{Bidi_Control}\u2028\u2029]+/gu, " ").trim();
}

/** Three digits or so, in the largest unit that leaves at least 1. */
function scaled(value: number, base: number, units: readonly string[]): string {
  let size = Math.max(0, value);
  let unit = 0;
  // 999.5 would be printed as 1000.
  while (size >= Math.min(base, 999.5) && unit < units.length - 1) {
    size /= base;
    unit++;
  }
  const digits = unit === 0 || size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2;
  return `${size.toFixed(digits)} ${units[unit]}`;
}
