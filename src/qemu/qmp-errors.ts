/** Why there is no QMP session, each in one clause. */

import { statSync } from "node:fs";
import { GodwitError } from "../errors.ts";

const NOT_QMP_SHOWN_BYTES = 60;

/** The error for a `connect()` that failed. */
export function connectError(path: string, cause: NodeJS.ErrnoException): GodwitError {
  const details = { path, errno: cause.code };
  const options = { cause };
  switch (cause.code) {
    case "ENOENT":
    case "ENOTDIR":
      return new GodwitError("QMP_NO_SOCKET", `there is no QMP socket at ${path}`, details, options);
    case "EINVAL":
    case "ENAMETOOLONG":
      return new GodwitError("QMP_NO_SOCKET", `the path ${path} is too long for a unix socket`, details, options);
    case "EACCES":
    case "EPERM":
      return new GodwitError("QMP_PERMISSION", `no permission to connect to the QMP socket ${path}`, details, options);
    case "EAGAIN":
      // The queue of the listening socket is full (unix(7)): others wait for the monitor already.
      return new GodwitError("QMP_BUSY", `the QMP monitor at ${path} serves another client`, details, options);
    case "EPROTOTYPE":
      return new GodwitError("QMP_NOT_QMP", `${path} is a socket of another kind, not QMP`, details, options);
    case "ECONNREFUSED":
      // Linux says this also of a path that is no socket at all.
      if (!isSocket(path)) return new GodwitError("QMP_NOT_QMP", `${path} is not a socket`, details, options);
      return new GodwitError("QMP_REFUSED", `no QEMU listens on the QMP socket ${path}`, details, options);
    default:
      return new GodwitError("QMP_REFUSED", `cannot connect to ${path}: ${cause.message}`, details, options);
  }
}

/** The error for a peer whose first bytes are not QMP's greeting. */
export function notQmpError(path: string, firstBytes: Uint8Array): GodwitError {
  const shown = JSON.stringify(Buffer.from(firstBytes.subarray(0, NOT_QMP_SHOWN_BYTES)).toString("utf8"));
  const start = shown.slice(1, -1);
  const details = { path, start };
  if (/^QEMU .* monitor/.test(start)) {
    return new GodwitError("QMP_NOT_QMP", `${path} is QEMU's human monitor, not QMP`, details);
  }
  if (/^\{(\\r)?$/.test(start)) {
    return new GodwitError("QMP_NOT_QMP", `the QMP monitor at ${path} has pretty=on, which splits its lines`, details);
  }
  return new GodwitError("QMP_NOT_QMP", `what answers at ${path} is not QMP: ${shown}`, details);
}

/** The error for a connection on which no whole greeting came in time. */
export function withoutGreetingError(path: string, timeoutMs: number, receivedBytes: number): GodwitError {
  const details = { path, timeoutMs, receivedBytes };
  if (receivedBytes > 0) {
    return new GodwitError("QMP_NOT_QMP", `what answers at ${path} sent no whole QMP greeting`, details);
  }
  const message = `the QMP monitor at ${path} did not greet within ${seconds(timeoutMs)}: it serves one client at a time`;
  return new GodwitError("QMP_BUSY", message, details);
}

/** Whether QEMU has answered a command, and refused it: it is alive, and nothing was done. */
export function isRefusal(error: unknown): error is GodwitError {
  return error instanceof GodwitError && error.code === "QMP_COMMAND_FAILED";
}

/** A duration for people: `5 s`. */
export function seconds(ms: number): string {
  return `${Number((ms / 1000).toPrecision(2))} s`;
}

function isSocket(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isSocket() ?? true;
}
