/**
 * Whether the certificate that an end shows is taken, and in plain words why not.
 *
 * OpenSSL checks the chain, dates, usage and revocation; Node hands the outcome on and leaves it to us to act on it. What is said of
 * a certificate is read at both ends, so it names them "source" and "destination".
 */
import type { X509Certificate } from "node:crypto";
import { isIP } from "node:net";
import type { TLSSocket } from "node:tls";
import { GodwitError } from "../errors.ts";

export type End = "source" | "destination";

/** A certificate's names can be as long as it likes. */
const MAX_NAME_LENGTH = 100;

/**
 * What is wrong with the peer's certificate after a handshake that did not insist on one; undefined if nothing is.
 *
 * @param whose the end that shows it
 * @param names it must be valid for one of them; none: for any
 * @returns WIRE_CERTIFICATE, WIRE_PEER_NAME
 */
export function problemOfPeer(socket: TLSSocket, whose: End, names: readonly string[]): GodwitError | undefined {
  const certificate = socket.getPeerX509Certificate();
  // A resumed session would show none and count as checked; listeners do not resume any.
  if (certificate === undefined || socket.isSessionReused()) {
    const message = `the ${whose} shows no certificate: give both ends --tls-dir, or both --psk-file`;
    return new GodwitError("WIRE_CERTIFICATE", message, { whose, reason: "NONE" });
  }
  if (!socket.authorized) return invalid(certificate, whose, reasonOf(socket));
  if (names.length === 0 || names.some((name) => isFor(certificate, name, whose))) return undefined;
  const wanted = names.join(" or ");
  const remedy = whose === "source" ? "allow it with --allow-peer" : "say whom you expect with --tls-name";
  const message = `the certificate of the ${whose} (${namesOf(certificate)}) is not for ${wanted}: issue one that is, or ${remedy}`;
  return new GodwitError("WIRE_PEER_NAME", message, { whose, names });
}

/** What OpenSSL found, in words. `reason` is OpenSSL's, as Node names it. @returns WIRE_CERTIFICATE */
export function invalid(certificate: X509Certificate, whose: End, reason: string): GodwitError {
  const message = `the certificate of the ${whose} (${namesOf(certificate)}) ${clauseOf(certificate, whose, reason)}`;
  return new GodwitError("WIRE_CERTIFICATE", message, { whose, reason });
}

/** A client has an Error there, a server its code. */
export function reasonOf({ authorizationError }: TLSSocket): string {
  const error: unknown = authorizationError;
  return String((error as NodeJS.ErrnoException | null)?.code ?? error);
}

function clauseOf({ validFromDate, validToDate }: X509Certificate, whose: End, reason: string): string {
  switch (reason) {
    case "CERT_HAS_EXPIRED":
      return validToDate.getTime() > Date.now()
        ? "is of a CA whose own certificate has expired: renew that"
        : `expired on ${dayOf(validToDate)}: renew it`;
    case "CERT_NOT_YET_VALID":
      return `is not valid before ${dayOf(validFromDate)}: check the clocks of both hosts`;
    case "CERT_REVOKED":
      return "was revoked: issue another if that host is to be trusted again";
    case "INVALID_PURPOSE": {
      const [role, usage] = whose === "source" ? ["client", "clientAuth"] : ["server", "serverAuth"];
      return `is not one of a ${role}: issue it with the extended key usage ${usage}`;
    }
    case "CRL_HAS_EXPIRED":
    case "CRL_NOT_YET_VALID":
      return "can't be checked, as the revocation list at the other end is out of date: renew that (cacrl.pem)";
    case "UNABLE_TO_GET_CRL":
    case "UNABLE_TO_GET_CRL_ISSUER":
    case "CRL_SIGNATURE_FAILURE":
      return "can't be checked, as the revocation list at the other end is not that of its CA: replace that (cacrl.pem)";
    case "DEPTH_ZERO_SELF_SIGNED_CERT":
    case "SELF_SIGNED_CERT_IN_CHAIN":
    case "UNABLE_TO_GET_ISSUER_CERT":
    case "UNABLE_TO_GET_ISSUER_CERT_LOCALLY":
    case "UNABLE_TO_VERIFY_LEAF_SIGNATURE":
    case "CERT_SIGNATURE_FAILURE":
      return "is of a CA that the other end does not know: use one CA (cacert.pem) at both ends";
    default:
      return `does not hold (${reason}): issue another`;
  }
}

/** A wildcard says which server this may be, but not which of many clients. The CN counts where no DNS name stands beside it. */
function isFor(certificate: X509Certificate, name: string, whose: End): boolean {
  if (isIP(name) !== 0) return certificate.checkIP(name) !== undefined;
  return certificate.checkHost(name, { subject: "default", wildcards: whose === "destination" }) !== undefined;
}

/** The certificate's names, for people: it is the peer who chose them. */
function namesOf({ subjectAltName, subject }: X509Certificate): string {
  const names = (subjectAltName ?? subject ?? "no name").replace(/[\p{Cc}\p{Bidi_Control}\p{Zl}\p{Zp}]+/gu, ", ");
  return names.length > MAX_NAME_LENGTH ? `${names.slice(0, MAX_NAME_LENGTH)}...` : names;
}

function dayOf(date: Date): string {
  return date.toISOString().slice(0, 10);
}
