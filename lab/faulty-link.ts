import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import type { Address } from "../src/wire/address.ts";
import type { Host } from "./hosts.ts";
import type { LinkFault, LinkFigures } from "./link-faults.ts";

/** A link that goes wrong on command: `send` connects to it, and it leads to `receive`. */
export interface FaultyLink extends AsyncDisposable {
  /** Where `send` is to connect to, on the host that the link was started on. */
  readonly address: Address;
  /** Says where `receive` listens. */
  leadTo(target: Address): Promise<void>;
  /** How late it is each way when nothing is wrong with it; a connection takes twice that to come about. */
  setUsualDelay(ms: number): Promise<void>;
  /** What is wrong with the link from now on, in place of what was. */
  set(fault: LinkFault): Promise<void>;
  /** All is well again. */
  heal(): Promise<void>;
  figures(): Promise<LinkFigures>;
}

/** What the process on the host is told, and what it answers. */
export type LinkCommand =
  | { readonly command: "leadTo"; readonly target: Address }
  | { readonly command: "set"; readonly fault: LinkFault }
  | { readonly command: "setUsualDelay"; readonly ms: number }
  | { readonly command: "heal" }
  | { readonly command: "figures" };
export type LinkRequest = LinkCommand & { readonly id: number };
export type LinkReply =
  | { readonly id: number; readonly error?: string; readonly figures?: LinkFigures }
  | { readonly address: Address };

const PROGRAM = fileURLToPath(new URL("faulty-link-process.ts", import.meta.url));

/** Starts a link in front of the network of `host`; all connections over it break when it is disposed of. */
export async function startFaultyLink(host: Host): Promise<FaultyLink> {
  const node = [process.execPath, "--disable-warning=ExperimentalWarning", PROGRAM];
  const [command, ...args] = host.command(["setpriv", "--pdeathsig", "KILL", ...node]) as [string, ...string[]];
  const child = spawn(command, args, { stdio: ["ignore", "ignore", "inherit", "ipc"] });
  const closed = new Promise<void>((resolve) => child.once("close", () => resolve()));
  const waiting = new Map<number, PromiseWithResolvers<LinkReply>>();
  const fail = (error: Error) => {
    for (const { reject } of waiting.values()) reject(error);
  };
  child.on("error", fail);
  void closed.then(() => fail(new Error("the faulty link's process has ended")));
  const ready = Promise.withResolvers<LinkReply>();
  waiting.set(0, ready);
  child.on("message", (reply: LinkReply) => {
    const id = "id" in reply ? reply.id : 0;
    const asked = waiting.get(id);
    waiting.delete(id);
    if ("error" in reply) asked?.reject(new Error(`the faulty link: ${reply.error}`));
    else asked?.resolve(reply);
  });
  let lastId = 0;
  const ask = async (asked: LinkCommand): Promise<LinkReply> => {
    const id = ++lastId;
    const answer = Promise.withResolvers<LinkReply>();
    waiting.set(id, answer);
    child.send({ ...asked, id } satisfies LinkRequest, (error) => error && answer.reject(error));
    return answer.promise;
  };
  const close = async () => {
    if (child.exitCode === null && child.signalCode === null) child.kill("SIGKILL");
    await closed;
  };
  try {
    const { address } = (await ready.promise) as { address: Address };
    return {
      address,
      leadTo: async (target) => void (await ask({ command: "leadTo", target })),
      setUsualDelay: async (ms) => void (await ask({ command: "setUsualDelay", ms })),
      set: async (fault) => void (await ask({ command: "set", fault })),
      heal: async () => void (await ask({ command: "heal" })),
      figures: async () => ((await ask({ command: "figures" })) as { figures: LinkFigures }).figures,
      [Symbol.asyncDispose]: close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}
