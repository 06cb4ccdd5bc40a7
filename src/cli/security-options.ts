/** How the two ends of a migration know each other, as the command line has it. */
import { isIP } from "node:net";
import { type Command, InvalidArgumentError, Option } from "commander";
import { GodwitError } from "../errors.ts";
import { readPskFile } from "../wire/psk.ts";
import { checkOwnCertificate } from "../wire/tls.ts";
import type { Security } from "../wire/transport.ts";
import type { Role } from "./lines.ts";

export interface SecurityOptions {
  pskFile?: string;
  tlsDir?: string;
  /** At the source. */
  tlsName?: string;
  /** At the destination. */
  allowPeer?: string[];
  insecureNoTls?: true;
}

/** What is said, loudly, where nothing protects a migration. */
export const INSECURE =
  "nothing protects this migration: whoever is on the network can read and change the guest's memory, and take the VM; for benchmarks only";

/** Adds the options of the end that connects (source) or listens (destination). */
export function addSecurityOptions(command: Command, role: Role): Command {
  const [end, ownFiles] = role === "source" ? ["client", "clientcert.pem"] : ["server", "servercert.pem"];
  command
    .addOption(
      new Option("--psk-file <file>", "key that both ends have (godwit key makes one)").conflicts([
        "tlsDir",
        "insecureNoTls",
      ]),
    )
    .addOption(
      new Option(
        "--tls-dir <folder>",
        `in place of a key: CA, ${end} certificate and key as libvirt or QEMU name them (cacert.pem, ${ownFiles}, ...)`,
      ).conflicts("insecureNoTls"),
    );
  if (role === "source") {
    const description = "with --tls-dir: whom the destination's certificate must be for (default: the host of --to)";
    command.addOption(new Option("--tls-name <name>", description).argParser(parseName));
  } else {
    const description =
      "with --tls-dir: take VMs only from senders with a certificate for that name; may be repeated (default: any certificate of the CA)";
    command.addOption(
      new Option("--allow-peer <name>", description).argParser((text: string, names: string[] = []) => [
        ...names,
        parseName(text),
      ]),
    );
  }
  return command.addOption(new Option("--insecure-no-tls", "neither encrypt nor authenticate; for benchmarks"));
}

/** A host name or address. Not what OpenSSL takes for a pattern: ".example.com" is any host of that domain to it. */
function parseName(text: string): string {
  if (isIP(text) !== 0 || /^[A-Za-z0-9]([A-Za-z0-9._-]{0,252}[A-Za-z0-9])?$/.test(text)) return text;
  throw new InvalidArgumentError("give a host name or an address, as it stands in the certificate.");
}

/**
 * Reads and checks what was asked for.
 *
 * @throws CLI_SECURITY, WIRE_PSK_MISSING, WIRE_PSK_PERMISSIONS, WIRE_PSK_FORMAT, WIRE_TLS_FILES, WIRE_TLS_PERMISSIONS, WIRE_CERTIFICATE
 */
export async function securityOf(options: SecurityOptions, role: Role): Promise<Security> {
  const { pskFile, tlsDir, tlsName, allowPeer, insecureNoTls } = options;
  if (tlsDir !== undefined) {
    await checkOwnCertificate(tlsDir, role === "source" ? "client" : "server");
    const peerNames = tlsName === undefined ? (allowPeer ?? []) : [tlsName];
    return { kind: "tls", folder: tlsDir, peerNames };
  }
  if (tlsName !== undefined || allowPeer !== undefined) {
    const option = tlsName === undefined ? "--allow-peer" : "--tls-name";
    throw new GodwitError("CLI_SECURITY", `${option} is about certificates: it needs --tls-dir`);
  }
  if (pskFile !== undefined) return { kind: "psk", psk: readPskFile(pskFile) };
  if (insecureNoTls) return { kind: "none" };
  throw new GodwitError("CLI_SECURITY", "say how the two ends know each other: --psk-file FILE or --tls-dir FOLDER");
}
