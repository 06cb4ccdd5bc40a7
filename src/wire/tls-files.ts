/**
 * Certificates and keys in a folder, under the names that libvirt or QEMU know them by (docs/commands.md, Certificates).
 *
 * The bytes of a key go nowhere but to TLS: no error and no detail of one may hold them.
 */
import { createPrivateKey, type KeyObject, X509Certificate } from "node:crypto";
import { join } from "node:path";
import { createSecureContext, type SecureContextOptions } from "node:tls";
import { GodwitError, messageOf } from "../errors.ts";
import { isProblem, readSmallFile } from "./secret-file.ts";

/** Which of a host's two certificates: the receiver listens with "server", the sender connects with "client". */
export type TlsEnd = "client" | "server";

/** What an end shows and trusts, as PEM. */
export interface TlsCredentials {
  readonly ca: Buffer;
  /** The revocation lists, one a PEM block; undefined: none is kept, so nothing is revoked. */
  readonly revoked: readonly string[] | undefined;
  readonly certificate: Buffer;
  readonly key: Buffer;
  /** Where `certificate` was found, for people. */
  readonly certificatePath: string;
}

/** A revocation list of 16 MiB has half a million entries. */
const MAX_FILE_BYTES = 16 << 20;
const CRL_BLOCK = /-----BEGIN X509 CRL-----[^-]*-----END X509 CRL-----/g;

/** libvirt's names, QEMU's (crypto/tlscredsx509.c), and those below libvirt's /etc/pki. */
const namesOf = (end: TlsEnd) => ({
  ca: ["cacert.pem", "ca-cert.pem", "CA/cacert.pem"],
  revoked: ["cacrl.pem", "ca-crl.pem", "CA/cacrl.pem"],
  certificate: [`${end}cert.pem`, `${end}-cert.pem`, `libvirt/${end}cert.pem`],
  key: [`${end}key.pem`, `private/${end}key.pem`, `${end}-key.pem`, `libvirt/private/${end}key.pem`],
});

/**
 * Reads what one end needs, and checks that it fits together; whether the certificate holds is certificates.ts' business.
 *
 * @throws WIRE_TLS_FILES when a file is missing, ambiguous or not what its name says; WIRE_TLS_PERMISSIONS
 */
export function readTlsFolder(folder: string, end: TlsEnd): TlsCredentials {
  const names = namesOf(end);
  const [, ca] = need(folder, "CA certificate", names.ca);
  const [certificatePath, certificate] = need(folder, `${end} certificate`, names.certificate);
  const [keyPath, key] = need(folder, `${end} key`, names.key, true);
  const revoked = find(folder, names.revoked);
  parse("CA certificate", folder, () => new X509Certificate(ca));
  const x509 = parse(`${end} certificate`, certificatePath, () => new X509Certificate(certificate));
  const isOfKey = x509.checkPrivateKey(parseKey(`${end} key`, keyPath, key));
  if (!isOfKey) {
    const message = `${keyPath} is not the key of the certificate ${certificatePath}: one of them was replaced alone`;
    throw new GodwitError("WIRE_TLS_FILES", message, { folder });
  }
  assertUsable(folder, { ca, cert: certificate, key });
  return { ca, revoked: revoked && blocksOf(...revoked), certificate, key, certificatePath };
}

function need(folder: string, what: string, names: readonly string[], isSecret = false): [path: string, Buffer] {
  const found = find(folder, names, isSecret);
  if (found !== undefined) return found;
  const message = `there is no ${what} in ${folder}: it would be ${names.join(" or ")} there`;
  throw new GodwitError("WIRE_TLS_FILES", message, { folder });
}

/** The one of the names that is there. Not the first of several: which of two keys or revocation lists counts must not be guessed. */
function find(folder: string, names: readonly string[], isSecret = false): [path: string, Buffer] | undefined {
  const found: [string, Buffer][] = [];
  for (const name of names) {
    const path = join(folder, name);
    const read = readSmallFile(path, MAX_FILE_BYTES, isSecret);
    if (!isProblem(read)) found.push([path, read]);
    else if (read.why === "exposed") {
      throw new GodwitError("WIRE_TLS_PERMISSIONS", `others can read the key ${path}`, { path, mode: read.mode });
    } else if (read.why !== "missing") {
      const why = read.why === "unreadable" ? read.message : `it is longer than ${MAX_FILE_BYTES >> 20} MiB`;
      throw new GodwitError("WIRE_TLS_FILES", `${path} can't be read: ${why}`, { path });
    }
  }
  if (found.length < 2) return found[0];
  const message = `${found.map(([path]) => path).join(" and ")} are the same file under two names: remove one`;
  throw new GodwitError("WIRE_TLS_FILES", message, { folder });
}

/** OpenSSL has its own mind of keys that are too short, and looks at what stands behind the first certificate of a file. */
function assertUsable(folder: string, files: SecureContextOptions): void {
  try {
    createSecureContext(files);
  } catch (cause) {
    const why = (cause as { reason?: string }).reason ?? messageOf(cause);
    throw new GodwitError("WIRE_TLS_FILES", `the certificates in ${folder} can't be used: ${why}`, { folder });
  }
}

function parse<T>(what: string, path: string, read: () => T): T {
  try {
    return read();
  } catch (cause) {
    throw new GodwitError("WIRE_TLS_FILES", `the ${what} in ${path} is none in PEM`, { path, why: messageOf(cause) });
  }
}

function parseKey(what: string, path: string, pem: Buffer): KeyObject {
  if (!pem.includes("ENCRYPTED")) return parse(what, path, () => createPrivateKey(pem));
  const message = `the ${what} in ${path} is encrypted, and nobody is there to give the passphrase`;
  throw new GodwitError("WIRE_TLS_FILES", message, { path });
}

/** Node takes one list a string (it reads the first of each). */
function blocksOf(path: string, pem: Buffer): string[] {
  const blocks = pem.toString("latin1").match(CRL_BLOCK);
  for (const crl of blocks ?? []) parse("revocation list", path, () => createSecureContext({ crl }));
  if (blocks !== null) return blocks;
  const message = `${path} holds no revocation list in PEM: renew it, as without it nobody is let in`;
  throw new GodwitError("WIRE_TLS_FILES", message, { path });
}
