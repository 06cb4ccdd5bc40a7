import { GodwitError } from "../errors.ts";

/** As QEMU's sizes: powers of 1024. Powers of 1000 where the unit says so. */
const BYTES: Readonly<Record<string, number>> = {
  "": 1,
  K: 2 ** 10,
  KiB: 2 ** 10,
  M: 2 ** 20,
  MiB: 2 ** 20,
  G: 2 ** 30,
  GiB: 2 ** 30,
  T: 2 ** 40,
  TiB: 2 ** 40,
  kB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
};

/**
 * Reads a size: `21474836480` (bytes), `20G` or `20GiB`, `20GB`.
 *
 * @returns bytes
 * @throws CLI_BAD_SIZE
 */
export function parseSize(text: string): number {
  const [, number, unit = ""] = /^(\d+(?:\.\d+)?) ?([A-Za-z]*)$/.exec(text) ?? [];
  const factor = Object.hasOwn(BYTES, unit) ? BYTES[unit] : undefined;
  const bytes = Math.round(Number(number) * (factor ?? Number.NaN));
  if (Number.isSafeInteger(bytes)) return bytes;
  const message = `the size ${JSON.stringify(text)} is none: write bytes, or a unit (20G, 20GiB, 20GB)`;
  throw new GodwitError("CLI_BAD_SIZE", message, { text });
}
