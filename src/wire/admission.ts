/**
 * Which strangers a listener deals with: how many at a time and how many a second, from one network and in all.
 *
 * Pure bookkeeping. Where room is short the newest gets it and the one that has waited longest goes, since a handshake takes three
 * round trips and who waits longer waits for nothing: so idle connections, however many, keep nobody out. A network that has been
 * authenticated before is counted apart from the strangers, so that they can't keep it from coming back.
 */

/** Unfinished handshakes. Each takes up to 250 KB: OpenSSL ends it beyond (CLIENT_HELLO_MAX_LENGTH, SSL_MAX_CERT_LIST_DEFAULT). */
const MAX_UNFINISHED = { ofOne: 8, ofAll: 32 };
/** Handshakes begun within a window. One costs 1 ms of CPU time with a key, 3 ms with certificates, which a running migration lacks. */
const MAX_BEGUN = { ofOne: 32, ofAll: 64 };
const WINDOW_MS = 1000;
const MAX_KNOWN = 64;

/** The strangers of one listener; T stands for a connection. */
export class Admission<T> {
  /** In the order in which they came. */
  readonly #unfinished = new Map<T, string>();
  readonly #known = new Set<string>();
  #windowMs = 0;
  #begun = new Map<string, number>();
  #begunByStrangers = 0;

  get unfinished(): Iterable<T> {
    return this.#unfinished.keys();
  }

  /** Lets a connection from `address` begin its handshake. Null: it is to be turned away; else those that make room for it. */
  enter(connection: T, address: string, nowMs: number): T[] | null {
    const network = networkOf(address);
    if (!this.#begin(network, nowMs)) return null;
    const room = this.#makeRoom(network);
    this.#unfinished.set(connection, network);
    return room;
  }

  /** Its handshake is over, well or not. */
  leave(connection: T): void {
    this.#unfinished.delete(connection);
  }

  /** The connection from `address` was authenticated. */
  welcome(address: string): void {
    const network = networkOf(address);
    this.#known.delete(network); // to the end
    this.#known.add(network);
    if (this.#known.size > MAX_KNOWN) this.#known.delete(this.#known.values().next().value!);
  }

  #begin(network: string, nowMs: number): boolean {
    if (nowMs - this.#windowMs >= WINDOW_MS) {
      this.#windowMs = nowMs;
      this.#begun = new Map();
      this.#begunByStrangers = 0;
    }
    const isKnown = this.#known.has(network);
    const ofOne = this.#begun.get(network) ?? 0;
    if (ofOne >= MAX_BEGUN.ofOne || (!isKnown && this.#begunByStrangers >= MAX_BEGUN.ofAll)) return false;
    this.#begun.set(network, ofOne + 1);
    if (!isKnown) this.#begunByStrangers++;
    return true;
  }

  #makeRoom(network: string): T[] {
    const ofOne: T[] = [];
    const strangers: T[] = [];
    for (const [connection, theirs] of this.#unfinished) {
      if (theirs === network) ofOne.push(connection);
      if (!this.#known.has(theirs)) strangers.push(connection);
    }
    if (ofOne.length >= MAX_UNFINISHED.ofOne) return ofOne.slice(0, 1);
    const isFull = !this.#known.has(network) && strangers.length >= MAX_UNFINISHED.ofAll;
    return isFull ? strangers.slice(0, 1) : [];
  }
}

/** Who gets an IPv6 address gets 2^64 of them: their network stands for all. */
export function networkOf(address: string): string {
  const ipv4 = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1];
  if (ipv4 !== undefined || !address.includes(":")) return ipv4 ?? address;
  const [head = "", tail] = address.split("::");
  const groups = (part: string | undefined) => (part ? part.split(":") : []);
  const missing = tail === undefined ? 0 : 8 - groups(head).length - groups(tail).length;
  return [...groups(head), ...Array<string>(missing).fill("0"), ...groups(tail)].slice(0, 4).join(":");
}
