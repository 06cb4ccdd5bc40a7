/** What Node and OpenSSL report, in plain words. The OpenSSL reasons are those of Node 24 (OpenSSL 3.5). */
import { type ErrorCode, GodwitError, messageOf } from "../errors.ts";

/** What to do where one end has a key and the other a certificate. */
const ONE_OF_BOTH = "give both ends --tls-dir, or both --psk-file";

type Words = readonly [code: ErrorCode, message: string];

function codeOf(error: unknown): string {
  return String((error as NodeJS.ErrnoException | undefined)?.code ?? "");
}

function explain(error: unknown, peer: string, [code, message]: Words): GodwitError {
  return new GodwitError(code, message, { peer, cause: codeOf(error) }, { cause: error });
}

/** Why no TCP connection came about. */
export function connectError(error: unknown, peer: string, timeoutMs: number): GodwitError {
  const words = (): Words => {
    switch (codeOf(error)) {
      case "ECONNREFUSED":
        return ["WIRE_UNREACHABLE", `nothing listens on ${peer}`];
      case "EHOSTUNREACH":
      case "ENETUNREACH":
        return ["WIRE_UNREACHABLE", `there is no route to ${peer}`];
      case "ENOTFOUND":
      case "EAI_AGAIN":
        return ["WIRE_UNREACHABLE", `the host name in ${peer} is not known`];
      case "ETIMEDOUT":
        return ["WIRE_UNREACHABLE", `${peer} does not answer (waited ${timeoutMs / 1000} s)`];
      default:
        return ["WIRE_UNREACHABLE", `no connection to ${peer}: ${messageOf(error)}`];
    }
  };
  return explain(error, peer, words());
}

/** Why an address can't be listened on. */
export function listenError(error: unknown, address: string): GodwitError {
  const words = (): Words => {
    switch (codeOf(error)) {
      case "EADDRINUSE":
        return ["WIRE_PORT_TAKEN", `another program listens on ${address} already`];
      case "EADDRNOTAVAIL":
      case "ENOTFOUND":
      case "EAI_AGAIN":
        return ["WIRE_BAD_ADDRESS", `${address} is no address of this host`];
      case "EACCES":
        return ["WIRE_BAD_ADDRESS", `listening on ${address} is not permitted to this user`];
      default:
        return ["WIRE_BAD_ADDRESS", `can't listen on ${address}: ${messageOf(error)}`];
    }
  };
  return explain(error, address, words());
}

/** Why a TLS handshake failed, seen from either end, which has a pre-shared key ("psk") or a certificate ("tls"). */
export function handshakeError(error: unknown, peer: string, timeoutMs: number, kind: "psk" | "tls"): GodwitError {
  const words = (): Words => {
    const code = codeOf(error);
    switch (code) {
      case "ERR_SSL_BINDER_DOES_NOT_VERIFY":
      case "ERR_SSL_TLSV1_ALERT_DECRYPT_ERROR":
        return ["WIRE_WRONG_KEY", `${peer} has another pre-shared key`];
      // The receiver has no certificate to fall back to when the sender's identity is not that of its key.
      case "ERR_SSL_NO_SUITABLE_SIGNATURE_ALGORITHM":
      case "ERR_SSL_SSL/TLS_ALERT_HANDSHAKE_FAILURE":
      case "ERR_SSL_SSLV3_ALERT_HANDSHAKE_FAILURE":
        if (kind === "tls") return ["WIRE_CERTIFICATE", `${peer} has no certificate: ${ONE_OF_BOTH}`];
        return ["WIRE_WRONG_KEY", `${peer} has no pre-shared key of this identity`];
      case "ERR_TLS_HANDSHAKE_TIMEOUT":
      case "ETIMEDOUT":
        return ["WIRE_NOT_TLS", `${peer} did not finish the TLS handshake within ${timeoutMs / 1000} s`];
      case "ERR_SSL_HTTP_REQUEST":
        return ["WIRE_NOT_TLS", `${peer} speaks HTTP, not godwit's protocol`];
      case "ERR_SSL_WRONG_VERSION_NUMBER":
        return ["WIRE_NOT_TLS", `${peer} does not speak TLS: another program, not godwit`];
      case "ECONNRESET":
      case "EPIPE":
        return ["WIRE_CLOSED", `${peer} closed the connection during the TLS handshake`];
    }
    if (code.startsWith("ERR_SSL_")) {
      const reason =
        (error as { reason?: string }).reason ?? code.slice("ERR_SSL_".length).replaceAll("_", " ").toLowerCase();
      return ["WIRE_NOT_TLS", `${peer} does not speak TLS 1.3 as godwit does: ${reason}`];
    }
    return ["WIRE_WRONG_KEY", `${peer} shows a certificate and does not use a pre-shared key: ${ONE_OF_BOTH}`];
  };
  return explain(error, peer, words());
}
