import { namespaceName, removeNamespace, temporaryFolder } from "./leftovers.ts";
import { run } from "./run.ts";

/** A place to run programs in, with an address of its own where the lab may make one. */
export interface Host {
  readonly name: string;
  /** Where the other host reaches this one. */
  readonly address: string;
  /** godwit's state folder there; undefined: each command gets one of its own. */
  readonly stateDir?: string;
  /** The command that runs `argv` on this host. */
  command(argv: readonly string[]): string[];
}

/** Two hosts and the link between them. */
export interface Hosts extends AsyncDisposable {
  readonly source: Host;
  readonly destination: Host;
  /** Do the hosts have a network of their own? If not, both are this machine, and the link has no rate. */
  readonly isolated: boolean;
  /**
   * Shapes both directions of the link; undefined takes the shaping away.
   *
   * @throws Error when a rate is wanted and the hosts are not isolated
   */
  setRate(bitsPerSecond: number | undefined): Promise<void>;
  /**
   * Takes the destination's end of the link down, or up again. While it is down, what either host sends is lost without a
   * word: a black hole.
   *
   * @throws Error when the hosts are not isolated
   */
  setLink(state: "up" | "down"): Promise<void>;
  close(): Promise<void>;
}

/** Options of {@link createHosts}. */
export interface HostsOptions {
  readonly rateBitsPerSecond?: number | undefined;
}

/** This machine as a host. */
export const localHost: Host = { name: "localhost", address: "127.0.0.1", command: (argv) => [...argv] };

/**
 * Two network namespaces joined by a veth pair, shaped when a rate is given; where that cannot be had (not root, or a
 * container without the right to it), both hosts are this machine.
 *
 * @throws Error when a rate is wanted and cannot be had
 */
export async function createHosts({ rateBitsPerSecond }: HostsOptions = {}): Promise<Hosts> {
  const hosts = await isolatedHosts().catch(loopbackHosts);
  try {
    if (rateBitsPerSecond !== undefined) await hosts.setRate(rateBitsPerSecond);
    return hosts;
  } catch (error) {
    await hosts.close();
    throw error;
  }
}

// RFC 5737, TEST-NET-1: never a real host. The namespaces see nothing but each other, so all pairs may use the same.
const ADDRESSES = ["192.0.2.1", "192.0.2.2"] as const;
const INTERFACE = "link0";

async function isolatedHosts(): Promise<Hosts> {
  if (process.getuid?.() !== 0) throw new Error("network namespaces need root");
  const names = [namespaceName("source"), namespaceName("destination")] as const;
  const states = names.map(temporaryFolder);
  const close = async () => {
    names.forEach(removeNamespace); // the veth pair goes with them
    for (const state of states) state[Symbol.dispose]();
  };
  try {
    for (const name of names) await run(["ip", "netns", "add", name]);
    const peer = ["peer", "name", INTERFACE, "netns", names[1]];
    await run(["ip", "link", "add", INTERFACE, "netns", names[0], "type", "veth", ...peer]);
    for (const [i, name] of names.entries()) {
      await run(["ip", "-n", name, "address", "add", `${ADDRESSES[i]}/24`, "dev", INTERFACE]);
      await run(["ip", "-n", name, "link", "set", INTERFACE, "up"]);
      await run(["ip", "-n", name, "link", "set", "lo", "up"]);
    }
  } catch (error) {
    await close();
    throw error;
  }
  const setRate = async (bitsPerSecond: number | undefined) => {
    for (const name of names) await run(shape(name, bitsPerSecond));
  };
  const setLink = async (state: "up" | "down") => {
    await run(["ip", "-n", names[1], "link", "set", INTERFACE, state]);
  };
  const [source, destination] = names.map((name, i) => ({
    name,
    address: ADDRESSES[i]!,
    stateDir: states[i]!.path,
    command: (argv: readonly string[]) => ["ip", "netns", "exec", name, ...argv],
  })) as [Host, Host];
  return { source, destination, isolated: true, setRate, setLink, close, [Symbol.asyncDispose]: close };
}

function shape(namespace: string, bitsPerSecond: number | undefined): string[] {
  const tc = ["tc", "-n", namespace, "qdisc"];
  // `replace` without the root qdisc that came with the link: noqueue is a veth's default.
  if (bitsPerSecond === undefined) return [...tc, "replace", "dev", INTERFACE, "root", "noqueue"];
  return [...tc, "replace", "dev", INTERFACE, "root", "tbf", ...tokenBucket(bitsPerSecond)];
}

/** tbf's arguments; the bucket holds at least a millisecond of the rate, else fast links fall short of it. */
export function tokenBucket(bitsPerSecond: number): string[] {
  const burstBytes = Math.max(256 * 1024, Math.ceil(bitsPerSecond / 8 / 1000));
  return ["rate", `${Math.round(bitsPerSecond)}bit`, "burst", `${burstBytes}`, "latency", "50ms"];
}

function loopbackHosts(cause: unknown): Hosts {
  const setRate = async (bitsPerSecond: number | undefined) => {
    if (bitsPerSecond !== undefined) throw new Error("without hosts of its own, a link has no rate", { cause });
  };
  const setLink = async () => {
    throw new Error("without hosts of its own, a link can't be taken down", { cause });
  };
  const states = [temporaryFolder(), temporaryFolder()] as const;
  const close = async () => {
    for (const state of states) state[Symbol.dispose]();
  };
  const [source, destination] = states.map(({ path }) => ({ ...localHost, stateDir: path })) as [Host, Host];
  return { source, destination, isolated: false, setRate, setLink, close, [Symbol.asyncDispose]: close };
}
