/**
 * TLS 1.3 over a connected socket, for either end: by a pre-shared key, or by a certificate at each end.
 *
 * Certificates are judged after the handshake (certificates.ts), which lets the other end be told in words why its own is refused: a
 * REFUSE, where else HELLO or WELCOME would stand. Nothing else is sent to, or taken from, a peer that is not authenticated.
 */
import { constants, X509Certificate } from "node:crypto";
import { once } from "node:events";
import { type Duplex, duplexPair } from "node:stream";
import * as tls from "node:tls";
import { GodwitError, messageOf } from "../errors.ts";
import { type End, invalid, problemOfPeer, reasonOf } from "./certificates.ts";
import { encodeMessage } from "./encoding.ts";
import type { Psk } from "./psk.ts";
import { readTlsFolder, type TlsCredentials, type TlsEnd } from "./tls-files.ts";

/** How an end authenticates itself and its peer by certificates. */
export interface CertificateSecurity {
  readonly kind: "tls";
  /** Read afresh for every connection, so that renewed files count at once. */
  readonly folder: string;
  /** The peer must be one of them; none: a listener takes all of its CA, who connects wants the host that it connects to. */
  readonly peerNames: readonly string[];
}

export type TlsSecurity = { readonly kind: "psk"; readonly psk: Psk } | CertificateSecurity;

/** How long a refused peer gets to read why. */
const GOODBYE_MS = 1_000;

const COMMON = {
  minVersion: "TLSv1.3",
  maxVersion: "TLSv1.3",
  ciphers: "TLS_AES_128_GCM_SHA256",
  // A session that is resumed would not have its certificate looked at again.
  secureOptions: constants.SSL_OP_NO_TICKET,
} as const;

/** libvirt and QEMU use the same certificates: no connection to one of theirs may pass for one to godwit. */
const PROTOCOL = "godwit";

const materialOf = ({ ca, revoked, certificate, key }: TlsCredentials) => ({
  ...COMMON,
  ca,
  cert: certificate,
  key,
  ...(revoked && { crl: [...revoked] }),
});

/** Starts TLS on a connection that this end opened; the socket says `secureConnect` once it is up. @throws what readTlsFolder throws */
export function startClientTls(raw: Duplex, security: TlsSecurity): tls.TLSSocket {
  if (security.kind === "psk") return connectWithKey(raw, security.psk);
  return connectWithCertificate(raw, readTlsFolder(security.folder, "client"));
}

/** Nothing but the key is accepted: no certificate authority is trusted, and a certificate is a mistake by itself. */
function connectWithKey(raw: Duplex, { identity, key }: Psk): tls.TLSSocket {
  return tls.connect({
    ...COMMON,
    socket: raw,
    ca: [],
    pskCallback: () => ({ identity, psk: key }),
    checkServerIdentity: () => new Error("the receiver shows a certificate"),
  });
}

function connectWithCertificate(raw: Duplex, credentials: TlsCredentials): tls.TLSSocket {
  return tls.connect({
    ...materialOf(credentials),
    socket: raw,
    ALPNProtocols: [PROTOCOL],
    // Judged by problemOf, once the handshake is over.
    rejectUnauthorized: false,
    checkServerIdentity: () => undefined,
  });
}

/** Starts TLS on a connection that was accepted; resolves once it is up. @throws what readTlsFolder throws, and Node's errors */
export async function startServerTls(raw: Duplex, security: TlsSecurity): Promise<tls.TLSSocket> {
  if (security.kind === "tls") return acceptWithCertificate(raw, readTlsFolder(security.folder, "server"));
  const { identity, key } = security.psk;
  return secured(raw, { ...COMMON, pskCallback: (_, theirs) => (theirs === identity ? key : null) });
}

function acceptWithCertificate(raw: Duplex, credentials: TlsCredentials): Promise<tls.TLSSocket> {
  // Judged by problemOf, once the handshake is over.
  const judgedLater = { requestCert: true, rejectUnauthorized: false };
  return secured(raw, { ...materialOf(credentials), ...judgedLater, ALPNProtocols: [PROTOCOL] });
}

/** A tls.Server for each connection, never listening, so that a failed handshake is known to be this socket's. */
function secured(raw: Duplex, options: tls.TlsOptions): Promise<tls.TLSSocket> {
  return new Promise((resolve, reject) => {
    const server = tls.createServer(options);
    server.on("secureConnection", resolve);
    server.on("tlsClientError", reject);
    server.emit("connection", raw);
  });
}

/**
 * Why the peer of a finished handshake is not the one it should be; undefined if it is. A key proves itself in the handshake.
 *
 * @param peer the end that the peer is
 * @param host what was connected to; undefined at a listener
 * @returns WIRE_CERTIFICATE, WIRE_PEER_NAME, WIRE_NOT_TLS
 */
export function problemOf(
  socket: tls.TLSSocket,
  security: TlsSecurity,
  peer: End,
  host?: string,
): GodwitError | undefined {
  if (security.kind === "psk") return undefined;
  const names = security.peerNames.length === 0 && host !== undefined ? [host] : security.peerNames;
  const problem = problemOfPeer(socket, peer, names);
  if (problem !== undefined || socket.alpnProtocol === PROTOCOL) return problem;
  return new GodwitError(
    "WIRE_NOT_TLS",
    `the ${peer} speaks TLS, but not for godwit: another program with its certificate`,
  );
}

/** Tells a peer why it is refused, and drops the connection once it has closed its side, or soon. */
export async function refuse(socket: tls.TLSSocket, { code, message }: GodwitError): Promise<void> {
  socket.resume(); // Bytes that were never read would turn our last words into a reset.
  socket.end(encodeMessage({ type: "REFUSE", code, message }));
  await once(socket, "close", { signal: AbortSignal.timeout(GOODBYE_MS) }).catch(() => {});
  socket.destroy();
}

/**
 * Finds out now what is wrong with this end's own files, as its peers would: by a handshake with itself.
 *
 * @throws WIRE_TLS_FILES, WIRE_TLS_PERMISSIONS, WIRE_CERTIFICATE
 */
export async function checkOwnCertificate(folder: string, end: TlsEnd): Promise<void> {
  const credentials = readTlsFolder(folder, end);
  const [here, there] = duplexPair();
  try {
    const client = connectWithCertificate(there, credentials);
    client.on("close", () => here.destroy());
    const [server] = await Promise.all([acceptWithCertificate(here, credentials), once(client, "secureConnect")]);
    const judge = end === "server" ? client : server;
    client.destroy();
    if (judge.authorized) return;
    const certificate = new X509Certificate(credentials.certificate);
    throw invalid(certificate, end === "server" ? "destination" : "source", reasonOf(judge));
  } catch (cause) {
    there.destroy();
    if (cause instanceof GodwitError) throw cause;
    const message = `the certificate ${credentials.certificatePath} can't be used: ${messageOf(cause)}`;
    throw new GodwitError("WIRE_TLS_FILES", message, { folder }, { cause });
  }
}
