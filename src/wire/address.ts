/** Addresses as people write them: `HOST`, `HOST:PORT`, `10.0.0.2`, `[fe80::1%eth0]:7747`, `2001:db8::2`. */
import { isIPv4, isIPv6 } from "node:net";
import { GodwitError } from "../errors.ts";

const DEFAULT_PORT = 7747;

export interface Address {
  /** A host name, an IPv4 address, or an IPv6 address without brackets. */
  readonly host: string;
  readonly port: number;
}

/** RFC 1123, 2.1, with the underscore that some networks use. */
const HOST_NAME = /^(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*\.?$/i;

/**
 * Reads `HOST[:PORT]`; the port defaults to 7747.
 *
 * @throws WIRE_BAD_ADDRESS
 */
export function parseAddress(text: string): Address {
  if (isIPv6(text)) return { host: text, port: DEFAULT_PORT };
  const [, bracketed, plain = "", portText] = /^(?:\[([^\]]*)\]|([^:]*))(?::(.*))?$/s.exec(text) ?? [];
  const host = bracketed ?? plain;
  if (bracketed === undefined ? !isHost(host) : !isIPv6(host)) throw bad(text, "HOST, HOST:PORT or [IPV6]:PORT");
  if (portText === undefined) return { host, port: DEFAULT_PORT };
  const port = /^[0-9]{1,5}$/.test(portText) ? Number(portText) : 0;
  if (port < 1 || port > 65535) throw bad(text, "a port between 1 and 65535");
  return { host, port };
}

/** The address as `parseAddress` reads it. */
export function formatAddress({ host, port }: Address): string {
  return `${host.includes(":") ? `[${host}]` : host}:${port}`;
}

/** Names made of digits and dots only would be IPv4 addresses with a mistake in them. */
function isHost(host: string): boolean {
  return isIPv4(host) || (HOST_NAME.test(host) && !/^[0-9.]+$/.test(host));
}

function bad(text: string, expected: string): GodwitError {
  return new GodwitError("WIRE_BAD_ADDRESS", `${JSON.stringify(text)} is no address: expected ${expected}`, { text });
}
