import fc from "fast-check";
import { expect, test } from "vitest";
import { formatAddress, parseAddress } from "../../src/wire/address.ts";

test.each([
  ["10.0.0.2", "10.0.0.2", 7747],
  ["10.0.0.2:1", "10.0.0.2", 1],
  ["host-b", "host-b", 7747],
  ["b.example.org:65535", "b.example.org", 65535],
  ["2001:db8::2", "2001:db8::2", 7747],
  ["::", "::", 7747],
  ["[::1]", "::1", 7747],
  ["[fe80::1%eth0]:80", "fe80::1%eth0", 80],
])("%s", (text, host, port) => {
  expect(parseAddress(text)).toEqual({ host, port });
});

test.each([
  "",
  ":7747",
  "host:",
  "host:0",
  "host:65536",
  "host:+1",
  "host:1:2",
  "host:80/",
  "10.0.0",
  "10.0.0.256",
  "[10.0.0.2]:80",
  "[::1",
  "[::1]80",
  "[]:80",
  "a b",
  "-a",
  "a..b",
  "tcp://host",
  "host\n",
  "x".repeat(64),
])("%j is refused with the input named", (text) => {
  expect(() => parseAddress(text)).toThrow(
    expect.objectContaining({ code: "WIRE_BAD_ADDRESS", message: expect.stringContaining(JSON.stringify(text)) }),
  );
});

test("what is formatted is read back", () => {
  const host = fc.oneof(fc.ipV4(), fc.ipV6(), fc.domain());
  fc.assert(
    fc.property(host, fc.integer({ min: 1, max: 65535 }), (host, port) => {
      expect(parseAddress(formatAddress({ host, port }))).toEqual({ host, port });
    }),
  );
});
