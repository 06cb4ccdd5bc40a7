import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { formatPskFile, generatePsk, readPskFile } from "../../src/wire/psk.ts";

let folder: string;
let path: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "godwit-psk-"));
  path = join(folder, "migration.key");
});

afterEach(() => {
  rmSync(folder, { recursive: true });
});

test("a generated key is read back", () => {
  const psk = generatePsk();
  expect(psk.identity).toBe("godwit");
  expect(psk.key).toHaveLength(32);
  expect(generatePsk().key).not.toEqual(psk.key);
  expect(formatPskFile(psk)).toMatch(/^godwit:[0-9a-f]{64}\n$/);
  writeFileSync(path, formatPskFile(psk), { mode: 0o600 });
  expect(readPskFile(path)).toEqual(psk);
});

test("a missing key file, and a folder", () => {
  expect(() => readPskFile(path)).toThrow(
    expect.objectContaining({ code: "WIRE_PSK_MISSING", message: expect.stringContaining(path) }),
  );
  expect(() => readPskFile(folder)).toThrow(expect.objectContaining({ code: expect.stringMatching(/^WIRE_PSK_/) }));
});

test.each([0o640, 0o604, 0o620, 0o777])("mode %o is refused", (mode) => {
  writeFileSync(path, formatPskFile(generatePsk()));
  chmodSync(path, mode);
  expect(() => readPskFile(path)).toThrow(
    expect.objectContaining({ code: "WIRE_PSK_PERMISSIONS", message: expect.stringContaining(path) }),
  );
});

const hex = "5ec3e75ec3e75ec3e75ec3e75ec3e75e";

test.each([
  ["empty", ""],
  ["no identity", `:${hex}`],
  ["no key", "godwit:"],
  ["half a byte", `godwit:${hex}5`],
  ["not hex", `godwit:${hex}xy`],
  ["too short", `godwit:${hex.slice(2)}`],
  ["too long", `godwit:${hex.repeat(4)}00`],
  ["two lines", `godwit:${hex}\nother:${hex}\n`],
  ["a big file", `godwit:${hex.repeat(1000)}`],
])("%s is no key file, and the error doesn't show the key", (_, text) => {
  writeFileSync(path, text, { mode: 0o600 });
  let thrown: unknown;
  try {
    readPskFile(path);
  } catch (error) {
    thrown = error;
  }
  expect(thrown).toMatchObject({ code: "WIRE_PSK_FORMAT" });
  expect(JSON.stringify(thrown) + String(thrown)).not.toMatch(/5ec3e7/);
});
