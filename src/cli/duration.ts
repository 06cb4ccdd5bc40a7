import { GodwitError } from "../errors.ts";

const MS: Readonly<Record<string, number>> = { ms: 1, s: 1000, min: 60_000, h: 3_600_000 };

/**
 * Reads a time: `500` in the unit that is the option's own, or `500ms`, `1.5s`, `10min`, `2h`.
 *
 * @returns milliseconds
 * @throws CLI_BAD_DURATION
 */
export function parseDuration(text: string, ownUnit: "ms" | "s"): number {
  const [, number, unit = ""] = /^(\d+(?:\.\d+)?) ?([a-z]*)$/.exec(text) ?? [];
  const factor = unit === "" ? MS[ownUnit] : Object.hasOwn(MS, unit) ? MS[unit] : undefined;
  const ms = Number(number) * (factor ?? Number.NaN);
  if (Number.isFinite(ms)) return ms;
  const example = ownUnit === "ms" ? "500, 500ms, 1.5s" : "90, 90s, 10min, 2h";
  const message = `the time ${JSON.stringify(text)} is none: write ${example}; a plain number is in ${ownUnit}`;
  throw new GodwitError("CLI_BAD_DURATION", message, { text });
}
