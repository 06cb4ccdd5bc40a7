import type net from "node:net";
import { reopenForReading } from "../wire/reopen.ts";
import type { RawWindow } from "./window.ts";

/** A socket whose bytes go into a RawWindow. */
export interface Intake {
  readonly socket: net.Socket;
  /** Lets reading go on after `onBytes` returned false. */
  resume(): void;
}

export interface IntakeHandler {
  /** `bytes` were committed to the window; `isDrained`: the socket held no more. Returns whether to go on reading. */
  onBytes(bytes: number, isDrained: boolean): boolean;
  /** The other end has closed its side. */
  onEnd(): void;
  onError(error: Error): void;
}

/**
 * Reads an accepted socket into `window`.
 *
 * @param accepted must have been accepted with `pauseOnConnect`, so that nothing of it was read.
 */
export function openIntake(accepted: net.Socket, window: RawWindow, handler: IntakeHandler): Intake {
  return openInPlace(accepted, window, handler) ?? openWithCopy(accepted, window, handler);
}

/** Without a copy, where Node lets us. */
export function openInPlace(accepted: net.Socket, window: RawWindow, handler: IntakeHandler): Intake | undefined {
  let region: Uint8Array;
  const into = {
    buffer: () => {
      region = window.nextRegion();
      return region;
    },
    onBytes: (bytes: number) => {
      window.commit(bytes);
      return handler.onBytes(bytes, bytes < region.length);
    },
  };
  const socket = reopenForReading(accepted, into, { allowHalfOpen: true });
  if (socket === undefined) return undefined;
  socket.on("end", () => handler.onEnd());
  socket.on("error", (error) => handler.onError(error));
  socket.resume();
  return { socket, resume: () => void socket.resume() };
}

/** Everywhere: Node allocates, we copy. */
export function openWithCopy(accepted: net.Socket, window: RawWindow, handler: IntakeHandler): Intake {
  let waiting: Uint8Array | undefined;
  let hasEnded = false;
  const take = (chunk: Uint8Array): void => {
    for (let at = 0; at < chunk.length; ) {
      const region = window.nextRegion();
      const part = chunk.subarray(at, at + region.length);
      region.set(part);
      window.commit(part.length);
      at += part.length;
      if (!handler.onBytes(part.length, at === chunk.length && chunk.length < 65536)) {
        accepted.pause();
        waiting = at < chunk.length ? chunk.subarray(at) : undefined;
        return;
      }
    }
  };
  accepted.on("data", take);
  accepted.on("end", () => {
    hasEnded = true;
    if (waiting === undefined) handler.onEnd();
  });
  accepted.on("error", (error) => handler.onError(error));
  accepted.resume();
  return {
    socket: accepted,
    resume: () => {
      const chunk = waiting;
      waiting = undefined;
      if (chunk !== undefined) take(chunk);
      if (waiting !== undefined) return;
      if (hasEnded) handler.onEnd();
      else accepted.resume();
    },
  };
}
