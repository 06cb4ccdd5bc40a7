import { GodwitError } from "../errors.ts";

/** Below this a migration would not end in a lifetime: more likely a unit was forgotten. */
const MIN_BYTES_PER_SECOND = 125_000; // 1 Mbit/s
const MAX_BYTES_PER_SECOND = 2 ** 40;

/** K, M, G are powers of 1024, as in QEMU's own sizes; kB, MB, GB and bits are powers of 1000, as in tc(8). */
const BYTES_PER_SECOND: Readonly<Record<string, number>> = {
  "": 1,
  ...units(["K", "k", "KiB"], 2 ** 10),
  ...units(["M", "m", "MiB"], 2 ** 20),
  ...units(["G", "g", "GiB"], 2 ** 30),
  ...units(["kB", "KB"], 1e3),
  MB: 1e6,
  GB: 1e9,
  ...units(["kbit", "Kbit"], 1e3 / 8),
  ...units(["mbit", "Mbit"], 1e6 / 8),
  ...units(["gbit", "Gbit"], 1e9 / 8),
};

/**
 * Reads a rate: `62500000` (bytes per second), `60M` or `60MiB`, `62.5MB`, `500Mbit`; `/s` may follow.
 *
 * `Mb` is refused: some mean bits by it, some bytes.
 *
 * @returns bytes per second
 * @throws CLI_BAD_RATE
 */
export function parseRate(text: string): number {
  const [, number, unit = ""] = /^(\d+(?:\.\d+)?) ?([A-Za-z]*)(?:\/s)?$/.exec(text) ?? [];
  const factor = Object.hasOwn(BYTES_PER_SECOND, unit) ? BYTES_PER_SECOND[unit] : undefined;
  if (number === undefined || factor === undefined) {
    throw bad(text, "is no rate: write bytes per second (60000000), or a unit (60M, 60MB, 500Mbit)");
  }
  const bytesPerSecond = Math.round(Number(number) * factor);
  if (bytesPerSecond < MIN_BYTES_PER_SECOND) {
    throw bad(text, "is less than 1Mbit, the least that is allowed: a plain number is bytes per second");
  }
  if (bytesPerSecond > MAX_BYTES_PER_SECOND) throw bad(text, "is more than 1024G, the most that is allowed");
  return bytesPerSecond;
}

function units(names: readonly string[], factor: number): Record<string, number> {
  return Object.fromEntries(names.map((name) => [name, factor]));
}

function bad(text: string, what: string): GodwitError {
  return new GodwitError("CLI_BAD_RATE", `the rate ${JSON.stringify(text)} ${what}`, { text });
}
