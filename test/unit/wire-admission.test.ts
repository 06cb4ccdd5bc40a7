import { expect, test } from "vitest";
import { Admission, networkOf } from "../../src/wire/admission.ts";

const enter = (admission: Admission<string>, connection: string, address: string, nowMs: number) =>
  admission.enter(connection, address, nowMs);

test("where one network has too many unfinished handshakes, its oldest makes room", () => {
  const admission = new Admission<string>();
  for (let i = 0; i < 8; i++) expect(enter(admission, `a${i}`, "10.0.0.1", 0)).toEqual([]);
  expect(enter(admission, "other", "10.0.0.2", 0)).toEqual([]);
  expect(enter(admission, "a8", "10.0.0.1", 0)).toEqual(["a0"]);
  admission.leave("a0");
  expect(enter(admission, "a9", "10.0.0.1", 0)).toEqual(["a1"]);
  admission.leave("a1");
  admission.leave("a2");
  expect(enter(admission, "a10", "10.0.0.1", 0)).toEqual([]);
});

test("where all together have too many, the oldest of all makes room, but not for a network that is known", () => {
  const admission = new Admission<string>();
  admission.welcome("10.0.1.1");
  expect(enter(admission, "known", "10.0.1.1", 0)).toEqual([]);
  for (let i = 0; i < 32; i++) expect(enter(admission, `s${i}`, `10.0.0.${i}`, 0)).toEqual([]);
  expect(enter(admission, "s32", "10.0.0.32", 0)).toEqual(["s0"]);
  admission.leave("s0");
  expect(enter(admission, "known again", "10.0.1.1", 0)).toEqual([]);
  expect([...admission.unfinished]).toHaveLength(34);
});

test("in a second only so many handshakes begin, of one network and of all strangers", () => {
  const admission = new Admission<string>();
  const flood = (address: (i: number) => string, nowMs: number) => {
    let begun = 0;
    for (let i = 0; i < 1000; i++) {
      if (enter(admission, `${address(i)}/${i}`, address(i), nowMs) === null) continue;
      admission.leave(`${address(i)}/${i}`);
      begun++;
    }
    return begun;
  };
  expect(flood(() => "10.0.0.1", 0)).toBe(32);
  expect(enter(admission, "another", "10.0.0.2", 999)).toEqual([]);
  expect(flood(() => "10.0.0.1", 1000)).toBe(32);
  admission.welcome("10.9.9.9");
  expect(flood((i) => `10.1.${i >> 8}.${i & 255}`, 2000)).toBe(64);
  expect(enter(admission, "stranger", "10.0.0.2", 2001)).toBeNull();
  expect(enter(admission, "known", "10.9.9.9", 2001)).toEqual([]);
});

test.each([
  ["10.0.0.1", "10.0.0.1"],
  ["::ffff:10.0.0.1", "10.0.0.1"],
  ["2001:db8:1:2:3:4:5:6", "2001:db8:1:2"],
  ["2001:db8::1", "2001:db8:0:0"],
  ["2001:db8:1:2:3::", "2001:db8:1:2"],
  ["::1", "0:0:0:0"],
  ["fe80::5054:ff:fe12:3456", "fe80:0:0:0"],
])("the network of %s", (address, network) => expect(networkOf(address)).toBe(network));
